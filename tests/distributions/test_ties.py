"""Ties and atoms in two clouds: named where they are, on either side, and no alarm where there are none."""

import re

import pytest
import torch

import klprobe
from klprobe.distributions.inspection import check_clouds
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, standard_normal
from klprobe.distributions.priors import Cloud
from klprobe.distributions.ties import Ties, check_ties
from klprobe.estimators.knn import Knn
from klprobe.types import InputError

N = 2000


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def classes(*shape, seed=0):
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed)).double()


def gaussians(dim=2):
    return DiagonalGaussian(normals(N, dim) * 0.8, std=torch.full((N, dim), 0.6).double())


def rounded(samples, digits):
    return (samples * 10**digits).round() / 10**digits


NAMED = {
    "a density and a constant": (gaussians(), Cloud(torch.zeros(N, 2)), "p's samples are discrete.*infinite"),
    "samples and a constant": (SampleOnly(normals(N, 2)), Cloud(torch.full((N, 2), 3.0)), "latent 0 is 3 throughout.*infinite"),
    "a density and classes": (gaussians(), Cloud(classes(N, 2)), "latent 0 takes 3 values in 2,000 samples"),
    "samples and classes": (SampleOnly(normals(N, 2)), Cloud(classes(N, 2)), "p's samples are discrete where q"),
    "classes and samples": (SampleOnly(classes(N, 2)), Cloud(normals(N, 2)), "q's samples are discrete where p.*infinite"),
    "classes and a density": (SampleOnly(classes(N, 2)), standard_normal(2), "q's samples are discrete where p"),
    "one latent of p": (
        gaussians(),
        Cloud(torch.cat([normals(N, 1), torch.zeros(N, 1).double()], 1)),
        r"\(latent 1 is 0 throughout\)",
    ),
    "classes on both sides": (SampleOnly(classes(N, 2)), Cloud(classes(N, 2, seed=1)), "both sides are discrete.*classifier"),
    "other classes": (SampleOnly(classes(N, 2) + 1), Cloud(classes(N, 2, seed=1)), "values that p's never take.*infinite"),
    "another constant": (SampleOnly(torch.zeros(N, 2)), Cloud(torch.ones(N, 2)), "values that p's never take.*infinite"),
    "rectified and a density": (SampleOnly(normals(N, 2).relu()), standard_normal(2), "are exactly 0.*infinite"),
    "rectified on both sides": (SampleOnly(normals(N, 2).relu()), Cloud(normals(N, 2, seed=1).relu()), "both sides"),
    "a rectified prior": (SampleOnly(normals(N, 2)), Cloud(normals(N, 2, seed=1).relu()), "p's samples have an atom"),
    "rounded": (
        SampleOnly(rounded(normals(N, 1), 2)),
        Cloud(rounded(normals(N, 1, seed=1), 2)),
        "rounded numbers",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_ties_and_atoms_of_either_side_are_named_and_knn_refuses_them(name):
    q, p, words = NAMED[name]
    (check,) = check_ties(q, p)
    assert not check.passed
    assert re.search(words, check.message)
    with pytest.raises(InputError, match=r"knn (measures distances|takes one point)"):
        Knn().estimate(q, p, generator=torch.Generator().manual_seed(0))
    report = klprobe.estimate(q, p, methods=["knn"], marginals=False)
    assert not all(check.passed for check in report.checks)
    assert report.verdict != "resolved"


CLEAN = {
    "continuous": (SampleOnly(normals(N, 2)), Cloud(normals(N, 2, seed=1))),
    "float32 in one latent": (SampleOnly(normals(20_000, 1).float()), Cloud(normals(20_000, 1, seed=1).float())),
    "half precision": (SampleOnly(normals(N, 2).half()), Cloud(normals(N, 2, seed=1).half())),
    "bfloat16 in eight latents": (SampleOnly(normals(N, 8).bfloat16()), Cloud(normals(N, 8, seed=1).bfloat16())),
    "a density and samples": (gaussians(), Cloud(normals(N, 2, seed=1))),
    "few samples": (SampleOnly(normals(60, 2)), Cloud(normals(60, 2, seed=1))),
}


@pytest.mark.parametrize("name", CLEAN)
def test_independent_draws_of_densities_raise_no_alarm(name):
    q, p = CLEAN[name]
    assert all(check.passed for check in [*check_ties(q, p), *check_clouds(q, p)])
    Knn().estimate(q, p, generator=torch.Generator().manual_seed(0))


def test_two_densities_are_not_looked_at():
    assert check_ties(gaussians(), standard_normal(2)) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "make", [lambda z: rounded(z, 1), lambda z: rounded(z, 2), lambda z: z.relu(), lambda z: z.sign(), torch.zeros_like]
)
def test_independent_rounded_samples_are_not_called_shared(make, seed):
    q, p = (make(normals(N, 1, seed=2 * seed + side)) for side in (0, 1))
    (check,) = check_clouds(SampleOnly(q), Cloud(p))
    assert check.passed


@pytest.mark.parametrize("count", [1, 50])
def test_samples_that_are_shared_are_counted_however_few(count):
    q = normals(N, 2)
    (check,) = check_clouds(SampleOnly(q), Cloud(torch.cat([q[:count], normals(N, 2, seed=1)])))
    assert not check.passed
    assert check.message.startswith(f"{count} of 2000")


def test_values_are_counted_evenly_over_all_rows():
    """Sorted samples: the first 4096 would all be 0."""
    ties = Ties.of(torch.cat([torch.zeros(10_000, 1), normals(10_000, 1).float()]))
    assert not ties.coarse.any()
    assert ties.share[0] == pytest.approx(0.5, abs=0.01)
