"""Every model class of pythae: its own posterior and its own prior, or a sentence why not."""

import json
import math

import numpy as np
import pytest
import torch

import klprobe
from klprobe.cli import main
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, as_posterior
from klprobe.formats import Request, load
from klprobe.formats.pythae import MODELS, REFUSED
from klprobe.types import CapabilityError, InputError

models = pytest.importorskip("pythae.models", reason="the extra [pythae] is not installed")
EVERY = [name for name in models.__all__ if not name.endswith("Config") and name not in ("BaseAE", "AutoModel")]
QUICK = ("INFOVAE_MMD", "Adversarial_AE", "RAE_L2")
"""Those of their kind that always run, for their names' sake."""


def of_kind(kind):
    return [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n, k in MODELS.items() if k == kind]


def make(name, folder, seed=0, **settings):
    """A model of pythae's, untrained but for larger last weights, so that its posteriors differ between points."""
    config = getattr(models, f"{name}Config", None) or getattr(models, f"{name}_Config")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(models, name)(config(input_dim=(1, 8, 8), latent_dim=3, **settings))
        with torch.no_grad():
            model.encoder.embedding.weight.mul_(4)
    model.save(str(folder))
    return model.eval()


@pytest.fixture(scope="module")
def images(x, tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "x.npy"
    np.save(path, x[:100].reshape(-1, 1, 8, 8).numpy())
    return path


@pytest.fixture(scope="module")
def points(images):
    return torch.from_numpy(np.load(images))


def test_every_model_class_of_pythae_has_a_row():
    assert set(EVERY) == {*MODELS, *REFUSED}


@pytest.mark.parametrize("name", of_kind("gaussian"))
def test_the_gaussian_of_the_encoder_is_the_posterior(name, images, points, tmp_path):
    model = make(name, tmp_path)
    encoded = load(tmp_path, Request(data=str(images)))
    said = model.encoder(points)
    mean, std = encoded.posterior.rows(slice(None))
    torch.testing.assert_close(mean.float(), said.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(std.float(), (0.5 * said.log_covariance).exp(), rtol=1e-4, atol=1e-5)
    assert encoded.prior is None
    assert encoded.provenance["model"] == name


@pytest.mark.parametrize("name", of_kind("deterministic"))
def test_encoders_without_a_spread_are_deterministic(name, images, points, tmp_path):
    model = make(name, tmp_path)
    encoded = load(tmp_path, Request(data=str(images)))
    assert isinstance(encoded.posterior, SampleOnly)
    assert encoded.posterior.deterministic
    torch.testing.assert_close(encoded.posterior.samples, model.encoder(points).embedding, rtol=1e-4, atol=1e-5)
    assert any("trained without a prior" in note for note in encoded.notes) == (name != "WAE_MMD")


def test_an_adversarial_autoencoder_told_to_be_deterministic_does_not_use_the_spread_of_its_encoder(images, tmp_path):
    make("Adversarial_AE", tmp_path, deterministic_posterior=True)
    encoded = load(tmp_path, Request(data=str(images)))
    assert isinstance(encoded.posterior, SampleOnly)
    assert encoded.posterior.deterministic


@pytest.mark.parametrize("name", REFUSED)
def test_posteriors_that_are_not_computed_are_named_with_the_reason(name, images, points, tmp_path):
    config = getattr(models, f"{name}Config")
    make("VAE", tmp_path)
    said = {**json.loads((tmp_path / "model_config.json").read_text()), "name": config.__name__}
    (tmp_path / "model_config.json").write_text(json.dumps(said))
    with pytest.raises(CapabilityError, match=rf"is a {name}, whose .*"):
        load(tmp_path, Request(data=str(images)))


@pytest.fixture(scope="module")
def vamp(points, tmp_path_factory):
    """A VAMP whose pseudo-inputs are spread over the data: five of the points themselves."""
    folder = tmp_path_factory.mktemp("vamp")
    model = make("VAMP", folder, number_components=5)
    with torch.no_grad():
        model.encoder.embedding.bias.add_(torch.tensor([6.0, -4.0, 5.0]))
        model.pseudo_inputs[0].weight.zero_()
        model.pseudo_inputs[0].weight.add_(points[:5].flatten(1).T)
        model.pseudo_inputs[0].bias.zero_()
    model.save(str(folder))
    return folder, model


def brute_force(mean, std, log_prior, draws=20_000):
    """KL[q_N||p] and its standard error, from draws of q_N and its density as a sum over all points."""
    generator = torch.Generator().manual_seed(5)
    which = torch.randint(len(mean), (draws,), generator=generator)
    z = mean[which] + std[which] * torch.randn(draws, mean.shape[1], generator=generator, dtype=torch.float64)
    log_q = (-0.5 * ((z[:, None] - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    ratio = log_q.logsumexp(1) - math.log(len(mean)) - log_prior(z)
    return float(ratio.mean()), float(ratio.std()) / math.sqrt(draws)


def test_a_vamp_is_held_against_its_own_prior(vamp, images, points):
    folder, model = vamp
    encoded = load(folder, Request(data=str(images)))
    with torch.no_grad():
        said = model.encoder(points)
        z = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)) + torch.tensor([6.0, -4.0, 5.0])
        theirs = model._log_p_z(z) - 1.5 * math.log(2 * math.pi)  # which pythae leaves out
    torch.testing.assert_close(encoded.prior.log_prob(z.double()).float(), theirs, rtol=1e-4, atol=1e-3)
    mean, std = said.embedding.detach().double(), (0.5 * said.log_covariance.detach().double()).exp()
    for prior, law in (
        (encoded.prior, encoded.prior.log_prob),
        (None, lambda z: -0.5 * (z.square().sum(1) + 3 * math.log(2 * math.pi))),
    ):
        value, error = brute_force(mean, std, law)
        report = klprobe.estimate(encoded.posterior, prior, methods=["monte-carlo"], marginals=False)
        found = next(e for e in report.estimates if (e.method, e.target, e.bound) == ("monte-carlo", "empirical", "exact"))
        assert abs(found.value - value) < 5 * math.hypot(found.std_error, error)
        assert (value > 30) == (prior is None), "the two priors are far apart, so that a test can tell them"


def test_the_first_lines_say_which_prior(vamp, images, capsys):
    command = [
        "estimate",
        "--checkpoint",
        str(vamp[0]),
        "--data",
        str(images),
        "--methods",
        "monte-carlo",
        "--num-samples",
        "100",
    ]
    assert main(command) == 0
    out, err = capsys.readouterr()
    first = " ".join(out[:500].split())
    assert "against the model's own prior, its VampPrior, the mixture of the posteriors of 5 pseudo-inputs." in first
    assert "--prior normal takes N(0, I)" in err
    assert main([*command, "--prior", "normal"]) == 0
    assert "against --prior normal and not the model's own prior" in " ".join(capsys.readouterr().out[:500].split())


def test_the_density_of_iaf_is_the_change_of_variables_along_its_own_draws(images, points, tmp_path):
    model = make("VAE_IAF", tmp_path, n_made_blocks=3, hidden_size=16).double()
    encoded = load(tmp_path, Request(data=str(images)))
    assert not isinstance(as_posterior(encoded.posterior), DiagonalGaussian)
    _check_density(encoded, model, points, lambda z: model.iaf_flow.inverse(z[None]).out[0])


@pytest.mark.parametrize("flows", [["Radial", "Radial"], ["Planar", "Radial", "Planar"]])
def test_the_density_of_planar_and_radial_flows_is_the_change_of_variables_along_their_own_draws(
    flows, images, points, tmp_path
):
    model = make("VAE_LinNF", tmp_path, flows=flows)
    with torch.no_grad():
        for layer in model.net:
            if hasattr(layer, "u"):
                layer.u.copy_(layer.w.abs() + 0.5 * layer.w)  # w u > 0
    model.save(str(tmp_path))
    model.double()
    encoded = load(tmp_path, Request(data=str(images)))

    def push(z):
        for layer in model.net:
            z = layer(z[None]).out[0]
        return z

    _check_density(encoded, model, points, push)


def _check_density(encoded, model, points, push):
    """log q(z|x_n) of pythae's own draws, with the Jacobian by autograd; and the matrix over all pairs of the same."""
    q = as_posterior(encoded.posterior)
    with torch.no_grad():
        said = model.encoder(points[:8].double())
        mean, std = said.embedding, (0.5 * said.log_covariance).exp()
        z0 = mean + std * torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    log_q, z = [], []
    for n, point in enumerate(z0):
        z.append(push(point).detach())
        base = (-0.5 * ((point - mean[n]) / std[n]).square() - std[n].log()).sum() - 1.5 * math.log(2 * math.pi)
        log_q.append(float(base - torch.linalg.slogdet(torch.autograd.functional.jacobian(push, point))[1]))
    found = q.log_prob_at(torch.stack(z), torch.arange(8))
    torch.testing.assert_close(found, torch.tensor(log_q).double(), rtol=1e-4, atol=1e-3)  # the file holds float32
    pairs = q.log_prob_matrix(torch.stack(z), torch.arange(8))
    torch.testing.assert_close(pairs.diagonal(), found, rtol=1e-9, atol=1e-9)


def test_a_planar_flow_that_is_not_one_to_one_has_no_density_and_says_so(images, tmp_path):
    model = make("VAE_LinNF", tmp_path)
    with torch.no_grad():
        model.net[0].u.copy_(-2 * model.net[0].w / model.net[0].w.square().sum())
    model.save(str(tmp_path))
    with pytest.raises(InputError, match=r"w u = -2, .*not one to one: its q\(z\|x\) has no density; draw its codes"):
        load(tmp_path, Request(data=str(images)))


def test_the_program_estimates_a_flow(images, tmp_path, capsys):
    make("VAE_IAF", tmp_path, hidden_size=8)
    command = ["estimate", "--checkpoint", str(tmp_path), "--data", str(images), "--methods", "monte-carlo"]
    assert main([*command, "--num-samples", "200"]) == 0
    assert "after 2 maps of its flow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"), [("VAMP", "--prior vampprior:pseudo.npy"), ("VAE_IAF", "with a flow behind it, draw")]
)
def test_an_encoder_of_ones_own_is_told_what_else_the_model_needs(name, words, images, tmp_path):
    make(name, tmp_path)
    said = {**json.loads((tmp_path / "model_config.json").read_text()), "uses_default_encoder": False}
    (tmp_path / "model_config.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match=words):
        load(tmp_path, Request(data=str(images)))


@pytest.mark.parametrize("use_ema", [False, True])
def test_a_vqvae_gives_its_codes_and_how_the_codebook_is_used(use_ema, images, points, tmp_path, capsys):
    model = make("VQVAE", tmp_path, num_embeddings=32, use_ema=use_ema)
    encoded = load(tmp_path, Request(data=str(images)))
    with torch.no_grad():
        codes = model({"data": points}).quantized_indices.reshape(100, -1)
    counts = torch.bincount(codes.flatten(), minlength=32).double()
    share = counts / counts.sum()
    usage = encoded.provenance["codebook"]
    assert usage["places"] == codes.shape[1]
    assert usage["dead"] == int((counts == 0).sum())
    assert usage["kl_to_uniform"] == pytest.approx(math.log(32) + float(torch.xlogy(share, share).sum()), rel=1e-9)
    command = ["estimate", "--checkpoint", str(tmp_path), "--data", str(images), "--methods", "monte-carlo"]
    assert main([*command, "--num-samples", "100"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"codebook of 32 entries, at {codes.shape[1]} places of each point: {usage['used']} are used" in said
    assert "the uniform one over the 32 entries of its codebook" in said
    assert main([*command, "--prior", "normal"]) == 2
    assert "leave --prior normal away" in capsys.readouterr().err


def test_the_folder_of_a_training_is_pointed_at_the_model_inside(images, tmp_path):
    make("VAE", tmp_path / "VAE_training_2026" / "final_model")
    with pytest.raises(InputError, match=r"holds some: give --checkpoint .*final_model\.$"):
        load(tmp_path / "VAE_training_2026", Request(data=str(images)))
