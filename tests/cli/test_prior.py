"""Priors beyond torch's own, in the library and by name on the command line."""

import json
import math

import numpy as np
import pytest
import torch

from klprobe.cli import main
from klprobe.cli.prior import parse_prior
from klprobe.distributions.posteriors import DiagonalGaussian, sample_prior
from klprobe.distributions.priors import UniformSphere, mixture
from klprobe.types import InputError

K, D = 3, 2
MEAN = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, -2.0]])
STD = np.array([[1.0, 0.5], [0.2, 2.0], [0.3, 0.3]])


def parse(spec, dim=D, own=None):
    return parse_prior(spec, dim, own, lambda path: DiagonalGaussian(torch.from_numpy(MEAN), std=torch.from_numpy(STD)))


@pytest.fixture
def components(tmp_path):
    np.savez(tmp_path / "equal.npz", mean=MEAN, std=STD)
    np.savez(tmp_path / "weighted.npz", mean=MEAN, std=STD, weights=np.array([1.0, 2.0, 5.0]))
    return tmp_path


@pytest.mark.parametrize(("name", "weights"), [("equal", [1, 1, 1]), ("weighted", [1, 2, 5])])
def test_a_mixture_from_a_file_has_the_density_of_its_components(components, name, weights):
    prior = parse(f"mixture:{components / name}.npz")
    z = torch.randn(50, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = np.array(weights) / sum(weights)
    density = sum(
        share * np.exp(-0.5 * ((z.numpy() - m) / s) ** 2).prod(1) / (2 * math.pi * s.prod())
        for share, m, s in zip(shares, MEAN, STD, strict=True)
    )
    torch.testing.assert_close(prior.log_prob(z), torch.from_numpy(np.log(density)), rtol=1e-12, atol=1e-12)
    assert (tuple(prior.batch_shape), tuple(prior.event_shape)) == ((), (D,))


def test_the_vampprior_is_the_equal_mixture_of_the_pseudo_inputs_posteriors():
    z = torch.zeros(1, D, dtype=torch.float64)
    direct = mixture(DiagonalGaussian(torch.from_numpy(MEAN), std=torch.from_numpy(STD)))
    assert torch.equal(parse("vampprior:pseudo.npy").log_prob(z), direct.log_prob(z))


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_draws_on_the_sphere_lie_on_it_evenly_and_its_density_is_one_over_its_surface(dim, generator):
    prior = parse("sphere:radius=2", dim)
    z = sample_prior(prior, 4000, generator)
    torch.testing.assert_close(z.norm(dim=1), torch.full((4000,), 2.0, dtype=torch.float64))
    assert (z.mean(0).abs() < 5 * 2 / math.sqrt(dim * 4000)).all()
    area = {2: 2 * math.pi * 2, 3: 4 * math.pi * 4}.get(dim)
    if area:
        assert prior.surface_log_prob(z)[0].item() == pytest.approx(-math.log(area), rel=1e-12)


def test_a_prior_from_python_is_a_distribution_or_a_function_of_the_dimension(tmp_path, monkeypatch):
    (tmp_path / "my_prior.py").write_text(
        "import torch\nfrom torch.distributions import Independent, Laplace\n"
        "def laplace(dim):\n    return Independent(Laplace(torch.zeros(dim), torch.ones(dim)), 1)\n"
        "fixed = laplace(2)\nwrong = 3\n"
    )
    monkeypatch.setattr("sys.path", [str(tmp_path), *__import__("sys").path])
    for name in ("laplace", "fixed"):
        assert parse(f"my_prior:{name}").log_prob(torch.zeros(D)).item() == pytest.approx(-D * math.log(2))
    with pytest.raises(InputError, match="is a int: give a torch Distribution"):
        parse("my_prior:wrong")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mixtures", "Did you mean 'mixture'"),
        ("mixture", "needs a file"),
        ("mixture:missing.npz", "does not exist"),
        ("sphere:radius=-1", "positive radius"),
        ("sphere:size=1", "takes one radius"),
        ("no_such_module:prior", "cannot be imported"),
    ],
)
def test_what_is_no_prior_is_refused_with_what_is(spec, words):
    with pytest.raises(InputError, match=words):
        parse(spec)


