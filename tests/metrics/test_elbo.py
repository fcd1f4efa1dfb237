import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from klprobe.distributions.posteriors import standard_normal
from klprobe.metrics.elbo import Elbo
from klprobe.types import InputError

WEIGHTS = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.8]]).double()
NOISE = 0.5


class Linear:
    """x = z W + noise: log p(x) and the posterior are known; q is the posterior with its mean moved by `off`."""

    latent_dim = 2
    prior = standard_normal(2)

    def __init__(self, off=0.0):
        self.off = off
        self.covariance = torch.linalg.inv(torch.eye(2).double() + WEIGHTS @ WEIGHTS.T / NOISE**2)

    def posterior(self, x):
        return MultivariateNormal(x @ WEIGHTS.T @ self.covariance / NOISE**2 + self.off, self.covariance)

    def draw(self, x, num, labels=None, generator=None):
        q = self.posterior(x)
        z = q.loc + torch.randn(num, len(x), 2, generator=generator, dtype=torch.float64) @ q.scale_tril[0].T
        return z, q.log_prob(z)

    def decode(self, z):
        return z @ WEIGHTS

    def log_likelihood(self, x, z, labels=None, generator=None):
        return Independent(Normal(self.decode(z), NOISE), 1).log_prob(x)

    def evidence(self, x):
        return MultivariateNormal(torch.zeros(3).double(), WEIGHTS.T @ WEIGHTS + NOISE**2 * torch.eye(3)).log_prob(x)


def points(n=300):
    generator = torch.Generator().manual_seed(0)
    z, e = (torch.randn(n, d, generator=generator, dtype=torch.float64) for d in (2, 3))
    return z @ WEIGHTS + NOISE * e


def run(model, x, **settings):
    scores = Elbo(**settings).measure(model, x, torch.Generator().manual_seed(1))
    return {score.quantity: score for score in scores}


def test_with_the_true_posterior_both_bounds_are_the_evidence():
    x, found = points(), run(Linear(), points(), draws=3)
    evidence = float(Linear().evidence(x).mean())
    for name in ("elbo", "importance-weighted"):
        assert found[name].value == pytest.approx(evidence, rel=1e-12)
        assert found[name].std_error == pytest.approx(float(Linear().evidence(x).std()) / math.sqrt(300), rel=1e-9)
        assert found[f"{name}-bits"].value == pytest.approx(-evidence / 3 / math.log(2), rel=1e-12)


def test_the_terms_are_the_closed_forms():
    """reconstruction = E_q log p(x|z) and kl = KL[q||p], both known for normals; 400 draws leave errors over draws alone."""
    x, model = points(50), Linear(off=0.3)
    q = model.posterior(x)
    spread = float((WEIGHTS.T @ model.covariance @ WEIGHTS).trace())
    inside = model.log_likelihood(x, q.loc) - 0.5 * spread / NOISE**2
    kl = 0.5 * (model.covariance.trace() + q.loc.square().sum(1) - 2 - torch.logdet(model.covariance))
    found = run(model, x, draws=400)
    assert found["reconstruction"].value == pytest.approx(float(inside.mean()), abs=0.05)
    assert found["kl"].value == pytest.approx(float(kl.mean()), abs=0.05)
    assert found["elbo"].value == pytest.approx(found["reconstruction"].value - found["kl"].value, rel=1e-12)


def test_importance_weights_tighten_the_bound():
    x, model = points(), Linear(off=0.3)
    evidence = float(model.evidence(x).mean())
    few, many = run(model, x, draws=2), run(model, x, draws=200)
    assert few["elbo"].value < few["importance-weighted"].value < many["importance-weighted"].value < evidence + 0.02
    assert many["importance-weighted"].value == pytest.approx(evidence, abs=0.02)


def test_at_most_so_many_points_are_used_and_fewer_than_two_are_refused():
    assert run(Linear(), points(), points=7)["elbo"].details == {"points": 7, "draws": 64}
    with pytest.raises(InputError, match="at least 2 points"):
        run(Linear(), points(1))
