import pytest
import torch

from klprobe.metrics.critic import Critic
from klprobe.types import InputError


def normal(n, seed, shift=0.0, shape=(2,)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) + shift


def run(samples, data, seed=0, **settings):
    (score,) = Critic(**settings).measure(samples, data, torch.Generator().manual_seed(seed))
    return score


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_a_shifted_normal_is_as_far_as_the_penalty_lets_it_be(shift):
    """W1 is W, the length of the shift; slope s gains s W and costs 10 (s - 1)^2, so s = 1 + W / 20. 3 % for the fit."""
    found = run(normal(2000, 0, shift), normal(2000, 1), steps=400, width=64)
    far = shift * 2**0.5
    assert abs(found.value - far * (1 + far / 20)) < 4 * found.std_error + 0.03 * far
    assert found.better == "lower"


def test_equal_distributions_are_no_further_apart_than_their_error():
    found = run(normal(1000, 0), normal(1000, 1), steps=200, width=64)
    assert abs(found.value) < 5 * found.std_error


def test_the_curve_holds_both_the_mini_batch_and_the_points_held_out():
    found = run(normal(50, 0, 1.0), normal(60, 1), steps=40, width=8)
    assert [row[0] for row in found.details["curve"]] == list(range(2, 41, 2))
    assert found.details["curve"][-1][2] == found.value
    assert found == run(normal(50, 0, 1.0), normal(60, 1), steps=40, width=8)


def test_images_have_the_critic_of_wgan_gp():
    x = normal(8, 0, shape=(1, 28, 28))
    assert run(x, x + 1, steps=1, batch_size=4).details["steps"] == 1


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(InputError, match="at least 4"):
        run(normal(3, 0), normal(9, 0))
    with pytest.raises(InputError, match="of one shape"):
        run(normal(9, 0), normal(9, 0, shape=(3,)))
    with pytest.raises(InputError, match="No network fits"):
        run(normal(9, 0, shape=(1, 9, 9)), normal(9, 0, shape=(1, 9, 9)))
