"""A fitted flow is kept, read again, and is a prior like others: same density, draws that follow it, no trust in its file."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from klprobe.cli import main
from klprobe.cli.prior import parse_prior
from klprobe.distributions.flows import Flow, FlowPrior, Mixture, load_flow, save_flow
from klprobe.distributions.posteriors import DiagonalGaussian, sample_prior, standard_normal
from klprobe.distributions.whitening import Whitening
from klprobe.estimators._density import log_density
from klprobe.estimators.maf import Maf
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import InputError

D = 3


def some_flow(dim=D, seed=0, components=4, flows=2):
    """A flow and a whitening whose numbers are nowhere near their start."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(components, dim, generator=generator, dtype=torch.float64)
    base = Mixture(torch.full((components,), 1 / components, dtype=torch.float64), means, torch.full_like(means, 0.4))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = Flow(base, dim, flows=flows, width=8, layers=1).double()
        with torch.no_grad():
            for weight in flow.maps.parameters():
                weight.add_(0.2 * torch.randn_like(weight))
    rotation = torch.eye(dim, dtype=torch.float64) + 0.1
    std = torch.linspace(0.5, 2, dim, dtype=torch.float64)
    log_det = float(torch.linalg.slogdet(rotation)[1] - std.log().sum())
    return flow, Whitening(torch.arange(dim).double(), std, rotation, log_det, 0.0)


