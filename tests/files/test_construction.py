"""A network cannot be larger than the file that describes it."""

import tracemalloc

import pytest
import torch
from torch import nn

from klprobe.files.construction import differences, sizes_of, watched
from klprobe.types import InputError


@pytest.fixture(autouse=True)
def weights_leave_random_numbers_alone():
    with torch.random.fork_rng():
        yield


def deep(layers):
    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers)))


def test_a_network_that_the_file_can_fill_is_built_as_shapes_alone():
    network = sizes_of(lambda: deep(4), 8, "x")
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert not differences(network, deep(4).state_dict())
    assert differences(network, deep(3).state_dict()) == ["3.bias", "3.weight"]


def test_sizes_cost_no_memory_and_are_compared():
    tracemalloc.start()
    network = sizes_of(lambda: nn.Linear(10**9, 10**6), 2, "x")
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert differences(network, nn.Linear(2, 2).state_dict()) == ["bias", "weight"]


def shallow(layers):
    network = nn.Sequential()
    for _ in range(layers):
        network.append(nn.ReLU())
    return network


@pytest.mark.parametrize("build", [lambda: deep(10**9), lambda: shallow(10**9)])
def test_one_with_more_layers_stops_at_once(build):
    with pytest.raises(InputError, match="describes a network with far more"):
        sizes_of(build, 4, "x")
    assert len(list(deep(500).parameters())) == 1000, "nobody watches afterwards"


def test_the_watch_ends_with_its_block_and_leaves_random_numbers_alone():
    before = torch.get_rng_state()
    sizes_of(lambda: deep(2), 4, "x")
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(InputError), watched(0, "x"):
        deep(1000)
    deep(1000)
