"""What the name of an array or of an encoder's output says: mean, spread, draw, or something else, and of which distribution.

There is one table for both. A name is taken apart into words: `z_log_var`, `qLogVar` and `posterior.logvar` all are the
log-variance of the posterior; `prior_mu` and `p.loc` are of the prior; `x_mean` and `decoder.scale` are of the data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Owner = Literal["posterior", "prior", "other", ""]

SPREAD_ROLES = ("logvar", "var", "std", "logstd", "precision", "logprecision")
MATRICES = ("scale_tril", "covariance")
CATEGORICAL = ("probs", "logits", "prior_probs")
ROLES = ("mean", *SPREAD_ROLES, *MATRICES, "samples", "probs", "logits")
SYNONYMS = {
    "mean": "mean means mu mus loc locs location locations average expectation embedding embeddings",
    "logvar": "logvar logvars logv lnvar lnv logvariance logvariances logcov logcovariance logsigma2 logsigmasq logsigmasqr "
    "logsigmasquare logsigmasquared lnsigma2 logstdsq logdiag logvardiag logcovdiag diaglogvar",
    "var": "var vars variance variances sigma2 sigmasq sigmasqr sigmasquare sigmasquared stdsq stdsquared std2 sd2 covdiag "
    "diagcov vardiag diagvar",
    "std": "std stds stddev stddevs stdev stdevs stdv sd sds sigma sigmas scale scales standarddeviation standarddeviations",
    "logstd": "logstd logstds logstddev logstdev logsd logsigma logsigmas lnstd lnsigma logscale logscales",
    "precision": "precision precisions prec invvar inversevariance invvariance",
    "logprecision": "logprecision logprecisions logprec lnprecision loginvvar",
    "scale_tril": "scaletril tril chol cholesky choleskyfactor covchol sqrtcov",
    "covariance": "covariance covariances covariancematrix cov covs covmat covmatrix covar",
    "probs": "probs probabilities",
    "logits": "logits",
    "samples": "sample samples draw draws z zs zsample latent latents code codes encoding encodings latentcode latentcodes",
}


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ROLE_OF = {word: role for role, words in SYNONYMS.items() for word in words.split()}
ROLE_OF |= {"qzm": "mean", "qm": "mean", "qzv": "var", "qv": "var"}
PRIOR = _set("prior priors p pz pzs")
POSTERIOR = _set(
    "q qz qzx qzgivenx z zs zx latent latents enc encoder encoded encoding posterior posteriors post approx approximate "
    "variational inference bottleneck"
)
OTHER = _set(
    "x px xhat dec decoder decoded recon recons reconstruction reconstructions reconstructed rec obs observation "
    "observations likelihood gen generator generated generation target targets label labels group groups y yhat class classes "
    "category input inputs data image images loss losses elbo kl kld kls nll bce mse reg logprob logprobs logpz logqz ll "
    "hidden hiddens feature features context attention attn mask masks weight weights index indices idx id ids split length "
    "lengths len epoch epochs step steps seed umap tsne pca time times batch cond condition conditions noise eps epsilon grad "
    "running"
)
"""Words of what is no latent's distribution: such an output is left alone, and is never asked about."""
GENERATED = _set(
    "out outs output outputs result results linear gemm matmul addmm add mul sub div getitem split chunk view reshape flatten "
    "node val tensor slice cat concat conv exp clip clamp squeeze unsqueeze transpose permute with sizes onnx"
)
"""Words of names that an exporter makes up: such an output is known by its place alone."""
WEAK = _set("embedding embeddings average expectation location locations")
"""Words for a mean that give way to any other."""
FILLER = _set("x given dist distribution dists distributions params param parameters stats of the by for out output")
"""Words that say nothing of what a tensor of the posterior is."""
AFFIXES = ("posterior", "prior", "latent", "enc", "qz", "pz", "z", "q", "p")
GREEK = str.maketrans({"\u03bc": "mu", "\u00b5": "mu", "\u03c3": "sigma", "\u03a3": "cov", "\u00b2": "2"})
"""Greek letters that Python allows in names: mu twice, small and large sigma, and a small 2 above the line."""


@dataclass(frozen=True)
class Meaning:
    """What a name says.

    Attributes:
        owner: The distribution that it speaks of: `posterior`, `prior`, `other` (the data, a loss); empty when it says none.
        role: One of `ROLES`; two, joined by `+`, for a tensor that holds both side by side; None when the name has no role.
        positional: Whether it is known by its place alone, in a list or in a graph.
    """

    owner: Owner
    role: str | None
    positional: bool = False


@cache
def meaning(name: str) -> Meaning:
    """What the name of an array or output says; dots separate the names of what it lies in."""
    *outside, last = [_words(part) for part in name.split(".")]
    every = {re.sub(r"\d+$", "", word) for words in (*outside, last) for word in words}
    owner: Owner = ""
    if every & PRIOR and not every & (OTHER | {"posterior", "q", "qz"}):
        owner = "prior"
    elif every & POSTERIOR:
        owner = "posterior"
    elif every & OTHER:
        owner = "other"
    if all(word.isdecimal() or word in GENERATED for word in last):
        return Meaning(owner, None, positional=True)
    return Meaning(owner, None if owner == "other" else _role(last))


def role_of(name: str) -> str | None:
    """The role that a name says, whichever distribution it is of."""
    return meaning(name).role


def could_be_spread(shape: tuple[int, ...], mean: tuple[int, ...]) -> bool:
    """Whether a tensor of that shape may be the spread of a mean of shape (N, ...): a value for each, for some, or a matrix."""
    rows, size = mean[0], 1
    for side in mean[1:]:
        size *= side
    if not shape or shape == (1,):
        return False
    inside = 1
    for side in shape[1:]:
        inside *= side
    return (
        shape == mean
        or (shape[0] in (1, rows) and inside in (1, size, size * size))
        or (len(shape) == 1 and shape[0] == size)
        or shape == (size, size)
    )


def _role(words: list[str]) -> str | None:
    """The role of the words, with those left out that say of which distribution they speak."""
    words = [f"#{word}" if word.isdecimal() else word for word in words]  # a number of its own is no square
    whole = "".join(words)
    if whole in ROLE_OF:
        return ROLE_OF[whole]
    strip = PRIOR | POSTERIOR | FILLER
    left = [word for word in words if re.sub(r"\d+$", "", word) not in strip]
    rest = "".join(left)
    if rest in ROLE_OF:
        return ROLE_OF[rest]
    left = [word for word in left if word != "and"]
    for cut in range(1, len(left)):
        both = [ROLE_OF.get("".join(part)) for part in (left[:cut], left[cut:])]
        if "mean" in both and any(role in SPREAD_ROLES for role in both):
            return "+".join(map(str, both))
    return None


def _words(name: str) -> list[str]:
    """Lower-case words of a name: parted at signs and capitals, and before or behind z, q, prior and the like."""
    plain = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name.translate(GREEK))
    return [piece for word in re.findall(r"[^\W_]+", plain.lower()) for piece in _pieces(word)]


def _pieces(word: str) -> list[str]:
    if word in ROLE_OF or word in PRIOR | POSTERIOR | OTHER | FILLER:
        return [word]
    for affix in AFFIXES:
        front, back = word.removeprefix(affix), word.removesuffix(affix)
        if front != word and (front in ("log", "ln") or (len(front) > 1 and front in ROLE_OF)):
            return [affix, front]
        if back != word and len(back) > 1 and back in ROLE_OF:
            return [back, affix]
    return [word]
