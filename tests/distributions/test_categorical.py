"""A categorical latent's KL and mutual information: exact for the points, bounds with honest errors for the population."""

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from klprobe.distributions.categorical import Classes
from klprobe.types import InputError

K = 6


def drawn(num_points: int, seed: int, sharpness: float = 1.5) -> torch.Tensor:
    """Rows q(c|x_n) of points drawn from a population whose q(c) is not uniform."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num_points, K, generator=generator, dtype=torch.float64)
    return (sharpness * noise + torch.linspace(0, 1, K, dtype=torch.float64)).softmax(1)


def by_name(classes: Classes, **rows: torch.Tensor) -> dict[tuple[str, str, str], tuple[float, float]]:
    return {(e.quantity, e.target, e.bound): (e.value, e.std_error) for e in classes.estimates(**rows)}


@pytest.mark.parametrize("prior", [None, torch.linspace(1, 3, K).double() / torch.linspace(1, 3, K).double().sum()])
def test_the_numbers_of_the_points_at_hand_are_torchs(prior):
    probs = drawn(50, 0)
    found = by_name(Classes(probs, prior))
    p = Categorical(probs=torch.full((K,), 1 / K).double() if prior is None else prior)
    average = float(kl_divergence(Categorical(probs=probs), p).mean())
    kl = float(kl_divergence(Categorical(probs=probs.mean(0)), p))
    information = float(kl_divergence(Categorical(probs=probs), Categorical(probs=probs.mean(0))).mean())
    assert found["average-kl", "population", "exact"][0] == pytest.approx(average, rel=1e-12)
    assert found["kl", "empirical", "exact"] == (pytest.approx(kl, rel=1e-12), 0.0)
    assert found["mutual-information", "empirical", "exact"] == (pytest.approx(information, rel=1e-12), 0.0)


def test_leave_one_out_and_jackknife_are_those_of_a_slow_loop():
    probs = drawn(30, 1)
    found = by_name(Classes(probs))
    uniform, n = Categorical(probs=torch.full((K,), 1 / K).double()), len(probs)
    others = [torch.cat([probs[:i], probs[i + 1 :]]).mean(0) for i in range(n)]
    left_out = sum(float((probs[i] * (others[i] * K).log()).sum()) for i in range(n)) / n
    values = torch.stack([kl_divergence(Categorical(probs=q), uniform) for q in others])
    error = math.sqrt((n - 1) * float(values.var(correction=0)))
    assert found["leave-one-out", "population", "lower"] == (pytest.approx(left_out, rel=1e-12), pytest.approx(error, rel=1e-9))


def test_points_with_weights_and_clusters_are_left_out_as_a_slow_loop_leaves_them_out():
    probs, g = drawn(40, 1), torch.Generator().manual_seed(0)
    clusters, weights = torch.arange(40) // 4, torch.rand(40, generator=g, dtype=torch.float64) + 0.1
    weights /= weights.mean()
    found = by_name(Classes(probs), weights=weights, clusters=clusters)
    uniform = Categorical(probs=torch.full((K,), 1 / K).double())

    def mixed(some: torch.Tensor) -> torch.Tensor:
        return (weights[some, None] * probs[some]).sum(0) / weights[some].sum()

    others = [mixed(clusters != c) for c in range(10)]
    left_out = sum(float(weights[i] * (probs[i] * (others[clusters[i]] * K).log()).sum()) for i in range(40)) / 40
    values = torch.stack([kl_divergence(Categorical(probs=q), uniform) for q in others])
    error = math.sqrt(9 * float(values.var(correction=0)))
    assert found["leave-one-out", "population", "lower"] == (pytest.approx(left_out, rel=1e-9), pytest.approx(error, rel=1e-9))
    kl = float(kl_divergence(Categorical(probs=mixed(clusters >= 0)), uniform))
    assert found["kl", "empirical", "exact"][0] == pytest.approx(kl, rel=1e-9)
    alone = by_name(Classes(probs), weights=torch.ones(40).double(), clusters=torch.arange(40))
    for name, (value, error) in by_name(Classes(probs)).items():
        assert alone[name] == (pytest.approx(value, rel=1e-9), pytest.approx(error, rel=1e-6))
    assert ("leave-one-out", "population", "lower") not in by_name(Classes(probs), clusters=torch.zeros(40).long())


def test_the_populations_values_lie_between_the_bounds_with_honest_errors():
    """100 data sets: the mean of each bound within 4 standard errors of its side, and z-scores about as wide as they say.

    A sample variance of 100 values of mean 1 has standard error sqrt(2 / 99) = 0.14: 4 of them below, and above some more,
    since the jackknife errs upwards.
    """
    large = by_name(Classes(drawn(1_000_000, 99)))
    runs = [by_name(Classes(drawn(60, seed))) for seed in range(100)]
    for truth, lower, upper in (
        ("kl", ("leave-one-out", "population", "lower"), ("kl", "population", "upper")),
        ("mutual-information", ("mutual-information", "population", "lower"), ("mutual-information", "population", "upper")),
    ):
        exact = large[truth, "empirical", "exact"][0]
        for key, sign in ((lower, -1), (upper, 1)):
            values = torch.tensor([run[key][0] for run in runs], dtype=torch.float64)
            errors = torch.tensor([run[key][1] for run in runs], dtype=torch.float64)
            assert sign * (float(values.mean()) - exact) > -4 * float(values.std()) / 10
            spread = float(((values - values.mean()) / errors).square().mean())
            assert 1 - 4 * 0.14 < spread < 1 + 6 * 0.14


def test_the_plug_in_bias_is_what_it_is_said_to_be():
    """KL[q||p] = 0: all of the plug-in's mean is bias; 200 data sets show it to a few percent."""
    probs = [
        (2 * torch.randn(40, K, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(1)
        for seed in range(200)
    ]
    found = [next(e for e in Classes(p).estimates() if (e.quantity, e.target) == ("kl", "empirical")) for p in probs]
    values, said = torch.tensor([e.value for e in found]), torch.tensor([e.details["plug_in_bias"] for e in found])
    assert abs(float(values.mean() - said.mean())) < 4 * float(values.std()) / math.sqrt(200)


def test_one_class_a_point_and_a_class_that_only_one_point_uses_are_said_as_they_are():
    found = by_name(Classes(torch.eye(3, dtype=torch.float64)))
    assert found["mutual-information", "empirical", "exact"][0] == pytest.approx(math.log(3))
    assert found["kl", "empirical", "exact"][0] == pytest.approx(0, abs=1e-15)
    assert found["leave-one-out", "population", "lower"][0] == -math.inf, "no finite lower bound"


def test_rows_in_blocks_give_the_same_numbers(monkeypatch):
    whole = by_name(Classes(drawn(100, 2)))
    monkeypatch.setattr("klprobe.distributions.categorical.ROWS_AT_ONCE", 7)
    blocks = by_name(Classes(drawn(100, 2)))
    for key, numbers in whole.items():
        assert blocks[key] == pytest.approx(numbers, rel=1e-12)


@pytest.mark.parametrize(
    ("probs", "prior", "words"),
    [
        (torch.full((5, 3), 0.5), None, "5 rows.*row 0, with sum 1.5"),
        (torch.tensor([[0.5, 0.5], [1.5, -0.5]]), None, "1 rows.*row 1.*least entry -0.5.*logits"),
        (torch.ones(5), None, r"shape \(N, K\)"),
        (torch.full((5, 2), 0.5), torch.tensor([1.0, 0.0]), "positive numbers with sum 1"),
        (torch.full((5, 2), 0.5), torch.full((3,), 1 / 3), "the prior of 2 classes"),
        (torch.tensor([[0.5, 0.5], [float("nan"), 1.0]]), None, "row 1"),
    ],
)
def test_what_is_no_distribution_is_refused_by_row(probs, prior, words):
    with pytest.raises(InputError, match=words):
        Classes(probs, prior)
