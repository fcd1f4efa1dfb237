"""`klprobe holes`: what it prints, what it writes, what it refuses."""

import json

import numpy as np
import pytest

from klprobe.cli import main
from klprobe.cli.demo import CHECKPOINT

FAST = ["--num-samples", "300"]


@pytest.fixture
def checkpoint(tmp_path):
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "q.npz", mean=0.2 * draw.normal(size=(120, 3)), logvar=draw.normal(-3, 0.3, size=(120, 3)))
    return tmp_path / "q.npz"


def holes(checkpoint, *flags) -> int:
    return main(["holes", "--checkpoint", str(checkpoint), *FAST, *map(str, flags)])


def test_the_answer_fits_one_screen(checkpoint, capsys):
    assert holes(checkpoint) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) < 40
    assert max(map(len, lines)) <= 100
    assert "There are holes." in out  # codes are a quarter as wide as the prior
    assert "N = 120 points, 3 latents" in out


def test_json_is_the_document_and_the_files_hold_the_same(checkpoint, tmp_path, capsys):
    assert holes(checkpoint, "--json", "--out", tmp_path / "out", "--quantile", 0.02, "--seed", 3) == 0
    out, err = capsys.readouterr()
    document = json.loads(out, parse_constant=pytest.fail)
    assert json.loads((tmp_path / "out" / "holes.json").read_text()) == document
    assert err == f"klprobe: holes written to {tmp_path / 'out'}\n"
    assert (document["quantile"], document["num_samples"], document["provenance"]["seed"]) == (0.02, 300, 3)
    assert document["provenance"]["sha256"]
    assert not (tmp_path / "out" / "holes-decoded.png").exists()


def test_the_demo_checkpoint_decodes_its_holes(tmp_path, capsys):
    assert holes(CHECKPOINT, "--out", tmp_path) == 0
    assert (tmp_path / "holes-decoded.png").read_bytes().startswith(b"\x89PNG")
    assert "1,797 points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--num-samples", "5"], "at least 100"),
        (["--quantile", "2"], "quantile"),
        (["--prior", "sphere"], "log p(z)"),
        (["--tsne"], "--out"),
        (["--out", "/proc/nowhere"], "--out"),
        (["--sed", "1"], "--seed"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(checkpoint, capsys, flags, word):
    assert holes(checkpoint, *flags) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("klprobe: ")
    assert err.count("\n") == 1
    assert word in err


def test_an_encoder_without_a_density_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "s.npz", samples=np.random.default_rng(0).normal(size=(100, 3)))
    assert holes(tmp_path / "s.npz") == 2
    assert "returns mean and logvar" in capsys.readouterr().err