@pytest.mark.parametrize(("dim", "flows"), [(1, 2), (3, 2), (5, 0)])
def test_a_kept_flow_has_the_density_that_was_kept(tmp_path, dim, flows):
    flow, whitening = some_flow(dim, flows=flows)
    save_flow(tmp_path / "flow.safetensors", flow, whitening, {"from": "test"})
    z = 3 * torch.randn(200, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    direct = log_density(flow, whitening.white(z)) + whitening.log_det
    found = load_flow(tmp_path / "flow.safetensors").log_prob(z)
    torch.testing.assert_close(found, direct, rtol=1e-12, atol=1e-12)
    with safe_open(tmp_path / "flow.safetensors", "pt") as file:
        assert json.loads(file.metadata()["klprobe.settings"]) == {"from": "test"}


def test_the_density_integrates_to_one_in_z():
    prior = FlowPrior(*some_flow(2))
    line = torch.linspace(-15, 15, 401, dtype=torch.float64)
    with torch.no_grad():
        mass = prior.log_prob(torch.cartesian_prod(line, line)).exp().sum() * (line[1] - line[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_draws_follow_the_density(seed):
    """In one dimension: the distribution function by quadrature against 20,000 draws (Kolmogorov, level 1e-6)."""
    prior = FlowPrior(*some_flow(1, seed))
    z = sample_prior(prior, 20_000, torch.Generator().manual_seed(seed)).flatten().sort().values
    line = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
    with torch.no_grad():
        cumulative = prior.log_prob(line[:, None]).exp().cumsum(0) * (line[1] - line[0])
    expected = torch.from_numpy(np.interp(z.numpy(), line.numpy(), cumulative.numpy()))
    steps = torch.arange(1, len(z) + 1) / len(z)
    assert float((expected - steps).abs().max()) < math.sqrt(math.log(2 / 1e-6) / 2 / len(z)) + 1e-3


def test_the_inverse_undoes_the_flow_and_shapes_are_torchs():
    flow, whitening = some_flow()
    prior = FlowPrior(flow, whitening)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert prior.sample().shape == (D,)
        assert prior.sample((2, 5)).shape == (2, 5, D)
        assert prior.sample((0,)).shape == (0, D)
    assert prior.log_prob(torch.zeros(2, 5, D)).shape == (2, 5)
    z = torch.randn(50, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(whitening.undo(whitening.white(z)), z, rtol=1e-10, atol=1e-10)


def test_rows_at_a_time_change_nothing(monkeypatch):
    prior = FlowPrior(*some_flow())
    z = torch.randn(50, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = prior.log_prob(z)
    monkeypatch.setattr("klprobe.distributions.flows.ROWS", 7)
    torch.testing.assert_close(prior.log_prob(z), whole, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A posterior whose codes are not normal, what maf says of it, and the flow that it kept."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(1500, 2, generator=generator, dtype=torch.float64)
    mean[:, 1] = mean[:, 0].square() - 1 + 0.3 * mean[:, 1]
    q = DiagonalGaussian(mean, std=torch.full_like(mean, 0.5))
    path = tmp_path_factory.mktemp("flow") / "flow.safetensors"
    maf = Maf(steps=500, width=32, flows=2, components=5, save=path)
    estimates = maf.estimate(q, standard_normal(2), generator=torch.Generator().manual_seed(1))
    return q, path, {e.target: e for e in estimates}


def test_kl_against_ones_own_fitted_flow_is_what_mafs_bound_leaves(fitted):
    """KL[q_N||p] - E[log t - log p] = KL[q_N||t].

    The bound mixes a share w of p into t: that lowers log t by -log(1 - w) at most, and raises it where t is
    poor (0.02 nats allowed).
    """
    q, path, bounds = fitted
    flow = load_flow(path)
    against_p, against_flow = (
        MonteCarlo(num_samples=8000).estimate(q, prior, generator=torch.Generator().manual_seed(2))[0]
        for prior in (standard_normal(2), flow)
    )
    bound = bounds["empirical"]
    slack = 4 * math.hypot(against_p.std_error, against_flow.std_error, bound.std_error)
    share = -math.log1p(-bound.details["prior_weight"])
    gap = against_p.value - bound.value
    assert gap - slack - share <= against_flow.value <= gap + slack + 0.02
    assert against_flow.value < against_p.value / 3, "the flow is much nearer to q than N(0, I) is"


def test_what_is_kept_is_said_in_header_and_details_and_is_strict_json(fitted):
    _, path, bounds = fitted
    details = bounds["empirical"].details
    json.dumps(dict(details), allow_nan=False)
    assert details["settings"]["save"] == str(path)
    with safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["klprobe.settings"])
        assert file.metadata()["klprobe.kind"] == "flow"
    assert told["chosen_step"] == details["chosen_step"]
    assert told["versions"]
    assert not [name for name in path.parent.iterdir() if name != path]


def test_nothing_is_kept_of_a_fit_that_did_not_end(tmp_path, fitted):
    def stop(*_):
        raise KeyboardInterrupt

    maf = Maf(steps=500, width=8, flows=1, components=2, save=tmp_path / "flow.safetensors")
    with pytest.raises(KeyboardInterrupt):
        maf.estimate(fitted[0], standard_normal(2), generator=torch.Generator().manual_seed(1), progress=stop)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_is_found_before_the_fit(tmp_path, fitted):
    for path in (tmp_path, tmp_path / "no" / "such" / "flow"):
        with pytest.raises(InputError, match=r"--maf.save .* cannot be written"):
            Maf(save=path).estimate(fitted[0], standard_normal(2), generator=torch.Generator().manual_seed(1))


def test_the_command_line_keeps_a_flow_and_takes_it_as_a_prior(tmp_path, capsys):
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "q.npz", mean=draw.normal(2, 1, size=(200, 2)), std=np.full((200, 2), 0.5))
    q, flow = str(tmp_path / "q.npz"), str(tmp_path / "flow.safetensors")
    fit = ["--methods", "maf", "--maf.steps", "60", "--maf.width", "8", "--maf.components", "1", "--maf.save", flow, "--json"]
    assert main(["estimate", "--checkpoint", q, *fit]) == 0
    capsys.readouterr()
    use = [
        "--prior",
        f"flow:{flow}",
        "--methods",
        "monte-carlo",
        "classifier",
        "--num-samples",
        "500",
        "--classifier.steps",
        "20",
    ]
    assert main(["estimate", "--checkpoint", q, *use, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (exact,) = [e for e in told["estimates"] if e["bound"] == "exact"]
    assert exact["value"] < 0.2, "KL to N(0, I) is about 4 nats"
    assert told["provenance"]["prior"] == "FlowPrior(flow.safetensors)"
    assert not told["not_done"]
    assert main(["estimate", "--checkpoint", flow]) == 2
    assert "--prior flow:" in capsys.readouterr().err


def parse(path):
    return parse_prior(f"flow:{path}", D, None, lambda _: pytest.fail("no data are encoded"))


def damaged(tmp_path, change):
    save_flow(tmp_path / "flow.safetensors", *some_flow(), {})
    tensors = load_file(tmp_path / "flow.safetensors")
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / "bad.safetensors", {"klprobe.kind": "flow"})
    return tmp_path / "bad.safetensors"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("base.means"), "base.means"),
        (lambda t: t.update(extra=torch.zeros(1)), "extra"),
        (lambda t: t.update({"base.means": torch.zeros(4, 99)}), "another shape"),
        (lambda t: t.update({"maps.0.autoregressive_net.initial_layer.weight": torch.zeros(10**5, 1)}), "another shape"),
        (lambda t: t.update({"maps.999999999.x": torch.zeros(1)}), "missing, too much"),
        (lambda t: t.update({"whitening.rotation": torch.zeros(D, D)}), "cannot be undone"),
        (lambda t: t.update({"whitening.std": -torch.ones(D)}), "cannot be undone"),
        (lambda t: t.update({"base.means": torch.full((4, D), math.nan)}), "not finite"),
        (lambda t: t.pop("whitening.mean"), "whitening.mean"),
    ],
)
def test_tensors_that_make_no_flow_are_refused(tmp_path, change, words):
    with pytest.raises(InputError, match=f"bad.safetensors holds tensors that do not make a flow.*{words}"):
        parse(damaged(tmp_path, change))


def test_files_that_are_no_flow_are_refused_and_run_nothing(tmp_path):
    save_flow(tmp_path / "flow.safetensors", *some_flow(), {})
    whole = (tmp_path / "flow.safetensors").read_bytes()
    for size in range(0, len(whole), 997):
        (tmp_path / "cut.safetensors").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut.safetensors"):
            parse(tmp_path / "cut.safetensors")

    class Trap:
        def __reduce__(self):
            return pytest.fail, ("the pickle was opened",)

    (tmp_path / "trap").write_bytes(pickle.dumps(Trap()))
    save_file({"mean": torch.zeros(3, 2)}, tmp_path / "other.safetensors")
    for name, words in (("trap", "damaged"), ("other.safetensors", "no flow"), ("missing", "does not exist")):
        with pytest.raises(InputError, match=words):
            parse(tmp_path / name)


def test_a_flow_of_another_dimension_is_refused(tmp_path, capsys):
    save_flow(tmp_path / "flow.safetensors", *some_flow(), {})
    np.savez(tmp_path / "q.npz", mean=np.zeros((9, 2)), std=np.ones((9, 2)))
    assert main(["estimate", "--checkpoint", str(tmp_path / "q.npz"), "--prior", f"flow:{tmp_path / 'flow.safetensors'}"]) == 2
    assert "2 latents, but the prior has" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(), (0,), (10**9, 0), (2, 3, 4), (3, 1)])
@pytest.mark.parametrize(
    "name", ["whitening.mean", "base.logits", "whitening.rotation", "maps.0.autoregressive_net.initial_layer.weight"]
)
def test_a_tensor_of_any_shape_is_refused(tmp_path, name, shape):
    flow, whitening = some_flow()
    save_flow(tmp_path / "a.safetensors", flow, whitening, {})
    tensors = load_file(tmp_path / "a.safetensors") | {name: torch.zeros(shape)}
    save_file(tensors, tmp_path / "b.safetensors", {"klprobe.kind": "flow"})
    with pytest.raises(InputError, match="do not make a flow"):
        load_flow(tmp_path / "b.safetensors")