def test_bad_weights_are_refused(components):
    for weights in ([1.0, 2.0], [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]):
        np.savez(components / "bad.npz", mean=MEAN, std=STD, weights=np.array(weights))
        with pytest.raises(InputError, match="needs one weight for each"):
            parse(f"mixture:{components / 'bad.npz'}")


def test_a_sphere_has_no_dimension_one():
    with pytest.raises(InputError, match="at least 2 dimensions"):
        UniformSphere(1)


def test_the_aggregate_posterior_as_its_own_prior_has_kl_zero(components, capsys):
    """q_N is the mixture of its N components, so KL[q_N||q_N] = 0, and Monte Carlo says so to the last bits."""
    path = str(components / "equal.npz")
    flags = ["--prior", f"mixture:{path}", "--methods", "monte-carlo", "--num-samples", "300", "--json"]
    assert main(["estimate", "--checkpoint", path, *flags]) in (0, 3)
    estimates = json.loads(capsys.readouterr().out)["estimates"]
    (exact,) = [e for e in estimates if e["method"] == "monte-carlo" and e["bound"] == "exact" and e["quantity"] == "kl"]
    assert abs(exact["value"]) < 1e-9


def test_a_method_that_needs_an_ambient_density_refuses_a_sphere_with_the_reason(tmp_path, capsys):
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "q.npz", mean=draw.normal(size=(100, 2)), std=np.full((100, 2), 0.5))
    flags = ["--prior", "sphere", "--methods", "monte-carlo"]
    assert main(["estimate", "--checkpoint", str(tmp_path / "q.npz"), *flags]) == 2
    assert "a uniform prior on a sphere has none in the space around it" in capsys.readouterr().err


def test_the_aggregate_posterior_of_another_file_is_a_prior_with_its_density(components):
    """Held against the mixture of the same components, which is the same density; components are equally likely."""
    z = torch.randn(50, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = components / "equal.npz"
    torch.testing.assert_close(
        parse(f"aggregate:{path}").log_prob(z), parse(f"mixture:{path}").log_prob(z), rtol=1e-9, atol=1e-9
    )
    pseudo = parse("aggregate:inputs.npy")  # inputs of the encoder itself
    torch.testing.assert_close(pseudo.log_prob(z), parse("vampprior:inputs.npy").log_prob(z), rtol=1e-9, atol=1e-9)


def test_two_encoders_are_compared_by_the_kl_of_their_aggregate_posteriors(tmp_path, capsys):
    """N(0, 1 + 0.25) against N(1, 1 + 0.25) in each of two latents: KL = 2 / (2 * 1.25) = 0.8 nats in all."""
    rng = np.random.default_rng(0)
    for name, shift, dim in (("one", 0.0, 2), ("two", 1.0, 2), ("wide", 1.0, 3)):
        np.savez(tmp_path / f"{name}.npz", mean=shift + rng.normal(size=(4000, dim)), std=np.full((4000, dim), 0.5))
    flags = ["estimate", "--checkpoint", f"{tmp_path}/one.npz", "--methods", "monte-carlo", "--num-samples", "2000", "--json"]
    assert main([*flags, "--prior", f"aggregate:{tmp_path}/two.npz"]) == 0
    upper = json.loads(capsys.readouterr().out)["brackets"]["empirical"]["upper"]
    assert upper["value"] == pytest.approx(0.8, abs=4 * upper["std_error"] + 0.1)  # two draws of 4,000 points
    assert main([*flags, "--prior", f"aggregate:{tmp_path}/one.npz"]) in (0, 3)
    assert abs(json.loads(capsys.readouterr().out)["brackets"]["empirical"]["upper"]["value"]) < 1e-9
    assert main([*flags, "--prior", f"aggregate:{tmp_path}/wide.npz"]) == 2
    assert "The posterior has 2 latents, but the prior has 3" in capsys.readouterr().err


def test_samples_are_no_aggregate_posterior_with_a_density(tmp_path):
    np.savez(tmp_path / "cloud.npz", samples=MEAN)
    with pytest.raises(InputError, match="samples:"):
        parse(f"aggregate:{tmp_path}/cloud.npz")
