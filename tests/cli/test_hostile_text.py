"""Names of files and words in them may hold anything; terminal, pages and tables show what that is, and nothing of it acts."""

import csv
import json
import os
import pathlib
import pty
import subprocess
import sys
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save

from klprobe import registry
from klprobe.cli import main, output
from klprobe.files.tensor_file import write
from klprobe.printable import LONGEST, short, visible
from klprobe.trainers.vae import VAE
from klprobe.training.checkpoint import read
from klprobe.training.loop import train

NAMES = {
    "control": "\x1b[31mred\x07\r\b",
    "markup": "[bold]x[_bold] $x$",
    "bidi": "\u202eabc\u2066\u2069",
    "bytes": os.fsdecode(b"raw\xff\xfe"),
    "lines": "a\nall is well",
    "c1": "\x9b31m\x7f",
}
TEXTS = [*NAMES.values(), "\x1b]0;title\x07", "\ud800", "\u2028line", "\x00"]


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    data = registry.load("datasets", "digits")().load("train")
    return train(VAE(latent_dim=2, width=8), data, steps=3, out=tmp_path_factory.mktemp("vae"))


@pytest.fixture(params=NAMES.values(), ids=NAMES)
def name(request, tmp_path, monkeypatch):
    """A hostile name, for a file in the current folder."""
    monkeypatch.chdir(tmp_path)
    return request.param


def posterior(path):
    rng = np.random.default_rng(0)
    np.savez(path, mean=rng.normal(size=(60, 2)), logvar=np.full((60, 2), -1.0))
    return str(path)


def raw(text):
    """Characters that act instead of showing themselves."""
    return {c for c in text if not (c == "\n" or c.isprintable() or unicodedata.category(c) == "Zs")}


def run(capsys, *arguments, code=0):
    """What a command says; nothing in it acts."""
    capsys.readouterr()
    found = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    assert found == code, err
    assert not raw(out)
    assert not raw(err)
    assert code == 0 or err.count("\n") == 1, "an error is one line, whatever the name"
    return out, err


def check_pages(folder):
    pages = [path for path in pathlib.Path(folder).rglob("*") if path.suffix in (".html", ".csv", ".json", ".svg")]
    assert {".html", ".json"} <= {path.suffix for path in pages}
    for path in pages:
        assert not raw(path.read_bytes().decode("utf-8")), path


def test_every_such_character_is_shown_as_an_escape_and_every_other_as_it_is():
    assert visible("\x1b[31m\x07\r\t\n\x7f\x9b\u202e\udcff\ud800\U000e0001") == (
        r"\x1b[31m\x07\r\t\n\x7f\x9b\u202e\xff\ud800\U000e0001"
    )
    for text in ("plain", "Grüße, 日本語\u3000\N{NO-BREAK SPACE}±", "C:\\x1b", "[bold]", ""):
        assert visible(text) == text
    assert visible("a\nb\r", lines=True) == "a\nb\\r"
    for code in range(0x110000):
        shown = visible(chr(code))
        assert not raw(shown)
        assert "\n" not in shown
        assert visible(shown) == shown


@pytest.mark.parametrize("thing", ["x" * 10**6, ["x" * 10**5] * 10**4, {"a": "\x1b" * 10**5}, "\x1b\u202e\udcff", None, 10**50])
def test_what_an_error_repeats_is_short_and_shows_itself(thing):
    assert len(short(thing)) < 8 * LONGEST
    assert not raw(short(thing))
    assert len(short("x" * 10**6)) <= LONGEST + 5


def test_reports_of_files_with_such_names(name, capsys):
    path = posterior(f"{name}.npz")
    shown = visible(path)
    out, err = run(capsys, "estimate", "--checkpoint", path, "--methods", "closed-form", "--out", f"{name}.out")
    assert f"Given: {shown}, N = 60" in out
    assert f"report written to {visible(name)}.out" in err
    assert shown.replace("\\n", "\n") in pathlib.Path(f"{name}.out/report.html").read_text("utf-8")
    out, err = run(capsys, "holes", "--checkpoint", path, "--num-samples", "200", "--out", f"{name}.out")
    assert f"Given: {shown}: N = 60" in out
    out, err = run(capsys, "compare", path, posterior("b.npz"), "--methods", "closed-form", "--out", f"{name}.out")
    assert shown in out
    with open(f"{name}.out/comparison.csv", encoding="utf-8") as file:
        assert {row["checkpoint"] for row in csv.DictReader(file)} == {shown, "b.npz"}
    check_pages(f"{name}.out")
    for command in ("estimate", "holes"):
        out, _ = run(capsys, command, "--checkpoint", path, "--json", *(["--methods", "closed-form"] * (command == "estimate")))
        assert json.loads(out)["provenance"]["input"] == path, "a machine gets the name as it is"


