"""What every metric promises, run over whatever files the folder holds."""

import dataclasses
import inspect

import pytest

import klprobe.metrics
from klprobe import registry

NAMES = registry.names("metrics")


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_is_a_frozen_dataclass_with_one_method_whose_arguments_are_known(name):
    kind = registry.load("metrics", name)
    assert kind.__dataclass_params__.frozen
    kind()  # every setting has a default
    methods = [n for n, value in vars(kind).items() if inspect.isfunction(value) and not n.startswith("_")]
    assert methods == ["measure"]
    for argument in list(inspect.signature(kind.measure).parameters)[1:]:
        assert argument in klprobe.metrics.__doc__, f"{name} asks for {argument}, which klprobe.metrics does not know"
    assert inspect.signature(kind.measure).return_annotation == "tuple[Score, ...]"
    assert kind.measure.__doc__
    assert registry.describe("metrics", name).endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_says_what_it_is_and_the_text_cites_its_source(name):
    kind = registry.load("metrics", name)
    source = inspect.getsource(kind)
    for field in dataclasses.fields(kind):
        _, _, after = source.partition(f"\n    {field.name}: ")
        assert after.split("\n")[1].strip().startswith('"""'), f"{name}: {field.name}"
    assert "Reference: " in kind.__doc__
