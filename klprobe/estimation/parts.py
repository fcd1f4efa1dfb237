"""The report by part, that is for each level of a hierarchy, channel of an image or categorical latent by itself.

A part of the continuous latents is the marginal of q_N over its columns, against the same columns of the prior; both have
a closed form when q(z|x) is Gaussian and the prior factorises, so the methods that speak of the whole speak of each part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from klprobe.distributions.categorical import Classes
from klprobe.distributions.clusters import clusters_of
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly, TorchPosterior, diagonal_normal
from klprobe.estimation import verdict
from klprobe.types import INTERRUPTED, Check, Estimate, Estimator, InputError, PartReport, Posterior, Quantity


def check_parts(parts: Mapping[str, slice | Classes], posterior: Posterior) -> None:
    """Raise InputError unless each part is a set of columns, or of classes, of this posterior."""
    for name, part in parts.items():
        if isinstance(part, Classes):
            if len(part.probs) != posterior.num_points:
                raise InputError(
                    f"Part {name!r} has class probabilities of {len(part.probs)} points, but there are {posterior.num_points}."
                )
        elif not isinstance(part, slice):
            raise TypeError(f"Part {name!r} is a {type(part).__name__}: give a slice of the latents, or klprobe.Classes.")
        elif part.step not in (None, 1) or not range(*part.indices(posterior.dim)):
            raise InputError(f"Part {name!r}, {part}, takes none of the {posterior.dim} latents: give slice(start, stop).")


def report_parts(
    parts: Mapping[str, slice | Classes],
    posterior: Posterior,
    prior: Distribution,
    methods: Sequence[Estimator],
    generator: Callable[[str], torch.Generator],
    *,
    reason: str | None = None,
) -> tuple[PartReport, ...]:
    """Run the methods on each part; a part without an answer says why.

    Args:
        parts: Parts by name: columns of the posterior, or a categorical latent beside it.
        posterior, prior: Distributions of all continuous latents.
        methods: Methods to run, such as the closed form and monte-carlo.
        generator: Function from a part's name to its own source of randomness.
        reason: Reason why no more draws are made; None where they are.
    """
    reports: list[PartReport] = []
    clusters = None if (found_clusters := clusters_of(posterior)) is None else found_clusters.ids
    for name, part in parts.items():
        if isinstance(part, Classes):
            reports.append(_report(name, "classes", part.probs.shape[1], part.estimates(posterior.weights, clusters)))
            continue
        size = len(range(*part.indices(posterior.dim)))
        try:
            found = [] if reason else _of_latents(part, posterior, prior, methods, generator(name))
            reports.append(_nothing(name, size, reason) if reason else _report(name, "latents", size, found))
        except KeyboardInterrupt:
            reason = INTERRUPTED
            reports.append(_nothing(name, size, reason))
        except InputError as error:
            reports.append(_nothing(name, size, str(error)))
    return tuple(reports)


def compare_parts(reports: Sequence[PartReport], whole: Sequence[Estimate]) -> list[Check]:
    """Check that no marginal's KL is above the joint one, over all parts of the continuous latents; None without such parts."""
    joint = _exact(whole)
    pairs = [(report.name, exact) for report in reports if report.kind == "latents" and (exact := _exact(report.estimates))]
    if joint is None or not pairs:
        return []
    bad = [
        f"{name} alone has {e.value:.4g} nats of KL[q_N||p], all latents together {joint.value:.4g}"
        for name, e in pairs
        if e.value > joint.value + verdict.SLACK * math.hypot(e.std_error, joint.std_error) + 1e-9 * max(1.0, joint.value)
    ]
    return [Check("parts-below-whole", "error", not bad, bad[0] if bad else "no part's KL exceeds that of all latents")]


def marginal(posterior: Posterior, columns: slice) -> Distribution:
    """Make the posterior of some of the latents, batch shape (N,).

    Raises:
        InputError: the marginals of the posterior are not known.
    """
    if isinstance(posterior, DiagonalGaussian):
        some = DiagonalGaussian(posterior.mean[:, columns], **{posterior.parametrization: posterior.spread[:, columns]})
        return posterior.same_rows(some)
    if isinstance(posterior, TorchPosterior) and isinstance(posterior.distribution, MultivariateNormal):
        rows = posterior.distribution.scale_tril[:, columns]
        tril = torch.linalg.qr(rows.mT).R.mT  # the square of rows would lose half of the digits
        tril = tril * tril.diagonal(dim1=-2, dim2=-1).sign()[:, None]
        full = MultivariateNormal(posterior.mean[:, columns], scale_tril=tril, validate_args=False)
        return full if clusters_of(posterior) is posterior.weights is None else posterior.same_rows(TorchPosterior(full))
    what = (
        "gives samples and no density"
        if isinstance(posterior, SampleOnly)
        else "is no Gaussian, so its marginals are not known"
    )
    raise InputError(f"the encoder {what}")


def _of_latents(
    columns: slice, posterior: Posterior, prior: Distribution, methods: Sequence[Estimator], generator: torch.Generator
) -> list[Estimate]:
    normal = diagonal_normal(prior)
    if normal is None:
        raise InputError("the prior is not a diagonal normal, so the prior of this part alone is not known")
    mean, std = (t[columns].double() for t in normal)
    p = Independent(Normal(mean, std, validate_args=False), 1)
    q = marginal(posterior, columns)
    return [estimate for method in methods for estimate in _alone(method).estimate(q, p, generator=generator)]


def _alone(method: Estimator) -> Estimator:
    """Copy the method without its file of draws, which are those of the whole posterior."""
    if method.partial is None and not method.resume:
        return method
    settings: Any = method  # it is a dataclass, and these two are fields of it
    alone: Estimator = dataclasses.replace(settings, partial=None, resume=False)
    return alone


def _report(name: str, kind: str, size: int, found: Sequence[Estimate]) -> PartReport:
    no_method = "the method that gives it did not run"
    return PartReport(
        name,
        kind,
        size,
        average_kl=verdict.quantity(found, "average-kl", no_method),
        mutual_information=verdict.quantity(found, "mutual-information", no_method),
        brackets={target: verdict.bracket(found, target) for target in verdict.TARGETS},
        estimates=tuple(found),
    )


def _nothing(name: str, size: int, reason: str) -> PartReport:
    unknown = Quantity(None, None, reason)
    return PartReport(name, "latents", size, unknown, unknown, {}, (), reason)


def _exact(estimates: Sequence[Estimate]) -> Estimate | None:
    """The estimate of the empirical KL itself, where a method gives one."""
    exact = [e for e in estimates if (e.quantity, e.target, e.bound) == ("kl", "empirical", "exact")]
    return exact[0] if exact else None
