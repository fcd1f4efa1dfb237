"""Run the estimators on one posterior and one prior, and collect their answers in one report."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch.distributions import Distribution

from klprobe import registry
from klprobe.distributions.categorical import Classes
from klprobe.distributions.clusters import in_words, most_information, with_rows
from klprobe.distributions.digest import digest
from klprobe.distributions.inspection import active_units, check_clouds, check_posterior, radius_histogram
from klprobe.distributions.marginals import dimensionwise_kl
from klprobe.distributions.posteriors import (
    DiagonalGaussian,
    SampleOnly,
    as_posterior,
    check_prior,
    has_density,
    measure_of,
    standard_normal,
)
from klprobe.distributions.ties import check_ties
from klprobe.estimation import verdict
from klprobe.estimation.auto import recommended
from klprobe.estimation.conditional import conditional_report, is_conditional
from klprobe.estimation.holes import shares_in_holes
from klprobe.estimation.identities import check_identities
from klprobe.estimation.parts import check_parts, compare_parts, report_parts
from klprobe.estimation.report import Report
from klprobe.estimation.selftest import small_digest
from klprobe.runtime import parallel
from klprobe.runtime.arithmetic import arithmetic
from klprobe.runtime.heartbeat import ProcessLost
from klprobe.runtime.provenance import commit, versions
from klprobe.types import (
    INTERRUPTED,
    NOT_A_KL,
    Check,
    Estimate,
    Estimator,
    InputError,
    InterruptedEstimate,
    NotDone,
    Posterior,
    Progress,
    Quantity,
    no_progress,
)

FIRST = ("closed-form", "monte-carlo")
"""Methods that run first, because they are exact and quick, and a run that is stopped early should have them."""
ALWAYS = "closed-form"
WIDE = 512
"""Number of hidden units in a layer from which a fit uses all torch threads."""
NOT_WANTED = "not asked for (marginals=False)"

ProgressOf = Callable[[str], Progress]


def estimate(
    posterior: Distribution,
    prior: Distribution | None = None,
    *,
    methods: Sequence[str | Estimator] = ("auto",),
    seed: int = 0,
    weights: torch.Tensor | None = None,
    groups: torch.Tensor | None = None,
    split: str = "unknown",
    trained_on: str = "unknown",
    provenance: Mapping[str, Any] | None = None,
    parts: Mapping[str, slice | Classes] = MappingProxyType({}),
    marginals: bool = True,
    checks: Sequence[Check] = (),
    progress: ProgressOf | None = None,
) -> Report:
    """Estimate KL[q(z)||p(z)] of a posterior and its prior by several methods; the report has brackets, in nats.

    Each method's random numbers depend on the seed and its own name alone, so its result does not depend on which other
    methods run. A method that fails, or is interrupted, is named in `report.not_done`; the other results remain.

    Args:
        posterior: Distribution with batch shape (N,), one entry for each data point, and event shape (D,).
        prior: Distribution with event shape (D,); None means N(0, I). One with batch shape (N,), a prior p(z|x_n) of each
            data point, gives the average KL alone.
        methods: Names of estimators or configured instances; "auto" for those that suit the input best, or "all" for
            every one that it allows. The closed form always runs where it can.
        seed: Seed of all random numbers; torch's global state is not changed.
        weights: Weight of each point, shape (N,), positive; only their ratios matter. None: all weigh the same.
        groups: Shape (N,), equal for points that are not independent of each other, as of one donor, video or image. Bounds
            and errors of the population leave out, split and count whole groups. None: points are independent.
        split, trained_on: Which points these are, and which the encoder was trained on: population bounds ask for
            points that it was not trained on, and the report says when they are not.
        provenance: Facts that are recorded in the report as they are.
        parts: Latents to report by themselves too, by name: slices of the D latents, or categorical latents beside them.
        marginals: Whether to compute each latent's own KL by quadrature, and with it the total correlation: half a second
            for 10,000 points of 32 latents, and in proportion to both.
        checks: Checks of the data behind the posterior, by whoever encoded them; the report includes them.
        progress: Function from a method's name to the function that is called with its progress.

    Raises:
        InputError: the input cannot be used, or a method is unknown; the message lists the known ones and the nearest.
        TypeError: posterior or prior is not a Distribution.

    Example:
        >>> q = torch.distributions.Normal(mean, std)                     # mean, std of shape (N, D)
        >>> klprobe.estimate(torch.distributions.Independent(q, 1)).brackets["population"]
    """
    started = time.perf_counter()
    machine = {**arithmetic(), "digest": small_digest()}
    q = as_posterior(posterior)
    if weights is not None or groups is not None:
        q = with_rows(q, weights=weights, groups=groups)
    prior = standard_normal(q.dim) if prior is None else prior
    if not isinstance(prior, Distribution):
        raise TypeError(f"A prior is a torch Distribution with event shape ({q.dim},); got {type(prior).__name__}.")
    if is_conditional(q, prior):
        report = _of_each_point(q, prior, methods, seed, parts, split, trained_on, provenance or {})
        return dataclasses.replace(report, checks=(*report.checks, *checks))
    check_prior(q, prior)
    check_parts(parts, q)
    if parallel.rank_and_size()[1] > 1:
        parallel.same_everywhere(digest(q, prior), "posterior and prior")
    data_checks = [*check_posterior(q), *check_clouds(q, prior), *check_ties(q, prior)]
    refused, chosen = _refusals(choose_methods(methods, q, prior), q)
    tell = progress or (lambda _: no_progress)
    estimates, not_done, interrupted = _run(chosen, q, prior, seed, tell)
    not_done += refused
    left_out = INTERRUPTED if interrupted else "" if marginals else NOT_WANTED
    chooser = generator_of(seed, "marginals")
    dimensions, reason = (None, left_out) if left_out else _dimensions(q, prior, chooser, tell("marginals"))
    by_part = report_parts(
        parts,
        q,
        prior,
        [estimator for name, estimator in chosen if name in FIRST],
        lambda name: generator_of(seed, f"part/{name}"),
        reason=INTERRUPTED if interrupted else None,
    )
    no_density = "the encoder gives samples and no density" if not q.has_log_prob else "the method that gives it did not run"
    if isinstance(q, SampleOnly) and q.deterministic:
        no_density = "infinite: the encoder is deterministic"
    facts = verdict.Facts(
        num_points=q.num_points,
        average_kl=verdict.quantity(estimates, "average-kl", no_density),
        mutual_information=verdict.quantity(estimates, "mutual-information", no_density),
        total_correlation=verdict.total_correlation(estimates, dimensions, reason),
        has_density=q.has_log_prob,
        deterministic=isinstance(q, SampleOnly) and q.deterministic,
        split=split,
        trained_on=trained_on,
        ceiling=most_information(q),
    )
    brackets = {
        "empirical": verdict.infinite_bracket() if facts.deterministic else verdict.bracket(estimates, "empirical"),
        "population": verdict.bracket(estimates, "population"),
    }
    found = [
        *verdict.check_estimates(facts, estimates),
        *check_identities(facts, estimates, dimensions, by_part),
        *compare_parts(by_part, estimates),
        *data_checks,
        *checks,
    ]
    unlike_held_out, unlike_codes = _holes(q, prior, left_out, generator_of(seed, "holes"))
    answer, advice = verdict.verdict(facts, estimates, brackets, found)
    return Report(
        latent_dim=q.dim,
        num_points=q.num_points,
        log_n=facts.log_n,
        average_kl=facts.average_kl,
        mutual_information=facts.mutual_information,
        total_correlation=facts.total_correlation,
        dimensionwise_kl=dimensions,
        active_units=active_units(q),
        estimates=tuple(e for e in estimates if e.quantity not in NOT_A_KL),
        brackets=brackets,
        verdict=answer,
        advice=advice,
        checks=tuple(found),
        not_done=tuple(not_done),
        prior_in_holes=unlike_held_out,
        prior_unlike_codes=unlike_codes,
        radius=radius_histogram(q, prior, generator_of(seed, "radius")),
        parts=by_part,
        provenance={
            "seed": seed,
            "split": split,
            "trained_on": trained_on,
            "settings": {name: settings_of(estimator) for name, estimator in chosen},
            "prior": str(prior),
            "seconds": time.perf_counter() - started,
            "arithmetic": machine,
            "versions": versions(),
            "commit": commit(),
            **({"rows": rows} if (rows := in_words(q.groups, q.weights)) else {}),
            **(provenance or {}),
        },
    )


def _of_each_point(
    q: Posterior,
    prior: Distribution,
    methods: Sequence[str | Estimator],
    seed: int,
    parts: Mapping[str, slice | Classes],
    split: str,
    trained_on: str,
    provenance: Mapping[str, Any],
) -> Report:
    """Report the average KL from a prior p(z|x_n) of each data point, and refuse what has no meaning with it."""
    if parts:
        raise InputError(f"The parts {', '.join(parts)} need one p(z), and this prior is one p(z|x) of each data point.")
    started = time.perf_counter()
    named = [m if isinstance(m, str) else registry.name_of(m) for m in methods]
    asked = [registry.name_of(registry.load("estimators", name)()) for name in named if name not in ("auto", "all")]
    facts = {"seed": seed, "settings": {}, "versions": versions(), "commit": commit(), **provenance}
    rng = generator_of(seed, "conditional")
    report = conditional_report(q, prior, methods=asked, generator=rng, split=split, trained_on=trained_on, provenance=facts)
    return dataclasses.replace(report, provenance={**report.provenance, "seconds": time.perf_counter() - started})


def _holes(q: Posterior, prior: Distribution, left_out: str, generator: torch.Generator) -> tuple[Quantity, Quantity]:
    """Estimate the shares of the prior's mass in holes, on the fast path alone, where it takes a second at most."""
    reason = left_out
    if not left_out and not isinstance(q, DiagonalGaussian):
        reason = "klprobe holes says it for posteriors that are no diagonal Gaussians"
    try:
        if not reason:
            return shares_in_holes(q, prior, generator=generator)
    except KeyboardInterrupt:
        reason = INTERRUPTED
    except InputError as error:
        reason = str(error)
    return Quantity(None, None, reason), Quantity(None, None, reason)


