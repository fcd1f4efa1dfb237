"""Which argument gets which array, for whatever a function, a network or a file says of its arguments."""

import pytest
import torch

from klprobe.files.arguments import Arguments, arguments_of, called, from_facts, matched
from klprobe.types import InputError


def takes_any(*args, **kwargs):
    return args, kwargs


def by_place(x, /, y):
    return x, y


class Network(torch.nn.Module):
    def forward(self, x, y=None, scale=1.0, **rest):
        return x


def test_arguments_of_functions_and_networks():
    assert arguments_of(Network()) == Arguments(("x",), ("y", "scale"), more=True, unset=("y",))
    assert arguments_of(takes_any) == Arguments(more=True)
    assert arguments_of(by_place) == Arguments(("0", "y"))


def test_places_and_names_reach_the_function_as_such():
    a, b = torch.zeros(2), torch.ones(2)
    assert called(by_place, {"y": b, "0": a}) == (a, b)
    assert called(takes_any, {"1": b, "0": a, "y": b}) == ((a, b), {"y": b})


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ("x=a,y=b", {"x": "a", "y": "b"}),
        ("y=b, x=a", {"y": "b", "x": "a"}),
        ("a,b", {"x": "a", "y": "b"}),
        ("a,y=b", {"x": "a", "y": "b"}),
        ("a,a", {"x": "a", "y": "a"}),
    ],
)
def test_names_and_places_are_matched(inputs, found):
    assert matched(inputs, Arguments(("x", "y")), ["a", "b"], "encoder.pt", "data.npz") == found


def test_a_function_that_takes_anything_gets_arrays_by_place():
    assert matched("a,b", Arguments(more=True), ["a", "b"], "encoder.pt", "data.npz") == {"0": "a", "1": "b"}


@pytest.mark.parametrize(
    "inputs", ["", ",", "x=", "=a", "x=a", "x=a,b", "a,b,a", "x=a,x=b,y=b", "X=a,y=b", "x=A,y=b", "x=a=b,y=b"]
)
def test_anything_else_is_refused(inputs):
    with pytest.raises(InputError, match=r"--inputs"):
        matched(inputs, Arguments(("x", "y")), ["a", "b"], "encoder.pt", "data.npz")


@pytest.mark.parametrize("facts", [None, 3, [], [["x"]], [["x"], 3, []], {"x": 1}])
def test_facts_that_are_not_understood_name_no_argument(facts):
    assert from_facts(facts) == Arguments()
    assert from_facts(Arguments(("x",), ("y",), unset=("y",)).facts()) == Arguments(("x",), ("y",), unset=("y",))