def test_checkpoints_in_folders_with_such_names(name, genuine, capsys):
    pathlib.Path(name).mkdir()
    path = pathlib.Path(name) / "checkpoint.safetensors"
    path.write_bytes(genuine.read_bytes())
    few = ["--device", "cpu", "--checkpoint", path]
    commands = {
        "estimate": ["--methods", "closed-form", "--out", f"{name}.out"],
        "holes": ["--num-samples", "1000", "--out", f"{name}.out"],
        "evaluate": ["--metrics", "latents", "--net", "values", "--num-samples", "60", "--out", f"{name}.out"],
        "sample": ["--out", f"{name}.png", "--num", "4"],
        "reconstruct": ["--out", f"{name}.png", "--num", "4"],
    }
    is_text = not any(0xD800 <= ord(c) < 0xE000 for c in name)  # safetensors opens no other names
    for command, rest in commands.items():
        out, err = run(capsys, command, *few, *rest, code=0 if is_text else 2)
        assert visible(name) in out + err or "rename it" in err
    if is_text:
        check_pages(f"{name}.out")


def test_what_is_not_there_and_what_is_not_understood(name, genuine, capsys):
    file = posterior("q.npz")
    for arguments in (
        ["estimate", "--checkpoint", f"{name}.npz"],
        ["estimate", "--checkpoint", f"{name}.safetensors"],
        ["sample", "--checkpoint", f"{name}.safetensors"],
        ["reconstruct", "--checkpoint", f"{name}.safetensors"],
        ["evaluate", "--checkpoint", f"{name}.safetensors"],
        ["holes", "--checkpoint", name],
        ["compare", f"{name}.npz"],
        ["estimate", "--checkpoint", file, f"--{name}"],
        ["estimate", "--checkpoint", file, "--num-samples", name],
        ["estimate", "--checkpoint", file, "--methods", name],
        ["estimate", "--checkpoint", file, "--prior", name],
        ["estimate", "--checkpoint", file, "--prior", f"mixture:{name}.npz"],
        ["estimate", "--checkpoint", file, "--prior", f"flow:{name}"],
        ["estimate", "--checkpoint", genuine, "--data", name],
        ["estimate", "--checkpoint", genuine, "--data", f"digits:{name}=1"],
        ["evaluate", "--checkpoint", genuine, "--net", name, "--metrics", "fid"],
        ["train", "vae", "--dataset", name, "--steps", "1", "--out", "run"],
        ["train", name],
        ["data", "show", name],
        ["data", "fetch", name],
        ["data", name],
        ["synthetic", name],
        [name],
    ):
        run(capsys, *arguments, code=2)
    run(capsys, "data", "list", "--data-root", name)


