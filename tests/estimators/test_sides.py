"""Disjoint draws of both sides, a prior known by a cloud, and what is reported with a true log-ratio handed in."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from klprobe.distributions.clusters import with_rows
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, standard_normal
from klprobe.distributions.priors import Cloud
from klprobe.distributions.problems import shifted_gaussians, two_samples
from klprobe.distributions.whitening import Whitening
from klprobe.estimators import _ratio_report
from klprobe.estimators._ratio_report import evaluate
from klprobe.estimators._sides import Moments, Sides, split_points
from klprobe.estimators.classifier import Classifier
from klprobe.estimators.denoising import Denoising
from klprobe.estimators.knn import Knn
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.estimators.telescoping import Chain, Telescoping, _certificates, waymark_moments
from klprobe.types import CapabilityError, InputError

NONE_HIGH = torch.zeros(10, dtype=torch.float64)
"""Log-ratios at stop codes that no ceiling cuts."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(count, dim=2):
    """Samples that say which they are."""
    return torch.arange(count, dtype=torch.float32)[:, None].expand(count, dim) + 0.0


def test_the_parts_of_a_cloud_share_no_sample_and_each_is_handed_out_once():
    sides = Sides.of(SampleOnly(numbered(50)), Cloud(numbered(100)), seeded(), method="test")
    fit = set(sides.fit_p(2000)[:, 0].tolist())
    parts = [getattr(sides.prior, name) for name in ("stop", "centre", "check", "report")]
    seen = [torch.cat([part(7), part(1000), part(5)])[:, 0].tolist() for part in parts]
    assert [len(part) for part in seen] == [10, 5, 5, 20]
    assert sorted([*fit, *seen[0], *seen[1], *seen[2], *seen[3]]) == list(range(100))


def test_a_priors_sampler_never_runs_dry():
    sides = Sides.of(SampleOnly(numbered(50)), standard_normal(2), seeded(), method="test")
    assert len(sides.prior.report(5000)) == len(sides.prior.stop(5000)) == 5000


def test_the_points_of_q_that_fit_stop_and_report_are_disjoint():
    sides = Sides.of(SampleOnly(numbered(100)), standard_normal(2), seeded(), method="test")
    fit = set(sides.fit_q(3000)[:, 0].tolist())
    stop = sides.once_q(sides.points.stop, 500)[:, 0].tolist()
    assert len(stop) == len(set(stop)) == 10
    assert not fit & set(stop)
    assert not (fit | set(stop)) & set(sides.points.report.tolist())


@pytest.mark.parametrize("samples", [numbered(10), numbered(39)])
def test_a_cloud_too_small_to_split_is_refused_with_its_size(samples):
    with pytest.raises(InputError, match=f"{len(samples)} are too few"):
        Sides.of(SampleOnly(numbered(50)), Cloud(samples), seeded(), method="test")


@pytest.mark.parametrize("samples", [torch.zeros(1, 2), torch.zeros(5), torch.zeros(5, 0)])
def test_what_is_no_cloud_is_refused(samples):
    with pytest.raises(InputError, match="shape"):
        Cloud(samples)


def test_two_clouds_give_a_bound_of_the_kl_between_what_they_were_drawn_from():
    pair = shifted_gaussians(3, 0.5)
    q, p = (_draw(side, 6000, i) for i, side in enumerate((pair.q, pair.p)))
    small = Classifier(width=32, steps=200, batch_size=128, check_every=50)
    found = {e.quantity: e for e in small.estimate(SampleOnly(q), Cloud(p), generator=seeded())}
    assert {e.target for e in found.values()} == {"population"}
    e = found["nwj"]
    assert e.details["prior_samples"] == 1200, "a fifth of the cloud, and no sample twice"
    # 4,200 codes of each side fit 10 weights: some hundredths of a nat; the ceiling log 1200 - 5 = 2.1 cuts little
    assert 0.5 - 0.15 - 4 * e.std_error < e.value < 0.5 + 4 * e.std_error


def _draw(side, count, seed):
    from klprobe.distributions.posteriors import sample_with

    return sample_with(side, count, seeded(seed + 10))


