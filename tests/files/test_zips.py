"""Zip files with every byte of their directory wrong, by every way in."""

import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest
import torch

from klprobe.cli.prior import parse_prior
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.files.archive import names_in, repacked
from klprobe.files.zips import opened
from klprobe.formats import load
from klprobe.types import InputError


@pytest.fixture
def archive():
    content = io.BytesIO()
    np.savez(content, mean=np.zeros((3, 2)), logvar=np.zeros((3, 2)))
    return content.getvalue()


def everything(path):
    """Reads every member, in each of the ways that klprobe has; InputError is all that any may raise."""

    def whole():
        with opened(path, "it") as opened_file:
            return [opened_file.read(entry) for entry in opened_file.infolist()]

    prior = f"mixture:{path}"
    gaussians = DiagonalGaussian(torch.zeros(2, 2), std=torch.ones(2, 2))
    ways = (whole, lambda: load(path), lambda: repacked(path, lambda name, content: content), lambda: names_in(path))
    for way in (*ways, lambda: parse_prior(prior, 2, None, lambda _: gaussians)):
        with contextlib.suppress(InputError):
            way()


@pytest.mark.parametrize("byte", [0, 0xFF])
@pytest.mark.parametrize("suffix", ["npz", "pt", "pt2", "model"])
def test_a_directory_with_one_wrong_byte_is_read_or_refused(archive, tmp_path, byte, suffix):
    directory = archive.index(b"PK\x01\x02")
    path = tmp_path / f"q.{suffix}"
    for place in range(directory, len(archive), 1 if suffix == "npz" else 7):
        path.write_bytes(archive[:place] + bytes([byte]) + archive[place + 1 :])
        everything(path)


def test_a_name_twice_is_refused_whatever_it_holds(tmp_path):
    path = tmp_path / "q.npz"
    with zipfile.ZipFile(path, "w") as twice:
        twice.writestr("mean.npy", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            twice.writestr("mean.npy", b"2")
    with pytest.raises(InputError, match=r"'mean\.npy' twice"), opened(path, "it"):
        pass


def test_bytes_behind_a_directory_that_looks_like_another_are_refused(archive, tmp_path):
    """What torch.export's file with a comment did."""
    path = tmp_path / "q.pt2"
    end = archive.rindex(b"PK\x05\x06")
    path.write_bytes(archive[: end + 20] + struct.pack("<H", 34) + b"PK\x05\x06" + bytes(30))
    with pytest.raises(InputError):
        load(path)
