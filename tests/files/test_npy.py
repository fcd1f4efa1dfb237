"""Plain `.npy` files are read, so that one that is cut or written to meanwhile is a sentence; large ones are mapped."""

import os

import numpy as np
import pytest

from klprobe.files import npy
from klprobe.types import InputError


@pytest.fixture
def path(tmp_path):
    np.save(tmp_path / "mean.npy", np.arange(6000.0).reshape(1000, 6))
    return tmp_path / "mean.npy"


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "u1", "<i8"])
def test_what_is_read_is_what_numpy_reads_and_is_no_map(tmp_path, order, dtype):
    array = np.asarray(np.arange(24).reshape(2, 3, 4), dtype, order=order)
    np.save(tmp_path / "x.npy", array)
    found = npy.read_file(tmp_path / "x.npy", "x.npy")
    assert not isinstance(found, np.memmap)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


def test_one_that_is_large_beside_the_memory_is_mapped_and_one_that_is_not_is_not(path, monkeypatch):
    size = 6000 * 8
    monkeypatch.setattr(npy, "most_read", lambda: size - 1)
    assert isinstance(npy.read_file(path, "mean.npy"), np.memmap)
    monkeypatch.setattr(npy, "most_read", lambda: size)
    assert not isinstance(npy.read_file(path, "mean.npy"), np.memmap)


def test_an_empty_one_is_read(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((0, 3)))
    assert npy.read_file(tmp_path / "x.npy", "x.npy").shape == (0, 3)


def meanwhile(monkeypatch, change):
    """Do something to the file once its size was checked and it is being read."""
    fill = npy._fill

    def changed(*arguments):
        change()
        return fill(*arguments)

    monkeypatch.setattr(npy, "_fill", changed)


def test_one_that_is_cut_while_it_is_read_is_refused_in_one_sentence(path, monkeypatch):
    meanwhile(monkeypatch, lambda: os.truncate(path, 20_000))
    with pytest.raises(InputError, match=r"mean\.npy ends after [\d,]+ of 48,000 bytes"):
        npy.read_file(path, "mean.npy")


def test_one_that_is_written_to_while_it_is_read_is_refused(path, monkeypatch):
    def write():
        with path.open("r+b") as stream:
            stream.seek(1000)
            stream.write(b"12345678")
        os.utime(path, ns=(1, 1))

    meanwhile(monkeypatch, write)
    with pytest.raises(InputError, match="was written to while it was read"):
        npy.read_file(path, "mean.npy")
