import math

import numpy as np
import pytest
import torch
from scipy import linalg

from klprobe.metrics import Features
from klprobe.metrics._statistics import Moments, frechet, frechet_distance, frechet_influence, moments
from klprobe.metrics.fid import FID
from klprobe.types import InputError


def features(x, net="a net"):
    return Features(x, net)


def normal(n, seed, scale=1.0, shift=0.0, dim=5):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.linspace(0.5, 1.5, dim).double().diag() + 0.2
    return scale * torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mix + shift


def run(x, y, seed=0, **settings):
    return FID(**settings).measure(features(x), features(y), torch.Generator().manual_seed(seed))


def test_it_is_the_closed_form_of_scipys_matrix_root():
    x, y = normal(300, 0), normal(200, 1, scale=1.3, shift=0.4)
    a, b = np.cov(x.T.numpy()), np.cov(y.T.numpy())
    gap = (x.mean(0) - y.mean(0)).numpy()
    expected = gap @ gap + np.trace(a) + np.trace(b) - 2 * np.trace(linalg.sqrtm(a @ b)).real
    assert run(x, y)[0].value == pytest.approx(expected, rel=1e-9)


def test_it_is_that_of_torchmetrics():
    image = pytest.importorskip("torchmetrics.image.fid")

    class Plain(torch.nn.Module):
        num_features = 5

        def forward(self, x):
            return x

    with torch.random.fork_rng():
        theirs = image.FrechetInceptionDistance(feature=Plain()).set_dtype(torch.float64)
    x, y = normal(300, 0), normal(200, 1, scale=1.3, shift=0.4)
    theirs.update(x, real=False)
    theirs.update(y, real=True)
    assert run(x, y)[0].value == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_diagonal_normals_and_singular_covariances_have_their_closed_form():
    first = Moments(torch.tensor([1.0, 0.0, 0.0]).double(), torch.tensor([4.0, 1.0, 0.0]).double().diag())
    second = Moments(torch.zeros(3).double(), torch.tensor([1.0, 9.0, 0.0]).double().diag())
    found = frechet(first, second)
    assert found.distance == pytest.approx(1 + 1 + 4, rel=1e-12)
    assert frechet_distance(first, second) == pytest.approx(6, rel=1e-12)
    torch.testing.assert_close(found.forth, torch.tensor([0.5, 3.0, 0.0]).double().diag())
    torch.testing.assert_close(found.back, torch.tensor([2.0, 1 / 3, 0.0]).double().diag())


def test_the_influence_of_a_point_is_the_derivative_by_its_weight():
    x, y = normal(50, 0), normal(60, 1, scale=1.3, shift=0.3)
    own, other = Moments(x.mean(0), torch.cov(x.T, correction=0)), moments(y)
    influence = frechet_influence(x, own, other, frechet(own, other).forth)

    def weighted(k, step):
        weights = torch.full((50,), (1 - step) / 50, dtype=torch.float64)
        weights[k] += step
        mean = weights @ x
        return frechet(Moments(mean, (x - mean).T @ ((x - mean) * weights[:, None])), other).distance

    for k in range(5):
        slope = (weighted(k, 1e-5) - weighted(k, -1e-5)) / 2e-5
        assert slope == pytest.approx(float(influence[k]), rel=1e-5)


@pytest.mark.parametrize("start", [0, 1000])
def test_the_error_is_honest_and_the_extrapolation_removes_the_bias(start):
    """Over 60 data sets: z-scores against the population's distance have mean near 0 and spread near 1.

    A spread of 60 z-scores has a relative error of 9 %, hence 0.7 to 1.4; their mean 0.13, hence 0.5.
    """
    mix = torch.linspace(0.5, 1.5, 5).double().diag() + 0.2
    truth = frechet(
        Moments(torch.zeros(5).double(), mix.T @ mix), Moments(torch.full((5,), 0.3).double(), 1.44 * mix.T @ mix)
    ).distance
    scores = []
    for seed in range(start, start + 60):
        _, far = run(normal(200, 2 * seed), normal(200, 2 * seed + 1, scale=1.2, shift=0.3))
        scores.append((far.value - truth) / far.std_error)
    z = torch.tensor(scores)
    assert abs(z.mean()) < 0.5
    assert 0.7 < z.std() < 1.4


def test_equal_distributions_are_biased_at_finite_size_and_near_zero_at_infinite_size():
    now, far = run(normal(200, 0), normal(200, 1))
    assert now.value > 0
    assert far.value < now.value
    assert abs(far.value) < 4 * far.std_error
    assert now.better == far.better == "lower"
    assert now.net == far.net == "a net"


def test_small_sets_have_no_extrapolation_and_say_how_many_it_takes():
    now, far = run(normal(11, 0), normal(11, 1))
    assert math.isfinite(now.value)
    assert far.value is None
    assert "12 samples" in far.reason


def test_what_cannot_be_compared_is_refused():
    x = normal(100, 0)
    with pytest.raises(InputError, match="at least 6 samples"):
        run(x[:5], x)
    with pytest.raises(InputError, match="of one net"):
        FID().measure(features(x), features(x, "another net"), torch.Generator())
    with pytest.raises(InputError, match="features of shape"):
        run(x, x[:, :3])
    with pytest.raises(InputError, match="finite"):
        run(x, x / 0)
    with pytest.raises(InputError, match="2 divisions"):
        run(x, x, divisions=1)
