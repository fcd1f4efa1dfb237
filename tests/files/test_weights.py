"""Weights from checkpoints of many shapes: the right ones are found, said, or asked for; what is beside them stays closed."""

import argparse
import dataclasses
import enum
import functools
import pathlib

import pytest
import torch
from torch import nn

from klprobe.files.weights import copies_of, fit, open_weights
from klprobe.types import InputError


def net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def opened(path):
    """The tensors, opened in this process, which a test does with files of its own."""
    return open_weights(str(path)).tensors


def below(prefix, weights):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


RAW, OTHER = net(1).state_dict(), net(2).state_dict()
ADAM = {"state": {0: {"exp_avg": torch.zeros(3, 4)}}, "param_groups": [{"lr": 0.1}]}
SHAPES = {
    "bare": RAW,
    "beside numbers": {"epoch": 9, "model_state_dict": RAW, "optimizer_state_dict": ADAM, "loss": torch.tensor(1.5)},
    "beside a tensor": {"model": RAW, "best": torch.zeros(7)},
    "under vae": {"vae": RAW, "step": 3},
    "one of two parts": {"encoder": RAW, "decoder": {"weight": torch.zeros(4, 3)}},
    "deep": {"model": {"state_dict": RAW}},
    "with an average beside": {"ema": OTHER, "model": RAW},
    "with an average inside": {"state_dict": {**below("model.", RAW), **below("model_ema.", OTHER)}},
    "with an average as Lightning keeps it": {
        "state_dict": below("model.", RAW),
        "current_model_state": below("model.", OTHER),
    },
    "with a target network": {**below("online.", RAW), **below("target.", OTHER)},
    "compiled": below("_orig_mod.", RAW),
    "compiled inside": {"state_dict": below("model._orig_mod.", RAW)},
    "parallel": below("module.", RAW),
    "the same twice": {**below("a.", RAW), **below("b.", RAW)},
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_weights_themselves_are_found(name, tmp_path):
    torch.save(SHAPES[name], tmp_path / "weights.pt")
    module = net(3)
    prefix, leftover = fit(module, opened(tmp_path / "weights.pt"), "weights.pt", "made:it")
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, RAW[key])
    others = copies_of(prefix, leftover, list(RAW))
    assert bool(others) == ("average" in name or "target" in name or "twice" in name), "a second set is said, and nothing else"


def test_weights_of_which_none_is_the_copy_are_asked_for(tmp_path):
    torch.save({**below("encoder_1.", RAW), **below("encoder_2.", OTHER)}, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"holds 2 sets of weights that fit made:it: encoder_1\.\*, encoder_2\.\*"):
        fit(net(), opened(tmp_path / "weights.pt"), "weights.pt", "made:it")


@dataclasses.dataclass
class Settings:
    width: int = 3


class Kind(enum.Enum):
    ONE = 1


HYPER = {
    "a namespace": argparse.Namespace(lr=0.1),
    "a dataclass": Settings(),
    "a path": pathlib.PurePosixPath("runs"),
    "an enumeration": Kind.ONE,
    "a partial": functools.partial(torch.optim.Adam, lr=1e-3),
    "a module": nn.ReLU(),
    "a class": nn.ReLU,
    "a range": range(3),
}


@pytest.mark.parametrize("name", HYPER)
def test_hyper_parameters_that_are_objects_stay_closed_and_the_weights_are_read(name, tmp_path):
    held = {"pytorch-lightning_version": "2.6.6", "state_dict": below("model.", RAW), "hyper_parameters": {"it": HYPER[name]}}
    torch.save(held, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert opened(tmp_path / "last.ckpt").keys() == held["state_dict"].keys()