def _dimensions(
    q: Posterior, prior: Distribution, generator: torch.Generator, progress: Progress
) -> tuple[tuple[float, ...] | None, str | None]:
    """Compute the dimension-wise KLs; Ctrl-C during this leaves out these KLs and nothing else."""
    try:
        return dimensionwise_kl(q, prior, weights=q.weights, generator=generator, progress=progress)
    except KeyboardInterrupt:
        return None, INTERRUPTED


def _run(
    chosen: Sequence[tuple[str, Estimator]], posterior: Any, prior: Distribution, seed: int, progress: ProgressOf
) -> tuple[list[Estimate], list[NotDone], bool]:
    """Run every method in turn; a method that fails or is interrupted is named, and the report goes on."""
    estimates: list[Estimate] = []
    not_done: list[NotDone] = []
    interrupted = False
    for name, estimator in chosen:
        if interrupted:
            not_done.append(NotDone(name, f"not started: {INTERRUPTED}"))
            continue
        try:
            with _threads_for(estimator):
                estimates += estimator.estimate(posterior, prior, generator=generator_of(seed, name), progress=progress(name))
        except KeyboardInterrupt as stop:
            interrupted = True
            some = stop.estimates if isinstance(stop, InterruptedEstimate) else ()
            estimates += some
            not_done.append(
                NotDone(name, f"{INTERRUPTED}; its estimates rest on the draws made so far" if some else _why(stop))
            )
        except InputError as error:
            if estimator.resume:  # the user wants to continue a run, and not to begin another
                raise
            not_done.append(NotDone(name, str(error)))
        except Exception as error:  # an error in one method must not lose the results of the others
            not_done.append(NotDone(name, f"{type(error).__name__}: {error}"))
    return estimates, not_done, interrupted