def test_data_in_files_with_such_names(name, genuine, capsys):
    np.save(f"{name}.npy", registry.load("datasets", "digits")().load("test").x.numpy())
    np.save(f"{name}2.npy", np.random.default_rng(0).normal(size=(40, 2)))
    for path in (f"{name}.npy", f"{name}2.npy"):
        out, _ = run(capsys, "data", "show", path, "--out", f"{name}.png")
        assert visible(path) in out
        run(capsys, "data", "show", path, "--out", f"{name}.png", "--json")
    estimate = ["estimate", "--checkpoint", genuine, "--methods", "closed-form", "--device", "cpu"]
    run(capsys, *estimate, "--data", f"{name}.npy", "--out", "out")
    check_pages("out")


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
@pytest.mark.parametrize("place", ["dataset", "system"])
def test_words_in_the_header_of_a_checkpoint_that_is_refused(place, text, genuine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tensors, settings = read(genuine)
    write(pathlib.Path("said.safetensors"), tensors, settings | {place: text})
    run(capsys, "estimate", "--checkpoint", "said.safetensors", "--methods", "closed-form", "--device", "cpu", code=2)
    run(capsys, "evaluate", "--checkpoint", "said.safetensors", "--metrics", "latents", "--device", "cpu", code=2)
    run(capsys, "compare", "said.safetensors", "--methods", "closed-form", "--device", "cpu", code=2)


def test_words_in_the_header_of_a_checkpoint_that_is_read(genuine, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tensors, settings = read(genuine)
    text = "".join(TEXTS).encode("utf-8", "replace").decode()  # half a letter makes settings no JSON that is read
    write(pathlib.Path("said.safetensors"), tensors, settings | {text: [text], "commit": text})
    given = ["--checkpoint", "said.safetensors", "--device", "cpu"]
    run(capsys, "estimate", *given, "--methods", "closed-form", "--out", "out")
    run(capsys, "holes", *given, "--num-samples", "1000", "--out", "out")
    run(capsys, "evaluate", *given, "--metrics", "latents", "--net", "values", "--num-samples", "60", "--out", "out")
    check_pages("out")


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_words_in_other_files(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    encodable = text.encode("utf-8", "replace").decode().replace("\x00", "0")
    blob = {"mean": torch.zeros(3, 2), encodable: torch.zeros(3, 2)}
    pathlib.Path("tensors.safetensors").write_bytes(save({encodable: torch.zeros(3, 2)}))
    pathlib.Path("names.safetensors").write_bytes(save(blob))
    pathlib.Path("kind.safetensors").write_bytes(save(blob, {"klprobe.kind": encodable}))
    np.savez("members.npz", **{"mean": np.zeros((3, 2)), encodable: np.zeros((3, 2))})
    for name, entry in {"zip.pt": "a/code/b.py", "zip.pt2": "a/models/model.json", "weights.pt": "a/data.pkl"}.items():
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr(entry, json.dumps({"schema_version": text}))
            archive.writestr(f"{encodable}/x", text.encode("utf-8", "replace"))
    for folder, name in {"diffusers": "config.json", "pythae": "model_config.json"}.items():
        pathlib.Path(folder).mkdir()
        pathlib.Path(folder, name).write_text(json.dumps({"_class_name": text, "name": text, "latent_dim": text}))
    for path in sorted(pathlib.Path().iterdir()):
        capsys.readouterr()
        code = main(["estimate", "--checkpoint", str(path), "--methods", "closed-form"])
        out, err = capsys.readouterr()
        assert code in (0, 2)
        assert not raw(out + err), path


def test_a_cell_that_a_spreadsheet_would_run_is_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("=1+1", "@x", "+1"):
        run(capsys, "compare", posterior(f"{name}.npz"), "--methods", "closed-form", "--out", "out")
        with open("out/comparison.csv", encoding="utf-8") as file:
            assert {row["checkpoint"] for row in csv.DictReader(file)} == {f"'{name}.npz"}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_no_encoding_of_the_streams_stops_an_answer(encoding, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "".join(NAMES.values())
    path = posterior(f"{name}é±.npz")
    command = [sys.executable, "-m", "klprobe", "estimate", "--checkpoint", path, "--methods", "closed-form", "--out", name]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": encoding}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not raw(done.stdout.decode(encoding))
    assert not raw(done.stderr.decode(encoding))


def test_on_a_terminal_only_klprobes_own_styles_act(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "".join(NAMES.values())
    path = posterior(f"{name}.npz")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "klprobe", "estimate", "--checkpoint", path, "--methods", "monte-carlo"]
    command += ["--num-samples", "100", "--out", f"{name}.out"]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs, env=os.environ | {"COLUMNS": "400"}) as process:
        os.close(theirs)
        said = b""
        while True:
            try:
                said += os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    text = said.decode("utf-8")
    assert process.returncode == 0, text
    assert "\x1b[1m" in text, "klprobe's own styles are there"
    assert visible(name) in text
    for act in ("\x1b[31mred", "\x07", "\b", "\u202e", "\u2066", "\x9b", "\x7f", "\nall is well"):
        assert act not in text


def test_nothing_but_the_door_prints():
    """Files of the command line say what they say through `klprobe.cli.output`."""
    folder = pathlib.Path(output.__file__).parent
    for path in sorted(folder.glob("*.py")):
        text = path.read_text()
        if path.name != "output.py":
            for word in ("print(", "sys.stderr.write", "sys.stdout.write", "stderr.buffer"):
                assert word not in text, path.name


def test_a_message_of_any_length_is_cut(capsys):
    output.say("x" * 10**6)
    err = capsys.readouterr().err
    assert len(err) < 2000
    assert err.startswith("klprobe: xxx")
