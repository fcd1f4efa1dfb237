"""What an encoder returns, and how it is read: names, looks, what the user says, and what its own samples say."""

import dataclasses
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.files.child import Limits
from klprobe.formats import Request, load
from klprobe.formats._encode import Encoder, encode_data, encode_points
from klprobe.types import InputError

N, D = 1500, 4
Pair = namedtuple("Pair", "mu logvar")


@dataclasses.dataclass
class Answer:
    loc: torch.Tensor
    scale: torch.Tensor


class Gauss:
    """As diffusers' DiagonalGaussianDistribution, no torch Distribution."""

    def __init__(self, mean, logvar):
        self.mean, self.logvar = mean, logvar


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """Codes as a trained encoder has them: E mean^2 + E variance = 1. The points are mean and log-variance themselves."""
    draw = np.random.default_rng(0)
    x = np.concatenate([draw.normal(0, 0.9, (N, D)), draw.normal(-2, 0.5, (N, D))], 1).astype(np.float32)
    path = tmp_path_factory.mktemp("points") / "x.npy"
    np.save(path, x)
    return str(path), torch.from_numpy(x)


def encoded(points, run, outputs=None, **fields):
    def of(x):
        return run(x[:, :D], x[:, D:])

    return encode_data(Encoder(of, "encoder.pt", **fields), Request(data=points[0], outputs=outputs), {})


def sample(mean, logvar):
    return mean + (0.5 * logvar).exp() * torch.randn_like(mean)


GAUSSIAN = {
    "a pair": lambda m, v: (m, v),
    "a list": lambda m, v: [m, v],
    "names": lambda m, v: {"logvar": v, "mu": m},
    "names of other words": lambda m, v: {"z_mean": m, "log-variance": v},
    "logvar and var": lambda m, v: {"mean": m, "logvar": v, "var": v.exp()},
    "log of std": lambda m, v: {"mean": m, "log_std": v / 2},
    "a namedtuple": lambda m, v: Pair(m, v),
    "a dataclass": lambda m, v: Answer(m, (v / 2).exp()),
    "a Distribution": lambda m, v: Independent(Normal(m, (v / 2).exp()), 1),
    "a Normal": lambda m, v: Normal(m, (v / 2).exp()),
    "like a Distribution": lambda m, v: {"latent_dist": Gauss(m, v)},
    "with a sample": lambda m, v: (m, v, sample(m, v)),
    "sample first": lambda m, v: (sample(m, v), m, v),
    "with its mean as z": lambda m, v: {"mean": m, "logvar": v, "z": m},
    "with a reconstruction": lambda m, v: (torch.rand(len(m), 9), m, v),
    "spatial": lambda m, v: (m.reshape(-1, 1, 2, 2), v.reshape(-1, 1, 2, 2)),
    "with a loss": lambda m, v: {"mean": m, "logvar": v, "loss": m.mean(), "name": "vae", "none": None},
}


@pytest.mark.parametrize("case", GAUSSIAN)
def test_mean_and_spread_are_found_in(points, case):
    posterior = encoded(points, GAUSSIAN[case]).posterior
    assert isinstance(posterior, DiagonalGaussian)
    mean, std = posterior.rows(slice(None))
    torch.testing.assert_close(mean.float(), points[1][:, :D])
    torch.testing.assert_close(2 * std.log().float(), points[1][:, D:], rtol=1e-4, atol=1e-4)


