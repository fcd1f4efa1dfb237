"""Encoders as people write them, by kind: each gives the KL that is known in closed form, or is refused with what cures it."""

import collections
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import distributions as td
from torch import nn

from klprobe.distributions.posteriors import SampleOnly, as_posterior, conditional_kl, standard_normal
from klprobe.formats import Request
from klprobe.formats._encode import Encoder, encode_data
from klprobe.types import InputError

N, D, STD = 200, 3, 0.5
LOGVAR = 2 * math.log(STD)
X = np.random.default_rng(7).normal(size=(N, D)).astype(np.float32)


def average_kl(std=STD, prior_std=1.0, dim=D):
    """Mean of KL[N(x, std^2) || N(0, prior_std^2)] over the points."""
    ratio = (std / prior_std) ** 2
    return 0.5 * float((X[:, :dim].astype(float) ** 2).sum(1).mean()) / prior_std**2 + 0.5 * dim * (ratio - 1 - math.log(ratio))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("points") / "x.npy"
    np.save(path, X)
    return str(path)


def encoded(data, run, outputs=None):
    return encode_data(Encoder(run, "encoder.pt"), Request(data=data, outputs=outputs), {})


def kl_of(found):
    q = as_posterior(found.posterior)
    return float(conditional_kl(q, found.prior or standard_normal(q.dim)).mean())


def lv(x):
    return torch.full_like(x, LOGVAR)


def sd(x):
    return torch.full_like(x, STD)


def draw(x):
    return x + STD * torch.randn_like(x)


def recon(x):
    return torch.cat([x.tanh(), x.sin()], 1)


@dataclasses.dataclass
class MeanLogVar:
    mean: torch.Tensor
    log_var: torch.Tensor


@dataclasses.dataclass
class WithMore:
    z_mu: torch.Tensor
    z_sigma: torch.Tensor
    reconstruction: torch.Tensor
    kl: torch.Tensor


Named = collections.namedtuple("Named", "loc log_scale")
Long = collections.namedtuple("Long", "q_mean q_logvar z recon_x")


class Attributes:
    def __init__(self, x):
        self.mu, self.sigma_sq = x, sd(x) ** 2


class Properties:
    def __init__(self, x):
        self._x = x

    @property
    def mean(self):
        return self._x

    @property
    def stddev(self):
        return sd(self._x)


class Slots:
    __slots__ = ("loc", "scale")

    def __init__(self, x):
        self.loc, self.scale = x, sd(x)


SPREADS = {
    "logvar": lv, "log_var": lv, "logvars": lv, "logv": lv, "q_logvar": lv, "latent_logvar": lv, "z_log_var": lv, "logVar": lv,
    "zlogvar": lv, "log_sigma_sq": lv, "log_sigma2": lv, "ln_var": lv, "log_variance": lv, "logvar_z": lv, "enc_log_var": lv,
    "posterior_logvar": lv, "log_covariance": lv, "sigma": sd, "std": sd, "sd": sd, "scale": sd, "stddev": sd, "z_std": sd,
    "sigmas": sd, "std_dev": sd, "\u03c3": sd, "var": lambda x: sd(x) ** 2, "variance": lambda x: sd(x) ** 2,
    "sigma_sq": lambda x: sd(x) ** 2, "qz_v": lambda x: sd(x) ** 2, "log_std": lambda x: lv(x) / 2,
    "log_sigma": lambda x: lv(x) / 2, "logscale": lambda x: lv(x) / 2, "precision": lambda x: sd(x) ** -2,
    "log_precision": lambda x: -lv(x),
}  # fmt: skip
MEANS = [
    "mean",
    "mu",
    "loc",
    "means",
    "z_mean",
    "zmean",
    "mu_z",
    "q_mu",
    "qz_m",
    "latent_mean",
    "posterior_mean",
    "encMean",
    "\u03bc",
]


@pytest.mark.parametrize("spread", SPREADS)
def test_a_spread_is_known_by_any_of_its_names(data, spread):
    assert kl_of(encoded(data, lambda x: {spread: SPREADS[spread](x), "mean": x})) == pytest.approx(average_kl(), rel=1e-4)


@pytest.mark.parametrize("mean", MEANS)
def test_a_mean_is_known_by_any_of_its_names(data, mean):
    assert kl_of(encoded(data, lambda x: {"logvar": lv(x), mean: x})) == pytest.approx(average_kl(), rel=1e-4)


