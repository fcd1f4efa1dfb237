import numpy as np
import pytest
import torch

import klprobe
from klprobe.estimation import known_answers as known
from klprobe.estimation import selftest as module
from klprobe.estimation.selftest import all_checks, selftest, small_digest


def result(error=0.0, found=(1.0, 2.0)):
    return lambda: known.Result(error, 1.0, np.array(found))


def broken():
    raise RuntimeError("no such device")


def test_it_is_right_only_where_all_checks_are_and_a_failure_is_a_wrong_check():
    assert selftest(checks=[("one", "nats", result()), ("two", "nats", result(1.0))]).right
    assert not selftest(checks=[("one", "nats", result()), ("two", "nats", result(1.5))]).right
    assert not selftest(checks=[("one", "nats", result(float("nan")))]).right
    failed = selftest(checks=[("one", "nats", broken), ("two", "nats", result())])
    assert [check.right for check in failed.checks] == [False, True]
    assert failed.checks[0].reason == "RuntimeError: no such device"


def test_the_digest_is_of_every_bit_and_of_nothing_else():
    same = [selftest(checks=[("one", "nats", result())]).digest for _ in range(2)]
    assert same[0] == same[1]
    assert selftest(checks=[("one", "nats", result(found=(1.0, np.nextafter(2.0, 3.0))))]).digest != same[0]
    assert selftest(checks=[("one", "nats", broken)]).digest != same[0]


def test_the_small_digest_is_the_same_again_and_changes_with_one_bit(monkeypatch):
    before = small_digest()
    assert small_digest.__wrapped__() == before
    sums = known.sums
    monkeypatch.setattr(known, "sums", lambda *args: np.nextafter(sums(*args), 1e9))
    assert small_digest.__wrapped__() != before


def test_a_report_says_which_arithmetic_made_it():
    q = klprobe.DiagonalGaussian(torch.zeros(8, 2), std=torch.ones(8, 2))
    made_by = klprobe.estimate(q, methods=["closed-form"], marginals=False).provenance["arithmetic"]
    assert made_by["digest"] == small_digest()
    assert made_by["blas"]
    assert "threads" in made_by["torch"]


def test_gpus_are_checked_where_there_is_one(monkeypatch):
    names = [name for name, _, _ in all_checks()]
    assert len(set(names)) == len(names)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    more = {name for name, _, _ in module.all_checks()} - set(names)
    assert len(more) == len(known.WAYS) + 2
    assert all("GPU" in name for name in more)


@pytest.mark.slow
def test_this_machine_is_right():
    assert [check for check in selftest().checks if not check.right] == []
