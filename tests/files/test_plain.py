"""Pipes and devices in the place of files: one sentence at once, by every way in, where opening one would wait for ever."""

import os
import signal

import pytest

from klprobe.files import json_files, npy, tensor_file, zips
from klprobe.files.archive import names_in
from klprobe.files.child import Limits
from klprobe.files.onnx_check import check_external_data
from klprobe.files.plain import check_plain, read_bounded
from klprobe.files.weights import read_weights
from klprobe.formats import load
from klprobe.runtime.records import read_records
from klprobe.training.log import _read
from klprobe.types import InputError


@pytest.fixture(autouse=True)
def at_most_a_minute():
    def stop(*_):
        raise AssertionError("it waits for a pipe")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    return tmp_path / "pipe.safetensors"


def in_block(opened):
    def use(path):
        with opened(path, path.name):
            pass

    return use


@pytest.mark.parametrize(
    "use",
    [
        check_plain,
        in_block(zips.opened),
        in_block(tensor_file.opened),
        lambda path: npy.read_file(path, path.name),
        lambda path: json_files.read(path, path.name),
        lambda path: read_weights(path, Limits()),
        lambda path: read_bounded(path, 10),
        lambda path: _read(path, 10),
        check_external_data,
        read_records,
        load,
    ],
)
def test_a_pipe_is_named_and_not_opened(pipe, use):
    with pytest.raises(InputError, match=r"pipe\.safetensors is no plain file, but a folder, a pipe or a device"):
        use(pipe)


@pytest.mark.parametrize("name", ["mean.npy", "logvar.npy"])
def test_a_pipe_in_a_folder_of_arrays_is_named(tmp_path, name):
    for other in ("mean.npy", "logvar.npy"):
        (tmp_path / other).touch()
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=r"is no plain file|is not a plain \.npy"):
        load(tmp_path)


def test_what_is_no_file_holds_no_names(pipe):
    assert names_in(pipe) == ()
    assert tensor_file.kind_of(pipe) is None


def test_files_links_to_files_and_paths_to_nothing_pass(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for name in ("a", "link", "nothing"):
        check_plain(tmp_path / name)
    assert read_bounded(tmp_path / "link", 10) == b"0123456789"
    with pytest.raises(InputError, match="the label has more than 9 bytes"):
        read_bounded(tmp_path / "a", 9, "the label")
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "nothing", 9)