READ = {
    "a dataclass with log_var": lambda x: MeanLogVar(x, lv(x)),
    "a dataclass with a reconstruction of the latents' shape": lambda x: WithMore(x, sd(x), x.tanh(), x.square().sum(1)),
    "a namedtuple": lambda x: Named(x, lv(x) / 2),
    "a long namedtuple": lambda x: Long(x, lv(x), draw(x), x.tanh()),
    "an object with attributes": Attributes,
    "an object with properties": Properties,
    "an object with slots": Slots,
    "a pair in a dict": lambda x: {"recon": x.tanh(), "latent": (x, lv(x))},
    "a dict in a tuple": lambda x: (recon(x), {"mu": x, "logvar": lv(x)}),
    "the decoder's mean beside it": lambda x: {"x_mean": x.tanh(), "x_scale": sd(x), "z_mean": x, "z_scale": sd(x)},
    "mean and spread in one, by name": lambda x: {"mu_logvar": torch.cat([x, lv(x)], 1)},
    "a variance beside its logarithm": lambda x: {"mu": x, "var": lv(x).exp(), "logvar": lv(x)},
    "a mean under two names": lambda x: {"mu": x, "mean": x, "std": sd(x)},
    "an embedding beside the mean": lambda x: {"embedding": recon(x), "mu": x, "std": sd(x)},
    "one variance a latent": lambda x: (x, lv(x)[0]),
    "one variance a latent, in a row": lambda x: (x, lv(x)[:1]),
    "one variance a point": lambda x: (x, lv(x)[:, :1]),
    "one variance a point, by name": lambda x: {"mu": x, "logvar": lv(x)[:, 0]},
    "one variance for all, by name": lambda x: {"mu": x, "std": torch.tensor(STD)},
    "one variance a latent, by name": lambda x: {"mu": x, "sigma": sd(x)[0]},
    "one covariance for all": lambda x: {"mu": x, "cov": 0.25 * torch.eye(D)},
    "one factor for all": lambda x: {"mu": x, "scale_tril": 0.5 * torch.eye(D)},
    "a reconstruction first": lambda x: (recon(x), x, lv(x)),
    "a random reconstruction first": lambda x: (recon(draw(x)), x, lv(x)),
    "the data in the middle": lambda x: (recon(draw(x)), x.repeat(1, 4), x, lv(x)),
    "a KL for each point": lambda x: (x, lv(x), x.square().sum(1)),
    "a loss": lambda x: (x, lv(x), x.square().sum()),
    "a sample and a KL": lambda x: (draw(x), x, lv(x), x.square().sum(1)),
    "the mean again as z": lambda x: (x, x, lv(x)),
    "classes by number": lambda x: (x, lv(x), torch.arange(len(x))),
    "a recurrent state of one layer": lambda x: {"mu": x[None], "logvar": lv(x)[None]},
    "Normal": lambda x: td.Normal(x, STD),
    "Independent Normal": lambda x: td.Independent(td.Normal(x, sd(x)), 1),
    "a full covariance": lambda x: td.MultivariateNormal(x, covariance_matrix=0.25 * torch.eye(D)),
    "a Distribution and a sample": lambda x: (td.Normal(x, sd(x)), draw(x)),
    "a Distribution by another name": lambda x: {"q_z": td.Normal(x, sd(x)), "p_x": td.Normal(recon(x), 1.0)},
    "a Distribution beside its own mean": lambda x: {"dist": td.Normal(x, sd(x)), "mu": x, "std": sd(x)},
    "float16": lambda x: (x.half(), lv(x).half()),
    "bfloat16 by name": lambda x: {"mu": x.bfloat16(), "std": sd(x).bfloat16()},
    "float64": lambda x: (x.double(), lv(x).double()),
    "columns of an image": lambda x: (x.reshape(-1, D, 1, 1), lv(x).reshape(-1, D, 1, 1)),
    "a variance a channel": lambda x: {"mu": x.reshape(-1, D, 1, 1), "logvar": lv(x)[0].reshape(D, 1, 1)},
}


@pytest.mark.parametrize("case", READ)
def test_the_right_kl_comes_of(data, case):
    slack = 2e-2 if "float16" in case else 1e-4
    assert kl_of(encoded(data, READ[case])) == pytest.approx(average_kl(), rel=slack)


