import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from klprobe.distributions.flows import Mixture
from klprobe.distributions.posteriors import DiagonalGaussian, standard_normal
from klprobe.estimators._gaussian_mixture import fit_by_em, start_mixture
from klprobe.estimators.gmm import Gmm


def reference(mixture):
    parts = Independent(Normal(mixture.means.detach(), mixture.log_stds.detach().exp()), 1)
    return MixtureSameFamily(Categorical(logits=mixture.logits.detach()), parts)


@pytest.mark.parametrize(("std", "rtol"), [(1.0, 1e-12), (1e-2, 1e-9), (1e-3, 1e-7)])
def test_the_log_density_is_torchs_mixture(std, rtol):
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(7, 5, generator=generator, dtype=torch.float64)
    weights = torch.rand(7, generator=generator, dtype=torch.float64).add(0.1)
    mixture = Mixture(weights / weights.sum(), means, torch.full_like(means, std**2))
    u = means + std * torch.randn(7, 5, generator=generator, dtype=torch.float64)
    assert torch.allclose(mixture(u), reference(mixture).log_prob(u), rtol=rtol)


def test_em_starts_where_scikit_learn_ends_and_leaves_numpys_state_alone():
    codes = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again = (fit_by_em(codes, 4, 20, seed=3) for _ in range(2))
    assert (before == np.random.get_state()[1]).all()  # noqa: NPY002
    assert torch.equal(first.means, again.means)
    assert first(codes).mean() > Normal(0.0, 1.0).log_prob(codes).sum(1).mean()
    assert torch.allclose(first(codes), reference(first).log_prob(codes))


@pytest.mark.parametrize("clumps", [1, 10])
def test_as_many_components_are_kept_as_held_out_codes_bear_out(clumps):
    generator = torch.Generator().manual_seed(0)
    centres = 5 * torch.randn(clumps, 2, generator=generator, dtype=torch.float64)

    def draw(n):
        chosen = torch.randint(clumps, (n,), generator=generator)
        return centres[chosen] + torch.randn(n, 2, generator=generator, dtype=torch.float64)

    mixture = start_mixture(draw(300), draw(2000), 100, 20, generator)
    assert len(mixture.means) == clumps


def test_fewer_components_where_points_are_few_and_the_report_says_so():
    means = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    q = DiagonalGaussian(means, std=torch.full((60, 3), 0.2))
    (found, _) = Gmm(steps=100).estimate(q, standard_normal(3), generator=torch.Generator().manual_seed(0))
    assert found.details["components"] < found.details["settings"]["components"] == 100


def test_groups_that_lie_apart_are_found():
    """Two latents of -1 or +1 by the toss of a coin, plus noise of 0.1: KL in closed form."""
    sides = 2.0 * torch.randint(2, (3000, 2), generator=torch.Generator().manual_seed(0)) - 1
    means = sides + 0.08 * torch.randn(3000, 2, generator=torch.Generator().manual_seed(1))  # and 0.06 within a point: 0.1
    q = DiagonalGaussian(means, std=torch.full((3000, 2), 0.06))
    found = Gmm(components=10, steps=200).estimate(q, standard_normal(2), generator=torch.Generator().manual_seed(0))[0]
    # the groups do not overlap: E log q = -log 2 - log(0.1 sqrt(2 pi e)), E log p = -(1 + 0.01)/2 - log sqrt(2 pi), per latent
    truth = 2 * (-np.log(2) - np.log(0.1) - 0.5 + 0.5 * 1.01)
    assert -0.02 - 4 * found.std_error <= found.value - truth <= 4 * found.std_error
