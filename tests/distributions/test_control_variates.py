import math

import numpy as np
import torch

from klprobe.distributions.control_variates import GaussianControls, cross_fit
from klprobe.distributions.posteriors import DiagonalGaussian, standard_normal


def test_control_variates_keep_the_mean_and_take_their_part_of_the_variance():
    rng = np.random.default_rng(2)
    values, runs = [], 200
    subsets = [np.arange(0), np.arange(4)]
    for _ in range(runs):
        controls = rng.normal(size=(120, 4))
        target = 3.0 + controls @ [2.0, 0.0, -1.0, 0.5] + 0.3 * rng.normal(size=120)
        adjusted, _ = cross_fit(target[:, None], controls, np.zeros_like(controls), np.arange(120), 10**9, subsets)
        values.append((adjusted.residuals.mean(), adjusted.residuals.std() / math.sqrt(120)))
    means, errors = np.array(values).T
    assert abs(means.mean() - 3.0) < 4 * means.std() / math.sqrt(runs)
    assert errors.mean() < 0.2 * math.sqrt(5.34 / 120)
    assert 0.8 < means.std() / errors.mean() < 1.25


def test_useless_control_variates_are_left_out():
    rng = np.random.default_rng(3)
    target, controls = rng.normal(size=(60, 1)), rng.normal(size=(60, 30))
    adjusted, _ = cross_fit(target, controls, controls * 0, np.arange(60), 10**9, [np.arange(0), np.arange(30)])
    assert adjusted.residuals.std() <= target.std() * (1 + 1e-12)


def test_controls_of_points_drawn_without_replacement_leave_no_bias():
    """Of 60 points with a skewed control, half or all are visited; both means over many visits are the points' mean.

    When all are visited, controls that depend on the point alone know nothing more, and leave the mean as it is.
    """
    rng = np.random.default_rng(4)
    control = rng.exponential(size=(60, 1)) ** 2
    control -= control.mean()
    target = control**2
    for visited, runs in ((30, 4000), (60, 5)):
        means = []
        for _ in range(runs):
            points = rng.permutation(60)[:visited]
            seen = control[points]
            adjusted, _ = cross_fit(target[points], seen, seen, points, 60, [np.arange(1)])
            means.append(adjusted.residuals.mean() - target.mean())
        if visited == 60:
            np.testing.assert_allclose(means, 0, atol=1e-9 * target.mean())
        else:
            assert abs(np.mean(means)) < 4 * np.std(means) / math.sqrt(runs)


def test_every_control_of_a_gaussian_posterior_has_mean_zero_within_four_errors():
    g = torch.Generator().manual_seed(0)
    mean, std = torch.randn(40, 3, generator=g).double() * 2 + 5, torch.rand(40, 3, generator=g).double() + 0.05
    q = DiagonalGaussian(mean, std=std)
    points = torch.arange(40).repeat(500)
    controls, between = GaussianControls.of(q, standard_normal(3)).at(q.sample_at(points, g), points)
    error = (controls - between).std(0) / math.sqrt(len(points)) + 1e-12
    assert (np.abs(controls.mean(0)) <= 4.5 * error).all()
    assert np.abs(between.mean(0)).max() < 1e-9


def test_a_thousand_latents_leave_the_densities_controls_alone_which_have_mean_zero():
    """Controls of every latent would be 5,004 columns, whose covariance took minutes, and gigabytes."""
    g = torch.Generator().manual_seed(0)
    q = DiagonalGaussian(torch.randn(20, 1000, generator=g).double(), std=torch.rand(20, 1000, generator=g).double() + 0.05)
    points = torch.arange(20).repeat(50)
    found = GaussianControls.of(q, standard_normal(1000))
    controls, between = found.at(q.sample_at(points, g), points)
    assert controls.shape == (1000, 4)
    assert [list(subset) for subset in found.subsets] == [[], [0, 1, 2, 3]]
    error = (controls - between).std(0) / math.sqrt(len(points)) + 1e-9
    assert (np.abs(controls.mean(0)) <= 4.5 * error).all()
    assert np.abs(between.mean(0)).max() < 1e-9