OWN_PRIOR = {
    "posterior and prior by name": lambda x: {"prior": td.Normal(x * 0, x * 0 + 3), "posterior": td.Normal(x, sd(x))},
    "q and p": lambda x: {"q": td.Normal(x, sd(x)), "p": td.Normal(torch.zeros(D), 3 * torch.ones(D))},
    "a second one that no point changes": lambda x: (td.Normal(x, sd(x)), td.Normal(x * 0, x * 0 + 3)),
    "the prior first": lambda x: [td.Independent(td.Normal(x * 0, x * 0 + 3), 1), td.Independent(td.Normal(x, sd(x)), 1)],
    "vectors by name": lambda x: {"mu": x, "std": sd(x), "prior_mu": torch.zeros(D), "prior_std": 3 * torch.ones(D)},
    "rows by name": lambda x: {"mu": x, "std": sd(x), "mu_prior": x * 0, "logvar_prior": x * 0 + math.log(9)},
    "p_ and q_": lambda x: {"p_mu": x[:1] * 0, "p_sigma": x[:1] * 0 + 3, "q_mu": x, "q_sigma": sd(x)},
    "a Distribution beside tensors": lambda x: {"mu": x, "logvar": lv(x), "prior": td.Normal(torch.zeros(1, D), 3.0)},
    "a full one": lambda x: {"mu": x, "cov": 0.25 * torch.eye(D).expand(len(x), D, D),
                             "prior": td.MultivariateNormal(torch.zeros(D), 9 * torch.eye(D))},
}  # fmt: skip


@pytest.mark.parametrize("case", OWN_PRIOR)
def test_a_prior_that_the_encoder_returns_is_the_models_own(data, case):
    found = encoded(data, OWN_PRIOR[case])
    assert found.prior.event_shape == (D,)
    assert found.prior_name
    assert kl_of(found) == pytest.approx(average_kl(prior_std=3.0), rel=1e-4)


NO_PRIOR = {
    "it depends on the point": lambda x: {"posterior": td.Normal(x, sd(x)), "prior": td.Normal(x / 2, sd(x))},
    "its rows depend on the point": lambda x: {"mu": x, "std": sd(x), "prior_mu": x / 2, "prior_std": sd(x)},
    "its mean alone": lambda x: {"mu": x, "std": sd(x), "prior_mu": torch.zeros(D)},
    "a pair without names": lambda x: {"mu": x, "std": sd(x), "prior": (torch.zeros(D), torch.ones(D))},
    "vectors without names": lambda x: (x, lv(x), torch.zeros(D), torch.ones(D)),
}


@pytest.mark.parametrize("case", NO_PRIOR)
def test_a_prior_that_cannot_be_used_is_said_and_the_posterior_stays(data, case):
    found = encoded(data, NO_PRIOR[case])
    assert found.prior is None
    assert found.no_prior
    assert kl_of(found) == pytest.approx(average_kl(), rel=1e-4)


def test_a_prior_that_only_later_points_change_is_no_prior(tmp_path):
    """The first thousand points have one label, as sorted data have."""
    np.save(tmp_path / "x.npy", np.concatenate([np.zeros((1500, 1)), np.ones((500, 1))]).astype(np.float32))

    def run(x):
        return {"q": td.Normal(x.repeat(1, 2), STD), "p": td.Normal(x.repeat(1, 2) * 3, 1.0)}

    with pytest.raises(InputError, match="more than one of them"):
        encoded(str(tmp_path / "x.npy"), lambda x: (td.Normal(x * 0, STD), td.Normal(x * 3, 1.0)))
    assert "depends on the data point" in encoded(str(tmp_path / "x.npy"), run).no_prior


