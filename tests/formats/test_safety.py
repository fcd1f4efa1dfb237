"""Untrusted files, by every way into the program: refused in one line, no code run, memory bounded.

What each format does with its own damage is tested beside it; here every attack meets everything that opens a file.
"""

import json
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from klprobe.cli import main
from klprobe.cli.prior import parse_prior
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.formats import Request, load
from klprobe.training.checkpoint import load_checkpoint
from klprobe.types import InputError

MOST_MEMORY = 300 << 20
"""Bytes by which the peak of this process may grow; the claims in these files are 3,000 times larger, or more."""


def lying_safetensors(kind: str, size: int | None = None) -> bytes:
    lie = {"mean": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 24]}, "__metadata__": {"klprobe.kind": kind}}
    header = json.dumps(lie).encode()
    return struct.pack("<Q", len(header) if size is None else size) + header + bytes(24)


def lying_npy(shape: tuple[int, ...]) -> bytes:
    header = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(24)


def zipped(path, entries: dict[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def bomb(path, name: str, beside: dict[str, bytes]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, content in beside.items():
            archive.writestr(other, content)
        with archive.open(name, "w", force_zip64=True) as stream:
            for _ in range(100):
                stream.write(bytes(1 << 20))


def pickled(folder, malice):
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "hyper_parameters": malice}, folder / "last.ckpt")
    torch.save(malice, folder / "model.pt")
    torch.save(malice, folder / "old.pth", _use_new_zipfile_serialization=False)
    (folder / "plain.pkl").write_bytes(pickle.dumps(malice))
    (folder / "called.npy").write_bytes(pickle.dumps(malice))
    np.savez(folder / "objects.npz", mean=np.array([[malice, malice]] * 3, dtype=object), x=np.array([malice], dtype=object))
    (folder / "called.safetensors").write_bytes(pickle.dumps(malice))
    (folder / "called.onnx").write_bytes(pickle.dumps(malice))


def bombs(folder):
    bomb(folder / "bomb.npz", "mean.npy", {})
    bomb(folder / "script.pt", "a/code/b.py", {"a/constants.pkl": b"x"})
    bomb(folder / "weights.ckpt", "a/data/0", {"a/data.pkl": b"x"})
    bomb(folder / "program.pt2", "a/models/model.json", {"a/archive_format": b"pt2"})


def lies(folder):
    for kind in ("posterior", "checkpoint", "flow"):
        (folder / f"{kind}.safetensors").write_bytes(lying_safetensors(kind))
        (folder / f"{kind}-header.safetensors").write_bytes(lying_safetensors(kind, 2**60))


def cut(folder, encoder):
    torch.jit.script(encoder).save(folder / "script.pt")
    torch.save(encoder.state_dict(), folder / "weights.pt")
    torch.save({"state_dict": encoder.state_dict()}, folder / "last.ckpt", _use_new_zipfile_serialization=False)
    zipped(folder / "program.pt2", {"a/archive_format": b"pt2", "a/models/model.json": bytes(500)})
    np.savez(folder / "q.npz", mean=np.zeros((9, 2)), std=np.ones((9, 2)), x=np.zeros((9, 64)))
    np.save(folder / "x.npy", np.zeros((9, 64)))
    for kind in ("posterior", "checkpoint", "flow"):
        (folder / f"{kind}.safetensors").write_bytes(save({"mean": torch.zeros(9, 2)}, {"klprobe.kind": kind}))
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def huge(folder):
    (folder / "x.npy").write_bytes(lying_npy((10**12,)))
    (folder / "q.npy").write_bytes(lying_npy((10**6, 10**6)))
    zipped(folder / "q.npz", {"mean.npy": lying_npy((10**6, 10**6)), "x.npy": lying_npy((10**12, 2))})
    torch.save({"body.0.weight": torch.zeros(1).expand(10**6, 10**6)}, folder / "weights.pt")


ATTACKS = {
    "malicious pickles": pickled,
    "zip bombs": bombs,
    "lying headers": lies,
    "truncated files": cut,
    "10^12 elements": huge,
}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory, encoder, x):
    """A folder of files for each attack, a good encoder and good arrays, and where a pickle would leave its mark."""

    class Malice:
        def __reduce__(self):
            return open, (str(mark), "w")

    root = tmp_path_factory.mktemp("attacks")
    mark = root / "code-ran"
    for name, write in ATTACKS.items():
        (root / name).mkdir()
        given = {"pickled": (Malice(),), "cut": (encoder,)}.get(write.__name__, ())
        write(root / name, *given)
    torch.jit.script(encoder).save(root / "good.pt")
    np.save(root / "x.npy", x[:50].numpy())
    return root, mark


def ways_in(path, root):
    """Everything that opens a file for the program."""
    data, pair = str(root / "x.npy"), DiagonalGaussian(torch.zeros(2, 2), std=torch.ones(2, 2))
    return {
        "checkpoint": lambda: load(path),
        "checkpoint with data": lambda: load(path, Request(data=data)),
        "weights": lambda: load(path, Request(data=data, encoder="tiny_network:VAE")),
        "data": lambda: load(root / "good.pt", Request(data=str(path))),
        "mixture": lambda: parse_prior(f"mixture:{path}", 2, None, lambda _: pair),
        "flow": lambda: parse_prior(f"flow:{path}", 2, None, lambda _: pair),
        "sample and reconstruct": lambda: load_checkpoint(path),
    }


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_gets_anywhere_by_any_way_in(attacked, attack, network, capsys):
    root, mark = attacked
    files = sorted((root / attack).iterdir())
    assert files
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in files:
        for way, open_it in ways_in(path, root).items():
            with pytest.raises(InputError) as caught:
                open_it()
            assert "\n" not in str(caught.value), f"{path.name} as {way}: {caught.value}"
            assert len(str(caught.value)) < 1000, f"{path.name} as {way}: {caught.value}"
    assert not mark.exists(), "code from a file ran"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_MEMORY
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["script.pt", "weights.pt", "program.pt2", "q.npz"])
def test_a_zip_file_without_its_end_is_called_truncated_and_not_something_else(attacked, name):
    with pytest.raises(InputError, match=r"truncated|damaged"):
        load(attacked[0] / "truncated files" / name)


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_program_says_so_in_one_line_with_exit_code_2(attacked, attack, capsys):
    root, mark = attacked
    file = sorted((root / attack).iterdir())[0]
    assert main(["estimate", "--checkpoint", str(file), "--data", str(root / "x.npy")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("klprobe: ")
    assert err.count("\n") == 1
    assert not mark.exists()
