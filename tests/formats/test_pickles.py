"""Pickles: closed without --allow-pickle, whatever else is asked; opened with it, and said beforehand."""

import pickle
import sys

import numpy as np
import pytest
import torch

from klprobe.cli import main
from klprobe.files.child import Limits
from klprobe.files.weights import read_weights
from klprobe.formats import Request, load
from klprobe.types import InputError

QUICK = ["--methods", "monte-carlo", "--num-samples", "100"]


def run(path, *flags):
    return main(["estimate", "--checkpoint", str(path), *QUICK, *flags])


@pytest.fixture(params=["zip", "legacy"])
def saved(request, vae, tmp_path):
    """A whole module, by either of torch's two ways of writing."""
    torch.save(vae, tmp_path / "model.pth", _use_new_zipfile_serialization=request.param == "zip")
    return tmp_path / "model.pth"


def test_a_whole_module_is_refused_without_the_flag_and_the_flag_is_named(saved, data, capsys):
    assert run(saved, "--data", data) == 2
    err = capsys.readouterr().err
    assert "--allow-pickle" in err
    assert "may run any code" in err


def test_with_the_flag_the_module_is_encoded_and_stderr_says_what_opening_it_means(saved, data, agrees, capsys):
    encoded = load(saved, Request(data=data, allow_pickle=True))
    agrees(encoded)
    assert encoded.provenance["format"] == "pickled-module"
    assert encoded.provenance["class"] == "tiny_network.VAE"
    assert run(saved, "--data", data, "--allow-pickle") == 0
    err = capsys.readouterr().err
    assert f"--allow-pickle: opening {saved} runs the code in it" in err


def test_the_warning_comes_before_the_file_is_opened(malice, tmp_path, data, capsys):
    """The program stops inside the pickle, and has said so already."""
    torch.save({"model": malice}, tmp_path / "model.pt")
    assert run(tmp_path / "model.pt", "--data", data, "--allow-pickle") == 2
    assert malice.mark.exists(), "with the flag the code does run: that is what the flag says"
    lines = capsys.readouterr().err.splitlines()
    assert "runs the code in it" in lines[0]
    assert "not a torch module" in lines[1]


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ckpt", "model.bin", "model.pkl", "model"])
@pytest.mark.parametrize(
    "flags", [(), ("--encoder", "tiny_network:VAE"), ("--outputs", "mean,logvar"), ("--prior", "mixture:{}")]
)
def test_without_the_flag_no_code_runs_whatever_else_is_asked(vae, malice, tmp_path, data, name, flags, network, capsys):
    vae.decoder.trap = malice
    try:
        torch.save(vae, tmp_path / name)
    finally:
        del vae.decoder.trap
    assert run(tmp_path / name, "--data", data, *(flag.format(tmp_path / name) for flag in flags)) == 2
    assert not malice.mark.exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_named_as_data_or_prior_is_never_unpickled_even_with_the_flag(encoder, malice, tmp_path, data):
    """The flag is about the checkpoint, and only about it."""
    torch.save(encoder, tmp_path / "encoder.pt")
    (tmp_path / "x.npy").write_bytes(pickle.dumps(malice))
    np.savez(tmp_path / "prior.npz", mean=np.array([[malice, malice]] * 3, dtype=object))
    torch.save(malice, tmp_path / "prior.pt")
    checkpoint = tmp_path / "encoder.pt"
    assert run(checkpoint, "--allow-pickle", "--data", str(tmp_path / "x.npy")) == 2
    for prior in ("prior.npz", "prior.pt"):
        assert run(checkpoint, "--allow-pickle", "--data", data, "--prior", f"mixture:{tmp_path / prior}") == 2
    assert not malice.mark.exists()


def test_a_checkpoint_with_more_than_tensors_gives_its_weights_with_and_without_the_flag(vae, tmp_path, data, agrees):
    import argparse

    held = {"state_dict": vae.state_dict(), "hyper_parameters": argparse.Namespace(lr=0.1)}
    torch.save(held, tmp_path / "last.ckpt")
    for flag in (False, True):
        agrees(load(tmp_path / "last.ckpt", Request(data=data, encoder="tiny_network:VAE", allow_pickle=flag)))
    torch.save({"state_dict": {**vae.state_dict(), "more": argparse.Namespace(lr=0.1)}}, tmp_path / "inside.ckpt")
    with pytest.raises(InputError, match=r"asks Python for argparse.Namespace.*--allow-pickle"):
        load(tmp_path / "inside.ckpt", Request(data=data, encoder="tiny_network:VAE"))


def test_dropout_and_batch_normalisation_are_put_in_eval_mode_and_that_is_said(vae, tmp_path, data, agrees):
    torch.save(vae.train(), tmp_path / "model.pt")
    vae.eval()
    encoded = load(tmp_path / "model.pt", Request(data=data, allow_pickle=True))
    agrees(encoded)
    assert any("saved in training mode" in note for note in encoded.notes)


def test_what_holds_no_module_or_needs_code_that_is_not_there_is_refused(tmp_path, data, vae, monkeypatch):
    torch.save(vae.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"holds a .*[dD]ict.*--encoder"):
        load(tmp_path / "weights.pt", Request(data=data, allow_pickle=True))
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(InputError, match=r"cannot be opened|not a torch module"):
        load(tmp_path / "plain.pkl", Request(data=data, allow_pickle=True))
    torch.save(vae, tmp_path / "model.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "model.pt").read_bytes()[:-100])
    with pytest.raises(InputError):
        load(tmp_path / "cut.pt", Request(data=data, allow_pickle=True))
    monkeypatch.setitem(sys.modules, "tiny_network", None)
    with pytest.raises(InputError, match="code that Python does not find here"):
        load(tmp_path / "model.pt", Request(data=data, allow_pickle=True))


def test_nothing_runs_of_what_stays_closed(vae, malice, tmp_path):
    torch.save({"state_dict": vae.state_dict(), "hyper_parameters": malice}, tmp_path / "last.ckpt")
    assert read_weights(tmp_path / "last.ckpt", Limits()).keys() == vae.state_dict().keys()
    torch.save({"state_dict": {**vae.state_dict(), "more": malice}}, tmp_path / "inside.ckpt")
    with pytest.raises(InputError, match="asks Python for"):
        read_weights(tmp_path / "inside.ckpt", Limits())
    assert not malice.mark.exists()
