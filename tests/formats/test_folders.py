"""Model folders that pythae and diffusers wrote, of models that their own code built and trained for a few steps."""

import json
import pickle

import numpy as np
import pytest
import torch

import klprobe
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.formats import Request, load
from klprobe.types import CapabilityError, InputError


@pytest.fixture(scope="module")
def images(x, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "x.npy"
    np.save(path, x[:200].reshape(-1, 1, 8, 8).numpy())
    return path


@pytest.fixture(scope="module")
def pythae_folder(x, tmp_path_factory):
    models = pytest.importorskip("pythae.models", reason="the extra [pythae] is not installed")
    folder = tmp_path_factory.mktemp("pythae")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.VAE(models.VAEConfig(input_dim=(1, 8, 8), latent_dim=3))
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for start in range(0, 300, 100):
            loss = model({"data": x[start : start + 100].reshape(-1, 1, 8, 8)}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save(str(folder))
    return folder, model.eval()


def test_a_pythae_folder_gives_what_its_encoder_gives(pythae_folder, images, x):
    folder, model = pythae_folder
    encoded = load(folder, Request(data=str(images)))
    with torch.no_grad():
        out = model.encoder(x[:200].reshape(-1, 1, 8, 8))
    mean, std = encoded.posterior.rows(slice(None))
    torch.testing.assert_close(mean.float(), out.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std.float(), (0.5 * out.log_covariance).exp(), rtol=1e-4, atol=1e-5)
    assert encoded.provenance["model"] == "VAE"


def test_what_pythae_pickles_stays_closed(pythae_folder, images, malice, tmp_path):
    source, _ = pythae_folder
    config = json.loads((source / "model_config.json").read_text())
    (tmp_path / "model.pt").write_bytes((source / "model.pt").read_bytes())
    (tmp_path / "encoder.pkl").write_bytes(pickle.dumps(malice))
    (tmp_path / "model_config.json").write_text(json.dumps({**config, "uses_default_encoder": False}))
    with pytest.raises(InputError, match="never unpickles"):
        load(tmp_path, Request(data=str(images)))
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    torch.save({"model_state_dict": malice}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="asks Python for"):
        load(tmp_path, Request(data=str(images)))
    assert not malice.mark.exists()
    (tmp_path / "model_config.json").write_text(json.dumps({**config, "name": "HVAEConfig"}))
    with pytest.raises(CapabilityError, match="Hamiltonian"):
        load(tmp_path, Request(data=str(images)))


def test_a_configuration_that_claims_a_huge_network_is_refused_before_it_is_built(pythae_folder, images, tmp_path):
    source, _ = pythae_folder
    config = json.loads((source / "model_config.json").read_text())
    (tmp_path / "model.pt").write_bytes((source / "model.pt").read_bytes())
    for size, words in ((10**12, "beyond every network"), (10**6, r"does not fit VAE: .*of another shape")):
        (tmp_path / "model_config.json").write_text(json.dumps({**config, "latent_dim": size}))
        with pytest.raises(InputError, match=words):
            load(tmp_path, Request(data=str(images)))


def test_a_diffusers_folder_gives_flattened_latents_and_says_how_to_scale_them(images, x, tmp_path):
    diffusers = pytest.importorskip("diffusers", reason="the extra [diffusers] is not installed")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = diffusers.AutoencoderKL(
            in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4, latent_channels=2, sample_size=8
        )
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        batch = 2 * x[:16].reshape(-1, 1, 8, 8) - 1
        for _ in range(2):
            q = model.encode(batch).latent_dist
            loss = (model.decode(q.mode()).sample - batch).square().mean() + 1e-3 * q.kl().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval().save_pretrained(tmp_path / "vae", safe_serialization=True)
    encoded = load(tmp_path / "vae", Request(data=str(images), value_range=(-1, 1)))
    with torch.no_grad():
        q = model.encode(2 * x[:200].reshape(-1, 1, 8, 8) - 1).latent_dist
    assert isinstance(encoded.posterior, DiagonalGaussian)
    mean, std = encoded.posterior.rows(slice(None))
    torch.testing.assert_close(mean.float(), q.mean.flatten(1), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(std.float(), q.std.flatten(1), rtol=1e-3, atol=1e-4)
    assert any("--prior normal:scale=5.4899" in note for note in encoded.notes)
    assert encoded.provenance["scaling_factor"] == pytest.approx(0.18215)
    assert encoded.parts == {"channel 0": slice(0, 64), "channel 1": slice(64, 128)}
    report = klprobe.estimate(encoded.posterior, methods=["closed-form"], parts=encoded.parts)
    with torch.no_grad():
        by_channel = 0.5 * (q.mean.square() + q.var - 1 - q.logvar).sum((2, 3)).mean(0)
    for part, kl in zip(report.parts, by_channel, strict=True):
        assert part.average_kl.value == pytest.approx(float(kl), rel=1e-3)


@pytest.mark.parametrize("key", ["name", "latent_dim", "input_dim", "uses_default_encoder"])
@pytest.mark.parametrize("value", [None, -1, 10**9, "os:system", "a" * 10**5, [], {}, [1] * 9, True])
def test_no_value_in_pythaes_configuration_gets_further_than_a_refusal(pythae_folder, images, tmp_path, key, value):
    source, _ = pythae_folder
    config = json.loads((source / "model_config.json").read_text())
    (tmp_path / "model.pt").write_bytes((source / "model.pt").read_bytes())
    (tmp_path / "model_config.json").write_text(json.dumps({**config, key: value}))
    if (key, value) != ("uses_default_encoder", True):
        with pytest.raises(InputError):
            load(tmp_path, Request(data=str(images)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers_per_block": 10**9}, "beyond every network"),
        ({"layers_per_block": 10**6}, "far more (tensors|modules) than"),
        ({"block_out_channels": [10**9]}, "beyond every network"),
        ({"down_block_types": ["os.system"]}, "does not fit this diffusers"),
        ({"latent_channels": [[[]]]}, "does not fit"),
    ],
)
def test_a_configuration_of_diffusers_can_claim_nothing_that_the_weights_do_not_hold(images, tmp_path, changes, words):
    diffusers = pytest.importorskip("diffusers", reason="the extra [diffusers] is not installed")
    with torch.random.fork_rng():
        model = diffusers.AutoencoderKL(in_channels=1, out_channels=1, block_out_channels=(4,), norm_num_groups=2)
    model.save_pretrained(tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=words):
        load(tmp_path, Request(data=str(images)))
    (tmp_path / "config.json").write_text("[" * 10**5)
    with pytest.raises(InputError):
        load(tmp_path, Request(data=str(images)))
