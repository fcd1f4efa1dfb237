"""ONNX models that torch's exporter wrote, run by onnxruntime."""

import pytest
import torch

from klprobe.cli import main
from klprobe.distributions.posteriors import SampleOnly
from klprobe.formats import Request, load
from klprobe.types import InputError

pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
pytest.importorskip("onnx", reason="torch's exporter needs onnx to write the models of these tests")


def export(module, points, path, **names):
    with torch.random.fork_rng():
        torch.onnx.export(module, (points,), path, dynamo=False, **names)
    return path


ANY = {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [["z_mean", "z_log_var"], ["out_0", "out_1"]])
def test_an_onnx_encoder_gives_what_its_network_gives(encoder, x, data, tmp_path, agrees, names):
    path = export(encoder, x[:8], tmp_path / "encoder.onnx", output_names=names, **ANY)
    encoded = load(path, Request(data=data))
    agrees(encoded)
    assert encoded.provenance["outputs"] == {"mean": names[0], "logvar": names[1]}


@pytest.mark.filterwarnings("ignore")
def test_a_model_exported_for_one_batch_size_takes_any_number_of_points(encoder, x, data, tmp_path, agrees):
    path = export(encoder, x[:50], tmp_path / "encoder.onnx")
    encoded = load(path, Request(data=data))
    agrees(encoded)
    assert any("50 points at a time" in note for note in encoded.notes)


class Sampler(torch.nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        mean, logvar = self.encoder(x)
        return mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)


@pytest.mark.filterwarnings("ignore")
def test_an_exported_sampler_is_sample_only_and_says_so(encoder, x, data, tmp_path):
    path = export(Sampler(encoder).eval(), x[:8], tmp_path / "sampler.onnx", **ANY)
    encoded = load(path, Request(data=data))
    assert isinstance(encoded.posterior, SampleOnly)
    assert not encoded.posterior.deterministic
    assert any("read as samples" in note for note in encoded.notes)
    with torch.no_grad():
        mean, logvar = encoder(x)
    z = (encoded.posterior.samples - mean) / (0.5 * logvar).exp()
    assert abs(z.square().mean() - 1) < 6 * (2 / z.numel()) ** 0.5


def test_a_damaged_model_is_refused(tmp_path, data, capsys):
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07garbage" * 9)
    assert main(["estimate", "--checkpoint", str(tmp_path / "bad.onnx"), "--data", data]) == 2
    assert "export it again" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_points_of_another_shape_are_refused_with_what_is_wanted(encoder, x, tmp_path):
    import numpy as np

    path = export(encoder, x[:8], tmp_path / "encoder.onnx", **ANY)
    np.save(tmp_path / "wide.npy", np.zeros((20, 65), np.float32))
    with pytest.raises(InputError, match=r"shape \(65,\).*needs points of shape \(64\)"):
        load(path, Request(data=str(tmp_path / "wide.npy")))
