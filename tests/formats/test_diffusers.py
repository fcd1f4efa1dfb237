"""Auto-encoders of diffusers beyond the plain one: other classes, other files of weights, old names, and what is refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from klprobe.cli import main
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.formats import Request, load
from klprobe.formats.diffusers import MODELS
from klprobe.types import CapabilityError, InputError

diffusers = pytest.importorskip("diffusers", reason="the extra [diffusers] is not installed")
WEIGHTS = "diffusion_pytorch_model.safetensors"
ONE = {"in_channels": 1, "out_channels": 1}
KL = {**ONE, "block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 2}
DC = {"in_channels": 1, "latent_channels": 4}
for side in ("encoder", "decoder"):
    DC |= {f"{side}_block_types": ("ResBlock",) * 2, f"{side}_block_out_channels": (8, 8)}
    DC |= {f"{side}_layers_per_block": (1, 1), f"{side}_qkv_multiscales": ((), ())}
SETTINGS = {
    "AutoencoderKL": KL,
    "AsymmetricAutoencoderKL": {
        **{key: value for key, value in KL.items() if key != "block_out_channels"},
        "down_block_out_channels": (8,),
        "up_block_out_channels": (8,),
    },
    "AutoencoderKLTemporalDecoder": {**ONE, "block_out_channels": (32,), "latent_channels": 2},
    "AutoencoderTiny": {
        **ONE,
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
        "latent_channels": 2,
    },
    "AutoencoderDC": DC,
    "VQModel": {**KL, "num_vq_embeddings": 16},
}


def make(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(diffusers, name)(**SETTINGS[name]).eval()


@pytest.fixture(scope="module")
def images(x, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "x.npy"
    np.save(path, x[:50].reshape(-1, 1, 8, 8).numpy())
    return path


@pytest.fixture(scope="module")
def request_(images):
    return Request(data=str(images), value_range=(-1, 1))


@pytest.fixture(scope="module")
def points(images):
    return 2 * torch.from_numpy(np.load(images)) - 1


def test_every_class_that_is_claimed_is_tried():
    assert set(MODELS) == set(SETTINGS)


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if kind == "gaussian"])
def test_a_gaussian_is_the_models_own(name, request_, points, tmp_path):
    model = make(name)
    model.save_pretrained(tmp_path)
    _check_gaussian(load(tmp_path, request_), model, points)


def _check_gaussian(encoded, model, points, rtol=1e-3, atol=1e-4):
    with torch.no_grad():
        q = model.encode(points).latent_dist
    assert isinstance(encoded.posterior, DiagonalGaussian)
    mean, std = encoded.posterior.rows(slice(None))
    torch.testing.assert_close(mean.float(), q.mean.flatten(1), rtol=rtol, atol=atol)
    torch.testing.assert_close(std.float(), q.std.flatten(1), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if kind == "deterministic"])
def test_latents_without_a_spread_are_deterministic_and_have_no_prior(name, request_, points, tmp_path):
    model = make(name)
    model.save_pretrained(tmp_path)
    encoded = load(tmp_path, request_)
    with torch.no_grad():
        z = model.encode(points, return_dict=False)[0]
    assert isinstance(encoded.posterior, SampleOnly)
    assert encoded.posterior.deterministic
    torch.testing.assert_close(encoded.posterior.samples, z.flatten(1), rtol=1e-3, atol=1e-4)
    assert any("N(0, I) is a yardstick" in note for note in encoded.notes)


def test_a_vqmodel_gives_the_use_of_its_codebook(request_, points, tmp_path):
    model = make("VQModel")
    model.save_pretrained(tmp_path)
    encoded = load(tmp_path, request_)
    with torch.no_grad():
        h = model.encode(points).latents.permute(0, 2, 3, 1).reshape(-1, 2)
        nearest = (h[:, None] - model.quantize.embedding.weight).square().sum(-1).argmin(1)
    share = torch.bincount(nearest, minlength=16).double() / len(nearest)
    usage = encoded.provenance["codebook"]
    assert (usage["entries"], usage["places"], usage["dead"]) == (16, 64, int((share == 0).sum()))
    entropy = -float(torch.xlogy(share, share).sum())
    assert usage["kl_to_uniform"] == pytest.approx(math.log(16) - entropy, abs=1e-3)  # a near tie may fall either way
    assert usage["perplexity"] == pytest.approx(math.exp(entropy), rel=1e-3)


def fp16(model, folder):
    model.half().save_pretrained(folder, variant="fp16")
    model.float()
    return 1e-2


def shards(model, folder):
    model.save_pretrained(folder, max_shard_size="5KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return 1e-3


def pickled(model, folder):
    model.save_pretrained(folder, safe_serialization=False)
    assert not list(folder.glob("*.safetensors"))
    return 1e-3


def old_names(model, folder):
    model.save_pretrained(folder)
    weights = load_file(folder / WEIGHTS)
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        weights = {name.replace(new, old): tensor for name, tensor in weights.items()}
    assert any(".query." in name for name in weights)
    save_file(weights, folder / WEIGHTS)
    return 1e-3


@pytest.mark.parametrize("write", [fp16, shards, pickled, old_names])
def test_weights_are_read_from_every_file_that_diffusers_writes_or_wrote(write, request_, points, tmp_path):
    model = make("AutoencoderKL")
    tolerance = write(model, tmp_path)
    _check_gaussian(load(tmp_path, request_), model, points, tolerance, tolerance)


def test_two_variants_without_the_usual_one_are_not_chosen_from(request_, tmp_path):
    model = make("AutoencoderKL")
    model.save_pretrained(tmp_path, variant="fp16")
    (tmp_path / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(
        (tmp_path / "diffusion_pytorch_model.fp16.safetensors").read_bytes()
    )
    with pytest.raises(InputError, match=r"fp16.safetensors and diffusion_pytorch_model.non_ema.safetensors, and klprobe does"):
        load(tmp_path, request_)


def test_an_index_that_names_files_elsewhere_is_refused(request_, tmp_path):
    make("AutoencoderKL").save_pretrained(tmp_path, max_shard_size="5KB")
    index = {"weight_map": {"encoder.conv_in.weight": "../elsewhere.safetensors"}}
    (tmp_path / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="names files that are not beside it"):
        load(tmp_path, request_)


def test_a_pipeline_is_pointed_at_its_auto_encoder(request_, tmp_path, capsys):
    make("AutoencoderKL").save_pretrained(tmp_path / "vae")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1"}')
    assert main(["estimate", "--checkpoint", str(tmp_path), "--data", request_.data]) == 2
    assert f"give its auto-encoder, --checkpoint {tmp_path / 'vae'}." in " ".join(capsys.readouterr().err.split())
    (tmp_path / "vae" / "config.json").unlink()
    with pytest.raises(InputError, match="without an auto-encoder that klprobe runs"):
        load(tmp_path, request_)


@pytest.mark.parametrize("name", ["AutoencoderKLCogVideoX", "UNet2DConditionModel", "AutoencoderOobleck"])
def test_other_models_of_diffusers_are_named_with_the_reason(name, request_, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": name, "_diffusers_version": "0.42.1"}))
    with pytest.raises(CapabilityError, match=rf"is a {name} of diffusers; klprobe runs AutoencoderKL, .*latent_dist"):
        load(tmp_path, request_)


def test_the_range_of_pipelines_is_said_where_none_is_asked_for(images, tmp_path, capsys):
    make("AutoencoderKL").save_pretrained(tmp_path)
    assert any("say --range=-1,1" in note for note in load(tmp_path, Request(data=str(images))).notes)
    assert not any("say --range" in note for note in load(tmp_path, Request(data=str(images), value_range=(-1, 1))).notes)
    assert "should be kept in float32" not in capsys.readouterr().err, "diffusers warns of what is no danger here"
