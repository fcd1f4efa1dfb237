"""Checks of a posterior's own numbers in one pass, before anything is estimated."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import torch
from torch.distributions import Distribution, MultivariateNormal

from klprobe.distributions.clusters import Clusters, all_clusters, by_weight, most_information, row_hashes, worth
from klprobe.distributions.families import bare, check_parameters, log_density, numbers, sample_with
from klprobe.distributions.posteriors import ROWS_AT_ONCE, DiagonalGaussian, SampleOnly, TorchPosterior, sample_prior
from klprobe.distributions.priors import Cloud
from klprobe.distributions.ties import Ties, shared_rows
from klprobe.types import Check, InputError, Posterior, RadiusHistogram

ACTIVE = 0.01
"""Variance of a latent's posterior mean over the data above which the latent counts as active (Burda et al. 2016)."""
CLAMPED_SHARE = 0.01
"""Share of exactly equal extreme log-variances at which they look clamped."""
RESOLVED = 1e-14
"""Standard deviation over |mean| below which float64 draws lie on a grid too coarse for the density."""
SMALLEST, LARGEST = 1e-60, 1e60
"""Smallest and largest standard deviation whose squares, and their sums over latents, stay within a float64."""
CONDITION = 1e12
"""Largest condition number of a Cholesky factor: up to it, rounding moves a draw by 1e-4 of a standard deviation at most."""
FLOAT32_LOG_RANGE = 87.0
"""exp of more than this, or less than minus this, leaves float32's normal range."""
FEW_GROUPS = 20
"""Groups below which an error over groups is itself known to no better than a sixth."""
FEW = ": so few tell little about data sets with other groups, and the errors over them are themselves uncertain"
UNEVEN = 0.5
"""Share of N that the weights leave, below which they decide how much is known."""
RADIUS_DRAWS = 20_000
RADIUS_BINS = 60
MOST_AT_ONCE = 1 << 26
"""Numbers of a whole batch, 512 MB of float64, up to which it is held against its single points."""
NUMBERS = 4_000_000
"""Number of values drawn together for the radii, which limits memory."""


def check_posterior(posterior: Posterior) -> list[Check]:
    """Warn about the numbers of a posterior: duplicate points, and clamped or extreme spreads.

    Raises:
        InputError: a number is NaN or infinite, a standard deviation is 0, negative or beyond the range of a float64, or a
            covariance is so badly conditioned that draws in float64 do not show it; the message names the row and the latent.
    """
    if isinstance(posterior, SampleOnly):
        _need_finite("samples", posterior.samples)
        return [*_rows(posterior), _flat(posterior.samples)]
    if isinstance(posterior, TorchPosterior) and isinstance(posterior.distribution, MultivariateNormal):
        _need_finite("mean", posterior.mean)
        _need_condition(posterior.mean, posterior.distribution.scale_tril)
    if isinstance(posterior, TorchPosterior):
        _check_points(posterior)
    if not isinstance(posterior, DiagonalGaussian):
        return [check for check in _rows(posterior) if check.name != "duplicate-points" or not check.passed]
    _need_finite("mean", posterior.mean)
    _need_finite(posterior.parametrization, posterior.spread)
    return [*_rows(posterior), *_spreads(posterior)]


