"""One small VAE, trained by plain torch as a user would, that the tests save in every format."""

import importlib
import sys

import pytest
import torch
from sklearn.datasets import load_digits

from klprobe.distributions.posteriors import DiagonalGaussian

NETWORK = """
import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        self.mean = nn.Linear(16, 3)
        self.logvar = nn.Linear(16, 3)

    def forward(self, x):
        hidden = self.body(x)
        return self.mean(hidden), self.logvar(hidden)


class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = nn.Linear(3, 64)

    def encode(self, x):
        return self.encoder(x)

    def forward(self, x):
        mean, logvar = self.encoder(x)
        return self.decoder(mean + (0.5 * logvar).exp() * torch.randn_like(mean)), mean, logvar


def too_wide():
    return nn.Linear(64, 99)


def digits():
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data / 16).float()
"""


@pytest.fixture(scope="session")
def network(tmp_path_factory):
    """The user's own module `tiny_network`, where Python finds it."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "tiny_network.py").write_text(NETWORK)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("tiny_network")
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def x():
    return torch.from_numpy(load_digits().data / 16).float()


@pytest.fixture(scope="session")
def vae(network, x):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network.VAE()
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for start in range(0, 1500, 100):
            batch = x[start : start + 100]
            reconstructed, mean, logvar = model(batch)
            kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()
            loss = (reconstructed - batch).square().sum(1).mean() + kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def encoder(vae):
    return vae.encoder


@pytest.fixture(scope="session")
def agrees(encoder, x):
    """Says whether a posterior is what the encoder says of each of the points."""

    def check(encoded, points=x):
        with torch.no_grad():
            mean, logvar = encoder(points)
        assert isinstance(encoded.posterior, DiagonalGaussian)
        found, std = encoded.posterior.rows(slice(None))
        torch.testing.assert_close(found.float(), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(std.float(), (0.5 * logvar).exp(), rtol=1e-4, atol=1e-5)

    return check


@pytest.fixture
def data(tmp_path, x):
    """The points as a file."""
    import numpy as np

    np.save(tmp_path / "x.npy", x.numpy())
    return str(tmp_path / "x.npy")


class Malice:
    """Unpickling this writes a file: proof that code ran."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.fixture
def malice(tmp_path):
    return Malice(tmp_path / "code-ran")