LAWS = {
    "Laplace": lambda x: td.Laplace(x, 0.3),
    "Student's t": lambda x: td.Independent(td.StudentT(5.0, x, sd(x)), 1),
    "Dirichlet": lambda x: td.Dirichlet(x.exp()),
    "Gamma": lambda x: td.Gamma(x.exp(), 1.0),
    "Gumbel": lambda x: td.Gumbel(x, 1.0),
    "Beta": lambda x: td.Independent(td.Beta(x.exp(), torch.ones_like(x)), 1),
    "LogNormal": lambda x: td.LogNormal(x, sd(x)),
    "tanh of a Normal": lambda x: td.TransformedDistribution(td.Normal(x, sd(x)), [td.TanhTransform()]),
    "a mixture": lambda x: td.MixtureSameFamily(
        td.Categorical(logits=x), td.Independent(td.Normal(torch.stack([x, -x, 2 * x], 1), 1.0), 1)
    ),
    "of low rank": lambda x: td.LowRankMultivariateNormal(x, torch.ones(len(x), D, 1), torch.ones(len(x), D)),
    "in a dict": lambda x: {"posterior": td.Laplace(x, 0.3), "z": x, "recon": recon(x)},
    "as an image": lambda x: td.Laplace(x.reshape(-1, D, 1, 1), 0.3),
}


@pytest.mark.parametrize("case", LAWS)
def test_the_density_of_any_distribution_is_kept(data, case):
    found = encoded(data, LAWS[case])
    law = LAWS[case](torch.from_numpy(X))
    law = law["posterior"] if isinstance(law, dict) else law
    with torch.random.fork_rng():
        torch.manual_seed(0)
        z = law.sample()
    want = law.log_prob(z).reshape(N, -1).sum(1)
    torch.testing.assert_close(found.posterior.log_prob(z.reshape(N, D)).float(), want, rtol=1e-4, atol=1e-4)


def test_a_density_that_cannot_be_kept_is_said_and_one_draw_a_point_is_taken(data):
    class Odd(td.Distribution):
        arg_constraints = {}  # noqa: RUF012
        has_rsample = False

        def __init__(self, x):
            self.x = x
            super().__init__(x.shape[:1], x.shape[1:], validate_args=False)

        def sample(self, shape=()):
            return draw(self.x)

    found = encoded(data, Odd)
    assert isinstance(found.posterior, SampleOnly)
    assert any("one draw a point" in note for note in found.notes)


