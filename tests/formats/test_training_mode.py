"""An encoder saved with dropout on, or batch normalisation in training mode, is found by running it, whatever the format."""

import contextlib
import json

import numpy as np
import pytest
import torch

from klprobe.cli import main
from klprobe.formats import Request, load
from klprobe.types import InputError


@pytest.fixture(params=["dropout", "batch normalisation"])
def left_on(request, network):
    """A fresh encoder with one of its layers in training mode, and the layer's name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = network.Encoder().eval()
    module.body[3 if request.param == "dropout" else 1].train()
    return module, request.param


@pytest.mark.filterwarnings("ignore")
def test_in_an_exported_program(left_on, x, data, tmp_path):
    module, name = left_on
    with torch.random.fork_rng():
        torch.export.save(torch.export.export(module, (x[:64],)), tmp_path / "encoder.pt2")
    with pytest.raises(InputError, match=name):
        load(tmp_path / "encoder.pt2", Request(data=data))


@pytest.mark.filterwarnings("ignore")
def test_in_an_onnx_model_it_is_found_or_has_no_effect(left_on, x, data, tmp_path, agrees, encoder):
    """onnxruntime leaves some dropout nodes out by itself, and then the answer is that of the network in eval mode."""
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnx", reason="torch's exporter needs onnx")
    module, name = left_on
    module.load_state_dict(encoder.state_dict())
    keep = torch.onnx.TrainingMode.PRESERVE
    with torch.random.fork_rng():
        torch.onnx.export(module, (x[:64],), tmp_path / "encoder.onnx", dynamo=False, training=keep, do_constant_folding=False)
    with contextlib.suppress(InputError) if name == "dropout" else pytest.raises(InputError, match=name):
        agrees(load(tmp_path / "encoder.onnx", Request(data=data)))


def test_in_weights_and_scripts_and_pickled_modules_it_is_put_in_eval_mode(left_on, data, tmp_path, agrees, encoder):
    """They carry the layer itself, so nothing of training is left in the answer."""
    module, _ = left_on
    module.load_state_dict(encoder.state_dict())
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    agrees(load(tmp_path / "weights.pt", Request(data=data, encoder="tiny_network:Encoder")))
    torch.jit.script(module).save(tmp_path / "script.pt")
    agrees(load(tmp_path / "script.pt", Request(data=data)))
    torch.save(module, tmp_path / "module.pt")
    agrees(load(tmp_path / "module.pt", Request(data=data, allow_pickle=True)))


def test_means_alone_are_called_deterministic_with_infinite_mutual_information(tmp_path, capsys):
    np.savez(tmp_path / "codes.npz", mean=np.random.default_rng(0).normal(size=(200, 2)))
    flags = ["--methods", "gmm", "--gmm.steps", "20", "--gmm.components", "2"]
    assert main(["estimate", "--checkpoint", str(tmp_path / "codes.npz"), *flags]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "infinite: the encoder is deterministic" in said
    assert "its mutual information is infinite" in said


def test_pseudo_inputs_go_through_the_encoder_itself(encoder, x, tmp_path, capsys):
    """With all points as pseudo-inputs the VampPrior is q_N, and KL[q_N||q_N] is 0 to the last bits."""
    torch.jit.script(encoder).save(tmp_path / "encoder.pt")
    np.save(tmp_path / "few.npy", x[:60].numpy())
    few = str(tmp_path / "few.npy")
    flags = ["--data", few, "--prior", f"vampprior:{few}", "--methods", "monte-carlo", "--num-samples", "200", "--json"]
    assert main(["estimate", "--checkpoint", str(tmp_path / "encoder.pt"), *flags]) in (0, 3)
    estimates = json.loads(capsys.readouterr().out)["estimates"]
    (exact,) = [e for e in estimates if (e["quantity"], e["bound"]) == ("kl", "exact")]
    assert abs(exact["value"]) < 1e-9
