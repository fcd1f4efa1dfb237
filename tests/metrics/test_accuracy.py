import pytest
import torch

from klprobe.metrics import Features
from klprobe.metrics.accuracy import Accuracy
from klprobe.metrics.own_accuracy import OwnAccuracy
from klprobe.types import CapabilityError, InputError


def run(logits, labels):
    (score,) = Accuracy().measure(Features(torch.zeros(len(logits), 1), "a net", logits), torch.tensor(labels))
    return score


def test_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 1.0], [5.0, 0.0, 0.0]])
    score = run(logits, [0, 1, 0, 0])
    assert score.value == 0.75
    assert score.std_error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert (score.better, score.net) == ("higher", "a net")
    whole = run(logits, [0, 1, 2, 0])
    assert (whole.value, whole.std_error) == (1, pytest.approx((0.75 * 0.25 / 4) ** 0.5)), "as if one were wrong"


def test_labels_that_do_not_go_with_the_logits_are_refused():
    logits = torch.zeros(2, 3)
    with pytest.raises(InputError, match="one label a sample"):
        run(logits, [0])
    with pytest.raises(InputError, match="3 classes"):
        run(logits, [0, 3])
    with pytest.raises(CapabilityError, match="no classes"):
        Accuracy().measure(Features(torch.zeros(2, 1), "a net"), torch.tensor([0, 1]))


def test_a_systems_own_classifier_is_judged_by_the_labels_of_held_out_data():
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 0.0], [1.0, 0.0]])
    (score,) = OwnAccuracy().measure(logits, torch.tensor([0, 1, 1, 0]))
    assert (score.value, score.std_error) == (0.75, pytest.approx((0.75 * 0.25 / 4) ** 0.5))
    for labels in ([0, 1], [0, 1, 2, 0]):
        with pytest.raises(InputError, match="one label a point"):
            OwnAccuracy().measure(logits, torch.tensor(labels))