@pytest.mark.parametrize("estimator", [MonteCarlo()])
def test_methods_that_need_the_priors_density_say_that_a_cloud_has_none(estimator):
    q = DiagonalGaussian(torch.zeros(30, 2), std=torch.ones(30, 2))
    with pytest.raises(CapabilityError, match="cloud of 40 samples"):
        estimator.estimate(q, Cloud(torch.zeros(40, 2)), generator=seeded())


def true_ratio(pair):
    return lambda z: (pair.q.log_prob(z) - pair.p.log_prob(z)).double()


def z_scores(kl, seeds):
    """Of the five quantities with the true log-ratio handed in, two clouds of 2,000 points each."""
    pair = shifted_gaussians(4, kl)
    scores = {}
    for seed in range(seeds):
        problem = two_samples(pair, 2000)
        q = SampleOnly(problem.posterior.sample_at(torch.arange(2000), seeded(2 * seed)))
        sides = Sides.of(q, Cloud(_draw(pair.p, 20_000, 5000 + seed)), seeded(seed), method="test")
        for e in evaluate(sides, true_ratio(pair), NONE_HIGH, 1000, 100_000).estimates("test"):
            scores.setdefault(e.quantity, []).append((e.value - kl) / e.std_error)
    return scores


@pytest.mark.slow
@pytest.mark.parametrize("kl", [0.05, 0.3])
def test_errors_are_honest_on_two_clouds_with_the_true_ratio(kl):
    """Mean 0 within 4 / sqrt(100), variance 1 within 4 sqrt(2 / 100); the clip at log 4000 - 5 = 3.3 costs little."""
    for name, z in z_scores(kl, 100).items():
        z = np.asarray(z)
        assert abs(z.mean()) <= 0.4 + 0.1, (name, z.mean())
        assert abs(z.var() - 1) <= 4 * math.sqrt(2 / 100), (name, z.var())