REFUSED = {
    "a spread by a name of its own": (lambda x: {"mean": x, "lv_head": lv(x)}, "lv_head.*logvar=lv_head"),
    "a mean without a name": (lambda x: {"m_head": x, "logvar": lv(x)}, "m_head.*needs a mean"),
    "two means": (lambda x: {"mean": x, "z_mean": x + 1, "std": sd(x)}, "two that may be the mean"),
    "spreads that disagree": (lambda x: {"mean": x, "std": sd(x), "logvar": lv(x) + 1}, "do not say the same"),
    "content and style": (lambda x: {"content": x, "style": lv(x)}, "names do not say"),
    "a code and its quantised code": (lambda x: (x, (4 * x).round() / 4), "move together"),
    "a VQ network's answer": (lambda x: {"z_e": x, "z_q": x.round()}, "names do not say"),
    "a code beside a class": (lambda x: {"z": x, "head": lv(x)}, "head"),
    "packed": (lambda x: torch.cat([x, lv(x)], 1), "--outputs mean, or --outputs mean,logvar"),
    "packed, in a tuple": (lambda x: (torch.cat([x, lv(x)], 1),), "--outputs mean, or --outputs mean,logvar"),
    "tanh codes of even width": (lambda x: torch.cat([x, x], 1).tanh()[:, :4], "--outputs mean, or --outputs mean,logvar"),
    "codes on the sphere": (lambda x: nn.functional.normalize(recon(x)), "--outputs mean, or --outputs mean,logvar"),
    "a reconstruction alone": (torch.sin, "may be a reconstruction"),
    "the data beside a code": (lambda x: (x.roll(1, 1), x), "the data themselves"),
    "three tensors of one shape": (lambda x: (x, lv(x), x.tanh()), "more than one pair"),
    "a pair of codes beside a reconstruction": (lambda x: (recon(x), x, x.roll(1, 1)), "cannot be told by their values"),
    "mean and standard deviation by place": (lambda x: (x, sd(x)), "positive throughout"),
    "two Distributions of the data point": (lambda x: (td.Normal(x, sd(x)), td.Normal(-x, sd(x))), "posterior=0,prior=1"),
    "two priors": (lambda x: (td.Normal(x, STD), td.Normal(x * 0, 1.0), td.Normal(x * 0, 2.0)), "more than one of them"),
    "a Gaussian and a Laplace": (lambda x: [td.Normal(x, STD), td.Laplace(x, STD)], "more than one of them"),
    "a prior of another size": (lambda x: {"q": td.Normal(x, STD), "p": td.Normal(torch.zeros(2), 1.0)}, "no prior of 3"),
    "as many points as latents": (lambda x: {"mean": x, "std": sd(x).new_full((2, 2), STD)}, "not one row|shapes disagree"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_be_read_in_two_ways_is_refused_with_the_cure(data, case):
    run, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as caught:
        encoded(data, run)
    assert "\n" not in str(caught.value)


SAID = {
    "mean=mean,logvar=lv_head": lambda x: {"mean": x, "lv_head": lv(x)},
    "logvar=1,mean=0": lambda x: (x, lv(x), x.tanh()),
    "mean+logvar,_": lambda x: (torch.cat([x, lv(x)], 1), recon(x)),
    "mean,logvar": lambda x: torch.cat([x, lv(x)], 1),
    "mean+std=moments": lambda x: {"moments": torch.cat([x, sd(x)], 1), "h": x},
    "posterior=0": lambda x: (td.Normal(x, sd(x)), td.Normal(-x, sd(x))),
    "_,posterior": lambda x: (td.Normal(-x, sd(x)), td.Normal(x, sd(x))),
    "mean,precision": lambda x: (x, sd(x) ** -2),
}


@pytest.mark.parametrize("words", SAID)
def test_what_is_said_by_place_or_by_name_goes(data, words):
    assert kl_of(encoded(data, SAID[words], words)) == pytest.approx(average_kl(), rel=1e-4)


def test_a_prior_may_be_said(data):
    def run(x):
        return x, lv(x), torch.zeros(D), torch.full((D,), 3.0)

    found = encoded(data, run, "mean,logvar,prior_mean,prior_std")
    assert kl_of(found) == pytest.approx(average_kl(prior_std=3.0), rel=1e-4)
    with pytest.raises(InputError, match="depends on the data point"):
        encoded(data, lambda x: (x, lv(x), x, lv(x)), "mean,logvar,prior_mean,prior_logvar")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("Mean,logvar", "Did you mean 'mean'"),
        ("mean=mu,logvar=lgvar", "no such name.*Did you mean 'logvar'"),
        ("mean=mu,sigma=logvar", "'sigma' is not known"),
        ("posterior=mu", "Distributions \\(none\\)"),
        ("mean,logvar,prior_mean", "prior's mean and one spread"),
    ],
)
def test_words_that_say_nothing_are_refused_with_the_nearest(data, words, message):
    with pytest.raises(InputError, match=message):
        encoded(data, lambda x: {"mu": x, "logvar": lv(x)}, words)


def test_as_many_points_as_latents_are_told_apart(tmp_path):
    """The 64 points that are looked at first, of 64 latents, whose variance is one a latent."""
    x = np.random.default_rng(3).normal(size=(130, 64)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    var = torch.linspace(0.05, 0.3, 64)
    for run in (lambda x: {"mean": x, "var": var}, lambda x: {"mean": x, "var": var[None]}, lambda x: (x, var.log())):
        found = encoded(str(tmp_path / "x.npy"), run).posterior
        torch.testing.assert_close(found.variance[5].float(), var)


def test_whole_numbers_stay_whole_where_the_encoder_takes_them(tmp_path):
    np.save(tmp_path / "tokens.npy", np.random.default_rng(0).integers(0, 20, (60, 7)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        table, linear = nn.Embedding(20, 3), nn.Linear(7, 3)
    told = encoded(str(tmp_path / "tokens.npy"), lambda x: {"mu": table(x).mean(1), "logvar": lv(table(x).mean(1))})
    assert any("as whole numbers" in note for note in told.notes)
    told = encoded(str(tmp_path / "tokens.npy"), lambda x: {"mu": linear(x), "logvar": lv(linear(x))})
    assert any("as float32" in note for note in told.notes)


def test_a_split_whose_halves_look_alike_is_warned_of(data):
    def codes(x):
        return torch.cat([x, x.roll(1, 1)], 1)

    assert any("look alike" in note for note in encoded(data, codes, "mean,logvar").notes)
    assert not any("look alike" in note for note in encoded(data, lambda x: torch.cat([x, lv(x)], 1), "mean,logvar").notes)
