import pytest
import torch

from klprobe.metrics.critic import Critic
from klprobe.types import InputError


def normal(n, seed, shift=0.0, shape=(2,)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) + shift


def run(samples, data, seed=0, validation=None, **settings):
    generator = torch.Generator().manual_seed(seed)
    (score,) = Critic(**settings).measure(samples, data, generator, validation=validation)
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


def test_the_curves_of_both_critics_hold_the_mini_batch_and_the_points_held_out():
    found = run(normal(50, 0, 1.0), normal(60, 1), steps=40, width=8)
    curves = found.details["curves"]
    assert [[row[0] for row in curve] for curve in curves] == 2 * [list(range(2, 41, 2))]
    assert sum(curve[-1][2] for curve in curves) / 2 == pytest.approx(found.value, rel=1e-12)
    assert found == run(normal(50, 0, 1.0), normal(60, 1), steps=40, width=8)


def test_with_a_validation_split_critics_are_trained_on_it_and_judge_the_data():
    """Data that are not looked at in training change the score and not the training; the distance is as above."""
    samples, data, validation = normal(2000, 0, 1.0), normal(2000, 1), normal(2000, 2)
    found = run(samples, data, validation=validation, steps=400, width=64)
    far = 2**0.5
    assert abs(found.value - far * (1 + far / 20)) < 4 * found.std_error + 0.03 * far
    assert found.details["trained_on"] == "the validation split"
    other = run(samples, data + 1, validation=validation, steps=40, width=64)
    again = run(samples, data, validation=validation, steps=40, width=64)
    assert [row[1] for row in other.details["curves"][0]] == [row[1] for row in again.details["curves"][0]]
    assert other.value != again.value


@pytest.mark.slow
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_the_error_holds_what_points_and_critics_vary_by(shift, kept):
    """Few steps, so that critics differ. 30 sets: their spread has a relative error of 13 %, hence 0.6 to 1.5."""

    def once(s):
        others = {"validation": normal(100, 3000 + s)} if kept else {}
        return run(normal(100, s, shift), normal(100, 1000 + s), s, steps=25, width=16, **others)

    found = [once(s) for s in range(30)]
    spread = torch.tensor([score.value for score in found]).std()
    error = torch.tensor([score.std_error for score in found]).square().mean().sqrt()
    assert 0.6 < spread / error < 1.5


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