def _check_points(posterior: TorchPosterior) -> None:
    """Raise InputError unless the posteriors of single points give the densities that the whole batch gives."""
    whole = posterior.distribution
    check_parameters(whole)
    if numbers(whole) > MOST_AT_ONCE:
        return
    points = torch.tensor(sorted({0, posterior.num_points // 2, posterior.num_points - 1}))
    drawn = sample_with(whole, 1, torch.Generator().manual_seed(0))[0].double()
    together = log_density(whole, drawn)[points]
    z, alike = drawn[points], False
    with contextlib.suppress(InputError):
        alone, pairs = posterior.log_prob_at(z, points), posterior.log_prob_matrix(z, points).diagonal()
        alike = torch.allclose(alone, together, 1e-4, 1e-4) and torch.allclose(alone, pairs, 1e-4, 1e-4)
    if not alike:
        raise InputError(
            f"{type(bare(whole)).__name__}: the densities of single data points differ from those of the whole batch, so "
            "klprobe does not know how its parameters belong to the points: subclass ConditionalDistribution with sample_at "
            "and log_prob_at, or hand over samples (klprobe.SampleOnly)."
        )


def _need_finite(name: str, tensor: torch.Tensor) -> None:
    bad, first = 0, None
    for start in range(0, len(tensor), ROWS_AT_ONCE):
        where = (~torch.isfinite(tensor[start : start + ROWS_AT_ONCE])).nonzero()
        if len(where) and first is None:
            first = (int(where[0, 0]) + start, int(where[0, 1]))
        bad += len(where)
    if bad:
        raise InputError(f"{name} holds {bad} values that are NaN or infinite, the first at index {first}.")


def _need_condition(mean: torch.Tensor, tril: torch.Tensor) -> None:
    """Raise unless draws, rounded to float64, still say what the standard normal draws behind them were (Skeel 1979)."""
    for start in range(0, len(tril), _rows_of(tril)):
        block, centre = tril[start : start + _rows_of(tril)].double(), mean[start : start + _rows_of(tril)].double()
        bad = ~(torch.isfinite(block).all(-1) & (block.diagonal(dim1=-2, dim2=-1) > 0))
        if bool(bad.any()):
            row, latent = bad.nonzero()[0].tolist()
            raise InputError(
                f"scale_tril at row {start + row}, latent {latent} is not finite with a positive diagonal, as it must be."
            )
        scale = (block.abs().sum(-1) + centre.abs())[..., None]
        # The inverse's entries are at most those of the inverse with all signs against each other, which one solution shows.
        against = 2 * torch.diag_embed(block.diagonal(dim1=-2, dim2=-1)) - block.abs()
        sizes = torch.linalg.solve_triangular(against, scale, upper=False).squeeze(-1)
        doubtful = (~(sizes.amax(-1) <= CONDITION)).nonzero().flatten()
        identity = torch.eye(block.shape[-1], dtype=torch.float64)
        inverse = torch.linalg.solve_triangular(block[doubtful], identity, upper=False)
        sizes[doubtful] = (inverse.abs() @ scale[doubtful]).squeeze(-1)
        condition, latent = sizes.nan_to_num(math.inf, math.inf).max(-1)
        if bool((condition > CONDITION).any()):
            row = int(condition.argmax())
            raise InputError(
                f"The posterior's covariance at row {start + row} is too badly conditioned for draws in float64 to show it: "
                f"condition number {float(condition[row]):.1e}, at most {CONDITION:.0e}, worst in latent {int(latent[row])}. "
                "Give small variances a floor, or leave latents out that hang together."
            )


def _rows_of(tril: torch.Tensor) -> int:
    return max(1, NUMBERS // tril[0].numel())


def check_clouds(posterior: Posterior, prior: Distribution) -> list[Check]:
    """Warn about samples of q that are also among the prior's; empty unless q and p are both known by samples alone."""
    if not isinstance(posterior, SampleOnly) or not isinstance(prior, Cloud):
        return []
    count = shared_rows(row_hashes([posterior.samples]), row_hashes([prior.samples]))
    message = (
        f"{count} of {posterior.num_points} samples of q are among the prior's, bit by bit: errors and bounds take the two "
        "clouds for independent draws. Hand over samples that were drawn apart"
    )
    return [Check("clouds-apart", "warning", count == 0, message if count else "no sample of q is among the prior's")]


def _rows(posterior: Posterior) -> list[Check]:
    """Warn about points that repeat another's posterior, bit by bit or but for rounding; what weights and groups leave of N."""
    found, n = all_clusters(posterior), posterior.num_points
    checks = [Check("duplicate-points", "warning", found.num_copies == 0, _copies(found, n))]
    if found.grouped:
        few = found.count < FEW_GROUPS
        checks.append(Check("few-groups", "warning", not few, f"{found.count:,} groups of rows" + FEW * few))
    if posterior.weights is not None:
        left = worth(posterior.weights)
        words = (
            f"the weights make the {n:,} points worth {left:,.0f} of equal weight: mutual information ends at their entropy, "
            f"{most_information(posterior):.2f} nats, and errors over data sets are those of as many points"
        )
        checks.append(Check("uneven-weights", "warning", left >= UNEVEN * n, words))
    return checks


def _copies(found: Clusters, n: int) -> str:
    if not found.num_copies:
        return "no two points share a posterior"
    _, first, counts = np.unique(found.copies.numpy(), return_index=True, return_counts=True)
    largest = int(np.lexsort((first, -counts))[0])
    other = np.flatnonzero(found.copies.numpy() == largest)[1]
    how = f", to within {found.within:.0e} of the numbers' spread" if found.within else ""
    words = (
        f"{found.num_copies:,} of {n:,} points repeat another point's posterior{how}, as row {other:,} does row "
        f"{first[largest]:,}, so that log N overstates the ceiling: {n - found.num_copies:,} are different"
    )
    if found.count == 1:
        return words + ". All rows belong together, so nothing is left of q(z) without them: there is no leave-one-out bound"
    return words + ". Bounds and errors of the population leave out, split and count all copies of a point together"


def _flat(samples: torch.Tensor) -> Check:
    """Warn about latents that take few values, for which no ratio of densities can be learned."""
    flat = Ties.of(samples).coarse.nonzero().flatten().tolist()
    message = (
        f"few different numbers in latents {_some(flat)}: q(z) has no density there, and its KL is infinite unless p is as "
        "coarse: estimates from samples do not show it. Drop these latents from q and p, or give them unrounded"
    )
    return Check("latents-vary", "warning", not flat, message if flat else "every latent varies over the points")


def _spreads(q: DiagonalGaussian) -> list[Check]:
    """Warn about log-variances that are constant or clamped, or that leave the range of a float."""
    low, high = torch.full((q.dim,), math.inf, dtype=torch.float64), torch.full((q.dim,), -math.inf, dtype=torch.float64)
    at_low, at_high = torch.zeros(q.dim), torch.zeros(q.dim)
    unresolved, seen, where = 0, 0, ""
    for mean, std in q.blocks():
        if bool((outside := ~((std >= SMALLEST) & (std <= LARGEST))).any()):
            row, latent = outside.nonzero()[0].tolist()
            raise InputError(
                f"The posterior standard deviation at row {seen + row}, latent {latent} is {float(std[row, latent]):.3g}; its "
                f"square would leave the range of a float64, which holds {SMALLEST:g} to {LARGEST:g} here. A deterministic "
                "encoder has none: hand over its mean alone, or give the deviations a floor."
            )
        if bool((hidden := std < RESOLVED * mean.abs()).any()) and not unresolved:
            row, latent = hidden.nonzero()[0].tolist()
            where = f"the first at row {seen + row}, latent {latent}"
        seen += len(mean)
        unresolved += int(hidden.sum())
        block_low, block_high = std.min(0).values.cpu(), std.max(0).values.cpu()
        at_low = torch.where(block_low < low, 0.0, at_low)
        at_high = torch.where(block_high > high, 0.0, at_high)
        low, high = torch.minimum(low, block_low), torch.maximum(high, block_high)
        at_low += (std.cpu() == low).sum(0)
        at_high += (std.cpu() == high).sum(0)
    if unresolved:
        raise InputError(
            f"{unresolved} posterior standard deviations, {where}, are below {RESOLVED:g} of their means: no "
            "draw in float64 can show them. Hand over the mean alone, as a deterministic encoder, or give them a floor."
        )
    constant = (low == high).nonzero().flatten().tolist()
    clamped = ((at_low > CLAMPED_SHARE * q.num_points) | (at_high > CLAMPED_SHARE * q.num_points)) & (low < high)
    suspects = clamped.nonzero().flatten().tolist()
    words = [f"constant in latents {_some(constant)} (as it should be if the encoder's variance is fixed)"] * bool(constant) + [
        f"clamped in latents {_some(suspects)}"
    ] * bool(suspects)
    extreme = 2 * max(abs(math.log(float(low.min()))), abs(math.log(float(high.max())))) > FLOAT32_LOG_RANGE
    return [
        Check(
            "log-variance", "warning", not words, "log-variance is " + " and ".join(words) if words else "log-variances vary"
        ),
        Check(
            "float-range",
            "warning",
            not extreme,
            f"standard deviations reach from {float(low.min()):.2g} to {float(high.max()):.2g}"
            + (": a variance overflows or vanishes in float32" if extreme else ""),
        ),
    ]


def _some(latents: list[int]) -> str:
    return ", ".join(map(str, latents[:5])) + (f" and {len(latents) - 5} more" if len(latents) > 5 else "")


def active_units(posterior: Posterior) -> int | None:
    """Number of latents whose posterior mean has a variance over the data above 0.01; None where the mean is not known.

    Reference: Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, section 5.2.
    """
    try:
        mean = posterior.samples if isinstance(posterior, SampleOnly) and posterior.deterministic else posterior.mean
    except NotImplementedError:
        return None
    blocks = (mean[start : start + ROWS_AT_ONCE] for start in range(0, len(mean), ROWS_AT_ONCE))
    if not all(bool(block.isfinite().all()) for block in blocks):
        return None  # as of a Cauchy distribution
    count, total, square = 0, torch.zeros(posterior.dim, dtype=torch.float64), torch.zeros(posterior.dim, dtype=torch.float64)
    shift = mean[:1].double().cpu()
    for start in range(0, len(mean), ROWS_AT_ONCE):
        block = mean[start : start + ROWS_AT_ONCE].double().cpu() - shift
        w = 1.0 if posterior.weights is None else posterior.weights[start : start + ROWS_AT_ONCE, None]
        count, total, square = count + len(block), total + (w * block).sum(0), square + (w * block.square()).sum(0)
    return int(((square / count - (total / count).square()) > ACTIVE).sum())


def radius_histogram(posterior: Posterior, prior: Distribution, generator: torch.Generator) -> RadiusHistogram:
    """Histograms of |z| of draws from q(z) and from p(z), as densities over common bins."""
    if posterior.weights is None:
        points = torch.randint(posterior.num_points, (RADIUS_DRAWS,), generator=generator)
    else:
        points = by_weight(posterior.weights, RADIUS_DRAWS, generator)
    blocks = points.split(max(1, NUMBERS // posterior.dim))
    q = torch.cat([posterior.sample_at(block, generator).norm(dim=1).cpu() for block in blocks]).numpy()
    p = torch.cat([sample_prior(prior, len(block), generator).norm(dim=1).cpu() for block in blocks]).numpy()
    low, high = min(q.min(), p.min()), max(np.quantile(q, 0.999), np.quantile(p, 0.999))
    edges = np.linspace(low, high if high > low else low + 1.0, RADIUS_BINS + 1)
    densities = [np.histogram(r, edges)[0] / (len(r) * np.diff(edges)) for r in (q, p)]
    return RadiusHistogram(tuple(edges.tolist()), tuple(densities[0].tolist()), tuple(densities[1].tolist()))