@pytest.mark.parametrize(("dim", "least", "high"), [(2, 20_000, 80_000), (50, 4000, 16_000), (1000, 1000, 4000)])
def test_many_latents_get_fewer_prior_draws_and_a_low_ceiling_four_times_as_many(dim, least, high, monkeypatch):
    monkeypatch.setattr(_ratio_report, "PRIOR_NUMBERS", 200_000)
    sides = Sides.of(SampleOnly(numbered(50, dim)), standard_normal(dim), seeded(), method="test")
    for on_stop, count in ((NONE_HIGH, least), (NONE_HIGH + 9.0, high)):
        logits = evaluate(sides, lambda z: z[:, 0].double(), on_stop, 1000, 20_000)
        assert (len(logits.on_p), len(logits.centre)) == (count, least // 10)


def test_a_thousand_latents_are_read_at_a_tenth_of_the_default_prior_draws():
    most = Telescoping().num_prior_samples
    assert _ratio_report.PRIOR_NUMBERS == 100 * most == 1000 * (most // 10)


@pytest.mark.parametrize("seed", range(2))
def test_with_the_true_ratio_two_clouds_agree_within_four_errors(seed):
    pair = shifted_gaussians(4, 0.3)
    sides = Sides.of(
        SampleOnly(_draw(pair.q, 4000, seed)), Cloud(_draw(pair.p, 20_000, seed + 50)), seeded(seed), method="test"
    )
    for e in evaluate(sides, true_ratio(pair), NONE_HIGH, 1000, 100_000).estimates("test"):
        assert abs(e.value - 0.3) <= 4 * e.std_error, e.quantity


@pytest.mark.slow
def test_denoisings_error_is_honest_with_denoisers_that_are_known():
    """Both sides Gaussian, p known and q's linear denoiser from 400,000 codes: z-scores over 100 seeds."""
    pair = shifted_gaussians(2, 0.5)
    small = Denoising(steps=0, num_samples=2000)
    z = []
    for seed in range(100):
        e = small.estimate(two_samples(pair, 2000).posterior, pair.p, generator=seeded(seed))[0]
        z.append((e.value - 0.5) / e.std_error)
    z = np.asarray(z)
    assert abs(z.mean()) <= 0.5, z.mean()
    assert abs(z.var() - 1) <= 4 * math.sqrt(2 / 100), z.var()


@pytest.mark.slow
def test_every_links_certificate_is_honest_where_its_log_ratio_is_true():
    """Waymarks of Gaussians are Gaussians: NWJ of the true ratio against each link's KL, z-scores over 100 seeds.

    The clip at log 2000 - 5 = 2.6 costs links of a tenth of a nat nothing.
    """
    pair, links = shifted_gaussians(3, 0.4), 2
    of = [Moments(side.mean, torch.eye(3).double()) for side in (pair.q, pair.p)]
    marks = waymark_moments(*of, links)
    truths = [0.5 * float((a.mean - b.mean).square().sum()) for a, b in pairwise(marks)]
    z = [[] for _ in range(links)]
    for seed in range(100):
        q = SampleOnly(_draw(pair.q, 10_000, seed))
        sides = Sides.of(q, pair.p, seeded(seed), method="test")
        chain = Chain(Whitening.none(torch.zeros(1, 3).double()), links, 4, 1, seeded())
        chain.set_quadratic(marks)
        for scores, link, truth in zip(z, _certificates(chain, sides), truths, strict=True):
            scores.append((link["lower"] - truth) / link["std_error"])
    for scores in map(np.asarray, z):
        assert abs(scores.mean()) <= 0.4, scores.mean()
        assert abs(scores.var() - 1) <= 1.3 * 4 * math.sqrt(2 / 100), scores.var()


def grouped(copies, sizes, dim=3):
    """Codes in groups of these sizes: copies of one code, or given groups of different codes; and the group of each row."""
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    g = torch.Generator().manual_seed(0)
    codes = torch.randn(len(groups), dim, generator=g, dtype=torch.float64)
    mixed = torch.randperm(len(groups), generator=g)
    if copies:
        codes = codes[: len(sizes)][groups]
        return SampleOnly(codes[mixed]), groups[mixed]
    return with_rows(SampleOnly(codes[mixed]), groups=groups[mixed]), groups[mixed]


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("sizes", [[20] * 100, [1] * 50 + [200] + [3] * 30])
def test_no_group_or_copy_is_in_two_parts_of_the_points(copies, sizes):
    q, groups = grouped(copies, sizes)
    split = split_points(q, seeded(), method="test")
    parts = [set(groups[part].tolist()) for part in split]
    assert sorted(torch.cat(list(split)).tolist()) == list(range(len(groups)))
    assert [len(part) for part in parts] == [len(sizes) - len(parts[1]) - len(parts[2]), *(len(p) for p in parts[1:])]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert [len(part) for part in parts[1:]] == [math.ceil(share * len(sizes)) for share in (0.1, 0.2)]


def test_too_few_groups_to_split_are_refused_with_their_number():
    with pytest.raises(InputError, match="10 groups are too few"):
        split_points(grouped(False, [30] * 10)[0], seeded(), method="test")


@pytest.mark.parametrize("copies", [True, False])
def test_a_lower_bound_from_grouped_codes_has_the_error_of_as_many_groups(copies):
    """With the true log-ratio handed in: 40 data sets of 60 groups of 10 whose codes are nearly the same."""
    scores = []
    for seed in range(40):
        g = torch.Generator().manual_seed(seed)
        codes = torch.randn(60, 1, generator=g, dtype=torch.float64).repeat_interleave(10, 0) + 0.5
        if not copies:
            codes += 0.01 * torch.randn(600, 1, generator=g, dtype=torch.float64)
        q = SampleOnly(codes) if copies else with_rows(SampleOnly(codes), groups=torch.arange(600) // 10)
        sides = Sides.of(q, standard_normal(1), seeded(seed), method="test")
        found = evaluate(sides, lambda z: (0.5 * z - 0.125)[:, 0], NONE_HIGH, 1000, 20_000).estimates("test")
        mean = found[0]
        scores.append((mean.value - 0.125) / mean.std_error)
    assert abs(np.mean(scores)) < 4 / math.sqrt(40)
    assert 0.4 < np.var(scores) < 2.2, "12 groups are reported on: a t-tail beside 4 sqrt(2 / 40)"


def test_nearest_neighbours_are_those_of_one_code_a_group():
    q, _ = grouped(True, [20] * 300)
    found = Knn().estimate(q, standard_normal(3), generator=seeded())[0]
    assert found.num_samples == 300
    assert abs(found.value) < 4 * found.std_error + 0.1
    with pytest.raises(InputError, match="would be misplaced"):
        Knn().estimate(grouped(False, [1] * 100 + [300])[0], standard_normal(3), generator=seeded())
