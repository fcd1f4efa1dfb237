import ast
import pathlib

import pytest
import torch

import klprobe
from klprobe.distributions.flows import Flow, Mixture
from klprobe.distributions.posteriors import LOG_2PI, DiagonalGaussian, standard_normal
from klprobe.estimators.maf import Maf


def standard_base(dim):
    zero = torch.zeros(1, dim, dtype=torch.float64)
    return Mixture(torch.ones(1, dtype=torch.float64), zero, zero + 1)


def some_flow(dim, base=None, seed=0):
    """A flow whose weights are nowhere near their start."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = Flow(base or standard_base(dim), dim, flows=3, width=16, layers=1).double()
        with torch.no_grad():
            for weight in flow.maps.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    return flow


def test_at_the_start_it_is_its_base():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = Flow(standard_base(5), 5, flows=3, width=64, layers=2).double()
    u = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(flow(u), -0.5 * u.square().sum(1) - 2.5 * LOG_2PI, atol=0.1)


@pytest.mark.parametrize("dim", [1, 2, 6])
def test_the_log_determinant_is_that_of_the_jacobian(dim):
    flow = some_flow(dim)

    def pushed(row):
        u = row[None]
        for transform in flow.maps:
            u = transform(u)[0].flip(1)
        return u[0]

    for row in torch.randn(5, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64):
        volume = torch.linalg.slogdet(torch.autograd.functional.jacobian(pushed, row))[1]
        expected = flow.base(pushed(row)[None])[0] + volume
        assert torch.allclose(flow(row[None])[0], expected, rtol=1e-10)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_density_integrates_to_one(groups):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(groups, 2, generator=generator, dtype=torch.float64)
    base = Mixture(torch.full((groups,), 1 / groups, dtype=torch.float64), means, torch.full_like(means, 0.5))
    line = torch.linspace(-12, 12, 481, dtype=torch.float64)
    with torch.no_grad():
        mass = some_flow(2, base)(torch.cartesian_prod(line, line)).exp().sum() * (line[1] - line[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-3)


def test_one_component_is_dmvis_flow_of_a_standard_normal():
    codes = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model, details = Maf(components=1, width=8).start(codes, codes, torch.Generator().manual_seed(0))
    assert details["components"] == 1
    assert torch.allclose(model.base.means, torch.zeros(1, 3), atol=0.1)
    assert torch.allclose(model.base.log_stds, torch.zeros(1, 3), atol=0.1)


def test_no_other_file_touches_nflows():
    root = pathlib.Path(klprobe.__file__).parent

    def imported(file):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                yield str(node.module)
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)

    users = {file.name for file in root.rglob("*.py") if any(name.split(".")[0] == "nflows" for name in imported(file))}
    assert users == {"flows.py"}


def test_more_flows_and_layers_fit_as_they_are_told():
    means = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    q = DiagonalGaussian(means, std=torch.full((200, 4), 0.5))
    small, large = (
        Maf(flows=n, layers=n, width=16, components=2, steps=20).estimate(
            q, standard_normal(4), generator=torch.Generator().manual_seed(0)
        )[0]
        for n in (1, 3)
    )
    assert large.details["parameters"] > 3 * small.details["parameters"]
