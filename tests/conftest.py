"""Every test: one torch thread, and the global random state untouched."""

import os
import pathlib
import signal

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite started in the background would ignore Ctrl-C
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and one that was started with nohup the end of its terminal
SHARED = pathlib.Path(os.environ.get("KLPROBE_SHARED", pathlib.Path(__file__).parents[2] / "shared"))


@pytest.fixture(autouse=True)
def global_random_state_is_untouched():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    assert torch.equal(before[0], torch.get_rng_state()), "the test moved torch's global random state"
    assert (before[1] == np.random.get_state()[1]).all(), "the test moved numpy's global random state"  # noqa: NPY002


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_posteriors() -> pathlib.Path:
    path = SHARED / "posteriors"
    if not path.is_dir():
        pytest.skip("shared/posteriors is not beside this checkout")
    return path


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    path = SHARED / "data"
    if not path.is_dir():
        pytest.skip("shared/data is not beside this checkout")
    return path
