"""A codebook's use: counts, perplexity, dead entries, and the KL to uniform that the estimators give too."""

import math
from collections import Counter

import pytest
import torch

import klprobe
from klprobe.distributions.codebook import codebook_of
from klprobe.types import InputError


@pytest.fixture(scope="module")
def codes():
    """300 points of 2 x 3 places and 20 entries, of which the last four are never used."""
    weights = torch.tensor([2.0**-k for k in range(16)])
    drawn = torch.multinomial(weights.expand(300, 16), 6, replacement=True, generator=torch.Generator().manual_seed(0))
    return drawn.reshape(300, 2, 3)


def test_use_perplexity_and_dead_entries_are_those_of_the_counts(codes):
    counts = Counter(codes.flatten().tolist())
    shares = [count / codes.numel() for count in counts.values()]
    entropy = -sum(share * math.log(share) for share in shares)
    usage = codebook_of(codes, 20, "codes").usage
    assert (usage["entries"], usage["places"], usage["used"], usage["dead"]) == (20, 6, len(counts), 20 - len(counts))
    assert usage["dead"] >= 4
    assert usage["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-12)
    assert usage["kl_to_uniform"] == pytest.approx(math.log(20) - entropy, rel=1e-12)


def test_even_use_has_kl_0_and_a_single_entry_log_k():
    even = codebook_of(torch.arange(20).repeat(3).reshape(15, 4), 20, "codes").usage
    assert even["kl_to_uniform"] == pytest.approx(0, abs=1e-12)
    assert even["perplexity"] == pytest.approx(20)
    one = codebook_of(torch.full((5, 1), 3), 20, "codes").usage
    assert (one["used"], one["perplexity"], one["kl_to_uniform"]) == (1, pytest.approx(1), pytest.approx(math.log(20)))


def test_the_estimators_say_the_same(codes):
    found = codebook_of(codes, 20, "codes")
    report = klprobe.estimate(found.posterior, found.prior, methods=["monte-carlo"], marginals=False)
    exact = next(e for e in report.estimates if (e.method, e.target, e.bound) == ("monte-carlo", "empirical", "exact"))
    assert abs(exact.value - found.usage["kl_to_uniform"]) < 5 * exact.std_error + 1e-9
    shares = found.posterior.base_dist.probs[:, 0]
    average = float((torch.xlogy(shares, shares).sum(1) + math.log(20)).mean())
    assert report.average_kl.value == pytest.approx(average, rel=1e-6)


@pytest.mark.parametrize(
    ("codes", "entries", "words"),
    [
        (torch.tensor([[0], [20]]), 20, r"numbered 0 to 19, but codes reach from 0 to 20"),
        (torch.tensor([[-1], [2]]), 20, r"reach from -1 to 2"),
        (torch.tensor([[1]]), 20, "2 data points"),
        (torch.zeros(70_000, 1), 8192, r"give at most 32,768 points"),
    ],
)
def test_codes_that_are_none_are_refused(codes, entries, words):
    with pytest.raises(InputError, match=words):
        codebook_of(codes, entries, "codes")