def test_a_full_covariance_stays_one(points):
    tril = torch.tensor([[1.0, 0, 0, 0], [0.5, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    posterior = encoded(points, lambda m, v: MultivariateNormal(m, scale_tril=tril.expand(len(m), D, D))).posterior
    assert isinstance(posterior, MultivariateNormal)
    assert (posterior.batch_shape, posterior.event_shape) == ((N,), (D,))
    torch.testing.assert_close(posterior.scale_tril[7].float(), tril)


@pytest.mark.parametrize(
    ("run", "outputs"),
    [
        (lambda m, v: (m, (v / 2).exp()), "mean,std"),
        (lambda m, v: (m, v.exp()), "mean,var"),
        (lambda m, v: (v, m), "logvar,mean"),
        (lambda m, v: (v.exp(), m, v, v), "_,mean,_,logvar"),
        (lambda m, v: torch.cat([m, v / 2], 1), "mean,logstd"),
        (lambda m, v: torch.cat([v, m], 1), "logvar,mean"),
    ],
)
def test_what_the_user_says_goes(points, run, outputs):
    mean, std = encoded(points, run, outputs).posterior.rows(slice(None))
    torch.testing.assert_close(mean.float(), points[1][:, :D])
    torch.testing.assert_close(2 * std.log().float(), points[1][:, D:], rtol=1e-4, atol=1e-4)


def test_a_sampler_gives_samples_and_codes_alone_are_deterministic(points):
    drawn = encoded(points, sample)
    assert isinstance(drawn.posterior, SampleOnly)
    assert not drawn.posterior.deterministic
    assert torch.equal(drawn.posterior.samples, encoded(points, sample).posterior.samples), "same data, same draws"
    codes = encoded(points, lambda m, v: m, "mean").posterior
    assert isinstance(codes, SampleOnly)
    assert codes.deterministic
    assert encoded(points, lambda m, v: {"z": m}).posterior.deterministic, "z that never varies"
    assert encoded(points, lambda m, v: m[:, :3]).posterior.deterministic, "odd width: no two halves"


@pytest.mark.parametrize(
    ("run", "outputs", "words"),
    [
        (lambda m, v: (m, v.exp()), None, "positive throughout.*mean,std, mean,var or mean,logvar"),
        (lambda m, v: torch.cat([m, m], 1) * 2, None, "--outputs mean, or --outputs mean,logvar"),
        (lambda m, v: (m, v, v), None, "more than one pair"),
        (lambda m, v: m.sum(), None, "nothing with one row for each data point"),
        (lambda m, v: (m, v), "mean,spread", "'spread' is not known"),
        (lambda m, v: (m, v), "logvar", "give mean and one of"),
        (lambda m, v: (m, v), "mean,logvar,samples", "names 3, but encoder.pt returns"),
        (lambda m, v: torch.cat([m, v[:, :3]], 1), "mean,logvar", "odd width 7"),
        (lambda m, v: (m, v * float("nan")), "mean,logvar", "NaN"),
        (lambda m, v: (m, v * float("nan"), sample(m, v)), "mean,logvar,samples", "NaN"),
        (lambda m, v: (m, v[:, :2]), "mean,logvar", "shapes disagree"),
        (lambda m, v: 1 / 0, None, "cannot encode points of shape"),
        (lambda m, v: (m + torch.randn_like(m), v), "mean,logvar", "dropout"),
        (lambda m, v: (m - m.mean(0), v), None, "batch normalisation"),
    ],
)
def test_what_has_two_readings_or_none_is_refused_with_the_way_out(points, run, outputs, words):
    with pytest.raises(InputError, match=words):
        encoded(points, run, outputs)


@pytest.mark.parametrize("claimed", ["logvar", "var", "std", "logstd"])
@pytest.mark.parametrize("really", ["logvar", "var", "std", "logstd"])
def test_the_encoders_own_samples_say_which_reading_is_right(points, claimed, really):
    def run(mean, v):
        spread = torch.exp(v) + 0.3  # where the four readings lie far apart
        std = {"logvar": (spread / 2).exp(), "var": spread.sqrt(), "std": spread, "logstd": spread.exp()}[really]
        return mean, spread, mean + std * torch.randn_like(mean)

    if claimed == really:
        assert isinstance(encoded(points, run, f"mean,{claimed},samples").posterior, DiagonalGaussian)
    else:
        with pytest.raises(InputError, match=f"As {really} it fits"):
            encoded(points, run, f"mean,{claimed},samples")


def test_samples_that_fit_no_reading_are_refused(points):
    with pytest.raises(InputError, match="No other reading fits"):
        encoded(points, lambda m, v: (m, v, m + 30 * torch.randn_like(m)))


def test_block_size_does_not_matter(points):
    whole = encoded(points, lambda m, v: (m, v)).posterior
    parts = encoded(points, lambda m, v: (m, v), batch_size=77).posterior
    assert torch.equal(whole.mean, parts.mean)
    assert torch.equal(whole.stddev, parts.stddev)


class Rows:
    """2,500 points, three blocks of them."""

    def __len__(self):
        return 2500

    def batch(self, start, stop):
        return torch.arange(start, min(stop, 2500)).float().unsqueeze(1)


def test_answers_that_keep_within_the_limit_one_by_one_and_not_together_are_refused():
    """A block is 1,000 x 10 float32 each of mean and logvar, 80 kB; all of them 200 kB."""

    def run(x):
        return {"mean": x.expand(-1, 10), "logvar": torch.zeros(len(x), 10)}

    for most in (None, 200_000):
        assert encode_points(Encoder(run, "wide.pt", most_bytes=most), Rows(), Request())[0].batch_shape == (2500,)
    for most, done in ((199_999, "2,500"), (100_000, "2,000"), (79_999, "1,000")):
        with pytest.raises(InputError, match=f"^wide.pt: its answers to {done} of 2,500 points take .* --file-memory"):
            encode_points(Encoder(run, "wide.pt", most_bytes=most), Rows(), Request())


def test_a_program_of_a_confined_process_has_the_limit_of_the_process(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr("klprobe.formats.torchscript.encode_data", lambda encoder, *_: found.append(encoder.most_bytes))
    torch.jit.script(torch.nn.ReLU()).save(tmp_path / "a.pt")
    load(tmp_path / "a.pt", Request(limits=Limits(2.0, 60.0)))
    assert found == [2e9]
