"""Ranges that encoders are trained on pass, and others are named with the number to divide by."""

import math

import pytest
import torch

from klprobe.training.levels import Levels, doubt, doubts, in_words, levels_of, range_check, white_of

IMAGE = (1, 8, 8)
REMEDY = "--scale {}"


@pytest.mark.parametrize(
    ("low", "high", "whole", "shape"),
    [
        (0, 1, False, IMAGE),
        (0.0, 0.99, False, (28, 28)),
        (-1, 1, False, IMAGE),
        (-1, 1, True, IMAGE),
        (0, 1, True, IMAGE),  # binary images
        (0, 1.005, False, IMAGE),  # rounding of a resize
        (-2.12, 2.64, False, IMAGE),  # ImageNet's mean and spread
        (-0.42, 2.82, False, IMAGE),  # MNIST's
        (-9.0, 9.0, False, IMAGE),
        (0, 0.2, False, IMAGE),
        (0, 0, True, IMAGE),
        (-300, 400, False, (7,)),  # vectors may be anything
        (0, 8000, True, (37,)),  # counts of genes
        (0, 0.01, False, (7,)),
        (0, 12, True, (64,)),  # counts, of a square number of things
        (-1024, 3071, True, (64,)),
    ],
)
def test_conventions_pass(low, high, whole, shape):
    levels = Levels(low, high, whole)
    assert doubt(levels, shape, REMEDY) is None
    assert range_check(levels, shape, "x").passed


@pytest.mark.parametrize(
    ("low", "high", "whole", "shape", "words"),
    [
        (0, 255, True, IMAGE, "--scale 255"),
        (3, 250, True, (28, 28), "--scale 255"),
        (0.3, 229.8, False, IMAGE, "--scale 255"),
        (0, 255, True, (784,), "--scale 255"),
        (0, 255, True, (30,), "--scale 255"),
        (0, 240, True, (784,), "--scale 255"),
        (0, 1023, True, IMAGE, "--scale 1023"),
        (0, 4080, True, IMAGE, "--scale 4095"),
        (0, 4095, True, (30,), "--scale 4095"),
        (0, 16000, True, IMAGE, "--scale 16383"),
        (0, 65535, True, IMAGE, "--scale 65535"),
        (0, 16, True, IMAGE, "--scale 16"),
        (0, 16, True, (64,), "--scale 16"),
        (0, 15 / 255, False, IMAGE, "nearly black"),
        (0, 1 / 255, False, IMAGE, "nearly black"),
        (0, 2.0, False, IMAGE, "neither in"),
        (-127.5, 127.5, False, IMAGE, "neither in"),
        (-1024, 3071, True, IMAGE, "neither in"),
        (0, 1e6, True, IMAGE, "neither in"),
        (0, 100.5, False, IMAGE, "neither in"),
    ],
)
def test_ranges_that_fit_no_convention_are_named_with_the_cure(low, high, whole, shape, words):
    check = range_check(Levels(low, high, whole), shape, "scans.npy")
    assert (check.name, check.severity, check.passed) == ("input-range", "warning", False)
    assert check.message.startswith("scans.npy: ")
    assert words in check.message


def test_levels_are_of_all_blocks_and_over_white():
    a, b = levels_of(torch.tensor([[0, 255]])), levels_of(torch.tensor([[-3.5]]))
    assert a == Levels(0, 255, True)
    assert a.joined(b) == b.joined(a) == Levels(-3.5, 255, False)
    assert a.joined(None) == a
    assert levels_of(torch.tensor([[0, 255]], dtype=torch.uint8), 255) == Levels(0, 1, False)
    assert levels_of(torch.tensor([[False, True]])) == Levels(0, 1, True)
    assert levels_of(torch.empty(0, 3)) is None
    assert levels_of(torch.tensor([[math.nan, 1.0]])) is None
    assert in_words(a) == "whole numbers from 0 to 255"


def test_a_level_stands_for_white_only_where_values_look_like_levels():
    assert white_of(Levels(0, 1, True)) is None
    assert white_of(Levels(-1, 255, True)) is None
    assert white_of(Levels(0, 70000, True)) is None


def test_a_whole_data_set_is_looked_at_in_blocks(monkeypatch):
    monkeypatch.setattr("klprobe.training.levels.BLOCK", 64)
    x = torch.zeros(9, 1, 8, 8)
    x[8, 0, 0, 0] = 255
    assert doubts(x, "x.npy", 1.0)[0].endswith("x.npy:scale=255 makes them [0, 1].")
    assert "dividing by 255" in doubts(x, "m:x", 1.0, settings=False)[0]
    assert doubts(x, "x.npy", 255.0) == ()
