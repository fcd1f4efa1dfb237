import math

import pytest
import torch

from klprobe.datasets.ring import Ring
from klprobe.metrics.modes import Modes, _count_error
from klprobe.types import InputError

CENTRES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def test_by_hand():
    samples = torch.tensor([[0.0, 0.0], [0.29, 0.0], [0.31, 0.0], [1.0, 0.2], [math.nan, 0.0]])
    modes, good = Modes().measure(samples, CENTRES, 0.1)
    assert (modes.value, good.value) == (2, 3 / 5)
    assert good.std_error == pytest.approx(math.sqrt(0.6 * 0.4 / 5))
    assert Modes(reach=5).measure(samples, CENTRES, 0.1)[1].value == 4 / 5


@pytest.mark.parametrize("counts", [(50, 1, 2, 0, 3), (10, 10, 10), (1, 1, 1, 1), (0, 0)])
def test_the_error_of_their_number_is_the_bootstraps(counts):
    """40,000 resamples: their spread has a relative error of 0.4 % or so, and 3 % are allowed."""
    total = 60
    chances = torch.tensor([*counts, total - sum(counts)]).double() / total
    drawn = torch.multinomial(chances, total * 40_000, replacement=True, generator=torch.Generator().manual_seed(0))
    of_modes = torch.nn.functional.one_hot(drawn.view(40_000, total), len(chances)).sum(1)[:, :-1]
    expected = float((of_modes > 0).sum(1).double().std())
    assert _count_error(torch.tensor(counts).double(), total) == pytest.approx(expected, rel=0.03, abs=1e-3)


def test_exact_samples_are_of_high_quality_as_often_as_the_normal_says():
    data = Ring().load("test")
    modes, good = Modes().measure(data.x, Ring().centres, Ring().std)
    assert modes.value == 8
    assert abs(good.value - (1 - math.exp(-4.5))) < 4 * good.std_error


@pytest.mark.parametrize(
    ("samples", "std"), [(torch.zeros(0, 2), 0.1), (torch.zeros(4, 3), 0.1), (torch.zeros(4), 0.1), (torch.zeros(4, 2), 0.0)]
)
def test_what_cannot_be_counted_is_refused(samples, std):
    with pytest.raises(InputError, match="modes"):
        Modes().measure(samples, CENTRES, std)