def _refusals(chosen: Sequence[tuple[str, Estimator]], q: Posterior) -> tuple[list[NotDone], list[tuple[str, Estimator]]]:
    """The methods that would pass over the rows' weights or groups, and why; and the others."""
    given = [name for name in ("weights", "groups") if getattr(q, name) is not None]
    missing = {name: [what for what in given if what not in estimator.takes] for name, estimator in chosen}
    refused = [
        NotDone(name, f"it does not take {' and '.join(what)} of points: use monte-carlo or closed-form, or leave them away")
        for name, what in missing.items()
        if what
    ]
    return refused, [(name, estimator) for name, estimator in chosen if not missing[name]]


def _why(stop: KeyboardInterrupt) -> str:
    """Why the run was interrupted, which is the user's affair unless another process was lost."""
    return f"{INTERRUPTED}: {stop}" if isinstance(stop, ProcessLost) else INTERRUPTED


@contextlib.contextmanager
def _threads_for(estimator: Estimator) -> Iterator[None]:
    """Set one torch thread for small networks, whose products are too small to share.

    Measured on two cores that other work kept busy: the fits of the demo took 35 s of CPU with one thread, and more than
    six minutes with two, spent waiting for each other.
    """
    before = torch.get_num_threads()
    small = estimator.preset == "default" and estimator.width < WIDE
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_methods(
    methods: Sequence[str | Estimator], posterior: Posterior, prior: Distribution
) -> list[tuple[str, Estimator]]:
    """List (name, configured estimator) in the order they run; "all" is every one that the input allows, "auto" the best ones.

    Raises:
        InputError: no method is given, a name is unknown, or an object is not an estimator.
    """
    if not methods:
        raise InputError(f"No method was named; known: auto, all, {', '.join(registry.names('estimators'))}.")
    able = capabilities(posterior, prior)
    chosen: dict[str, Estimator] = {}
    for method in methods:
        if method in ("auto", "all"):
            meant = recommended(posterior.dim, posterior.num_points, able) if method == "auto" else registry.names("estimators")
            named = [registry.load("estimators", n)() for n in meant if n not in chosen]
            chosen.update({registry.name_of(e): e for e in named if e.requires <= able})
        elif isinstance(method, str):
            estimator = registry.load("estimators", method)()
            chosen[registry.name_of(estimator)] = estimator
        elif isinstance(method, Estimator):
            chosen[registry.name_of(method)] = method
        else:
            raise InputError(
                f"A method is a name or an estimator; got {type(method).__name__}: let its class inherit from "
                "klprobe.types.Estimator, which says what an estimator has."
            )
    if ALWAYS not in chosen and not registry.load("estimators", ALWAYS).requires - able:
        chosen[ALWAYS] = registry.load("estimators", ALWAYS)()
    rank = {name: i for i, name in enumerate(FIRST)}
    return sorted(chosen.items(), key=lambda item: rank.get(item[0], len(FIRST)))


def capabilities(posterior: Posterior, prior: Distribution) -> frozenset[str]:
    """Which of `posterior-density`, `prior-density` and `volume` the input has."""
    return frozenset(
        name
        for name, there in (
            ("posterior-density", posterior.has_log_prob),
            ("prior-density", has_density(prior)),
            ("volume", not {"atoms", "simplex"} & {measure_of(posterior), measure_of(prior)}),
        )
        if there
    )


def settings_of(estimator: Any) -> dict[str, Any]:
    """Fields of the estimator, for the record."""
    if dataclasses.is_dataclass(estimator) and not isinstance(estimator, type):
        return dataclasses.asdict(estimator)
    return {"repr": re.sub(r" at 0x[0-9a-f]+", "", repr(estimator))}


def generator_of(seed: int, name: str) -> torch.Generator:
    """Make a generator that depends on the seed and the name alone."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
