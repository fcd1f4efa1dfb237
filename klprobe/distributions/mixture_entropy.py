"""The integral of q log q over a mixture of Gaussians on the line, with a bound of its error.

Components are taken by octaves of their standard deviation, the widest first. Those of an octave are evaluated at the nodes of
panels twice as wide as the octave's smallest deviation, and nowhere else; where narrower ones begin, a panel is halved and the
density so far interpolated, which is exact to 1e-11 because nothing in it is narrower than half a panel. So no component can
fall between two nodes, and no panel is finer than what lies in it.

On each panel log q is a quadratic function, fitted at the nodes, and the log of a remainder. What the remainder's polynomial
can do within an ellipse around the panel bounds the error of Gauss-Legendre quadrature; where that is large, a panel is halved.
Reference: Greengard and Strain (1991), The fast Gauss transform; Trefethen (2013), Approximation theory and approximation
practice, theorem 19.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]

NODES = 16
"""Gauss-Legendre nodes a panel."""
REACH = 7.0
"""Standard deviations beyond which a component is left out; the mass there is 2.6e-12."""
OFFSETS = 16
"""Most panels that a component reaches."""
TOLERANCE = 1e-6
"""Nats of quadrature error, of a mixture of mass 1, up to which panels are accepted."""
MOST_HALVINGS = 14
DENSITY_ERROR = 1e-9
"""What cutting, and interpolating once an octave, leaves out of a component of mass 1, in the L1 norm."""
MASS_ERROR = 1e-6
"""Share of the mass that may be missing, or too much; more is a fault."""
TAILS = 20.0
"""Nats by which the density's logarithm lies below its mean where its error still counts."""
COMPONENTS_AT_ONCE, PANELS_AT_ONCE = 4096, 8192
ELLIPSES = (1.15, 1.3, 1.5, 1.8, 2.2, 2.8, 4.0)
"""Sums of half-axes of the ellipses on which a bound is tried."""
X, WEIGHTS = np.polynomial.legendre.leggauss(NODES)
_LEGENDRE = np.polynomial.legendre.legvander(X, NODES - 1)
_TO_LEGENDRE = (_LEGENDRE * WEIGHTS[:, None]) * (np.arange(NODES) + 0.5)
HALVES = tuple(np.polynomial.legendre.legvander(0.5 * (X + side), NODES - 1) @ _TO_LEGENDRE.T for side in (-1, 1))
"""From the values at a panel's nodes to those at the nodes of its left and right half."""
TO_CHEBYSHEV = np.linalg.inv(np.polynomial.chebyshev.chebvander(X, NODES - 1)).T
_EVEN = X**2 - (WEIGHTS @ X**2) / 2


class Panels(NamedTuple):
    """A density at the nodes of panels of width 2^(level + 1), counted from 0 on: ascending indices, values (panels, nodes)."""

    level: int
    places: Index
    density: Array


class Integral(NamedTuple):
    """A value in nats, the most that it may be off, and the mass that it is of."""

    value: float
    error: float
    mass: float


def levels_of(std: Array) -> Index:
    """The octave of each standard deviation: 2^level <= std < 2^(level + 1)."""
    return np.frexp(std)[1].astype(np.int64) - 1


def evaluated(level: int, mean: Array, std: Array, weight: Array) -> Panels:
    """The density of the components of one octave, each evaluated on every panel that it reaches."""
    width = 2.0 ** (level + 1)
    first = np.floor((mean - REACH * std) / width).astype(np.int64)
    order = np.argsort(first, kind="stable")
    mean, std, first = mean[order], std[order], first[order]
    scale = weight[order] / (std * math.sqrt(2 * math.pi))
    reached = np.floor((mean + REACH * std) / width).astype(np.int64) - first
    index = np.unique(np.concatenate([_distinct(first[reached >= o]) + o for o in range(int(reached.max()) + 1)]))
    density = np.zeros((len(index), NODES))
    for start in range(0, len(mean), COMPONENTS_AT_ONCE):
        block = slice(start, start + COMPONENTS_AT_ONCE)
        for o in range(int(reached[block].max()) + 1):
            some = np.flatnonzero(reached[block] >= o) + start
            panel, s = first[some] + o, std[some, None]
            x = ((panel * width - mean[some])[:, None] + 0.5 * width * (X + 1)) / s
            values = np.exp(-0.5 * x * x) * scale[some, None]
            starts = np.flatnonzero(np.diff(panel, prepend=panel[0] - 1))
            density[np.searchsorted(index, panel[starts])] += np.add.reduceat(values, starts, 0)
    return Panels(level, index, density)


def _distinct(ascending: Index) -> Index:
    return ascending[np.diff(ascending, prepend=ascending[0] - 1) > 0] if len(ascending) else ascending


def clusters(mean: Array, std: Array) -> tuple[Index, Index]:
    """Components in an order, and where in it those begin that share no place with any before."""
    low, high = mean - REACH * std, mean + REACH * std
    order = np.argsort(low, kind="stable")
    before = np.maximum.accumulate(high[order])[:-1]
    return order, np.concatenate([[0], 1 + np.flatnonzero(before < low[order][1:])])


def integral_of_isolated(std: Array, weight: Array) -> Integral:
    """The integral of q log q over components that share no place with any other, in closed form."""
    value = float((weight * (np.log(weight) - np.log(std) - 0.5 * math.log(2 * math.pi * math.e))).sum())
    return Integral(value, DENSITY_ERROR * float(weight.sum()), float(weight.sum()))


def integral(octaves: Sequence[Panels], mass: float, density_error: float) -> Integral:
    """The integral of q log q, q being the sum of the densities of all octaves, each in one `Panels`.

    Args:
        octaves: The densities.
        mass: What q must integrate to; where it does not, the error is infinite.
        density_error: Integral of what the densities are off, for a mass of 1.
    """
    leaves = _leaves(octaves)
    half = np.concatenate([np.full(len(panels.places), 2.0**panels.level) for panels in leaves])
    density = np.concatenate([panels.density for panels in leaves])
    value, error, seen = _integrate(half, density)
    if abs(seen - mass) > MASS_ERROR * mass:
        return Integral(value, math.inf, seen)
    # What is off in q counts with log q, whose distance from its mean is at most that of its top, or that of far tails.
    error += density_error * (mass * (math.log(density.max()) + TAILS) - value)
    return Integral(value, error, seen)


def _leaves(octaves: Sequence[Panels]) -> list[Panels]:
    """The sum of the densities, on panels that are disjoint and as fine as the narrowest component that reaches them."""
    given = {panels.level: panels for panels in octaves}
    bottom, top = min(given), max(given)
    none = np.empty(0, dtype=np.int64)
    finer = {bottom: none}  # by level, the panels that hold finer ones
    for level in range(bottom, top):
        below = np.union1d(finer[level], given[level].places) if level in given else finer[level]
        finer[level + 1] = _distinct(below >> 1)
    leaves: list[Panels] = []
    now = Panels(top, none, np.empty((0, NODES)))
    for level in range(top, bottom - 1, -1):
        if level in given:
            now = _sum(now, given[level])
        split = np.isin(now.places, finer[level])
        leaves.append(Panels(level, now.places[~split], now.density[~split]))
        children = (2 * now.places[split][:, None] + np.arange(2)).ravel()
        now = Panels(level - 1, children, halved(now.density[split]))
    return leaves


def _sum(one: Panels, other: Panels) -> Panels:
    index = np.union1d(one.places, other.places)
    density = np.zeros((len(index), NODES))
    density[np.searchsorted(index, one.places)] = one.density
    density[np.searchsorted(index, other.places)] += other.density
    return Panels(one.level, index, density)


def halved(density: Array) -> Array:
    """The values at the nodes of the left and the right half of each panel in turn."""
    return np.stack([density @ half.T for half in HALVES], 1).reshape(-1, NODES)


def _integrate(half: Array, density: Array) -> Integral:
    """Over panels of these half-widths, halved where the bound is too large."""
    value = error = mass = 0.0
    share = TOLERANCE / len(half) * float((half * (density @ WEIGHTS)).sum())
    for halvings in range(MOST_HALVINGS + 1):
        again: list[tuple[Array, Array]] = []
        for start in range(0, len(half), PANELS_AT_ONCE):
            h, q = half[start : start + PANELS_AT_ONCE], np.maximum(density[start : start + PANELS_AT_ONCE], 0.0)
            integrals, bounds, masses = _on_panels(h, q)
            done = (bounds <= TOLERANCE * masses + share) | (halvings == MOST_HALVINGS)
            value, error, mass = value + integrals[done].sum(), error + bounds[done].sum(), mass + masses[done].sum()
            again.append((np.repeat(0.5 * h[~done], 2), halved(q[~done])))
        half, density = (np.concatenate(parts) for parts in zip(*again, strict=True))
        if not len(half):
            break
    return Integral(float(value), float(error), float(mass))


def _on_panels(half: Array, q: Array) -> tuple[Array, Array, Array]:
    """Integral of q log q, the most that it may be off, and mass; one entry a panel."""
    top = q.max(1)
    some = top > 0
    unit = q[some] / top[some, None]  # at most 1 at the nodes, so that nothing overflows
    log_unit = np.log(np.maximum(unit, 1e-300))
    mean = 0.5 * (unit @ WEIGHTS)
    inner = 0.5 * ((unit * log_unit) @ WEIGHTS)
    # Jensen: the integral lies between those of the panel's mean density, and of its highest.
    highest = np.abs(unit @ TO_CHEBYSHEV).sum(1)
    crude = mean * np.log(np.maximum(highest / np.maximum(mean, 1e-300), 1.0))
    error = np.minimum(crude, _ellipse_bound(unit, log_unit))
    integrals, bounds, masses = (np.zeros(len(q)) for _ in range(3))
    scale = 2 * half[some] * top[some]
    masses[some] = scale * mean
    integrals[some] = scale * (inner + mean * np.log(top[some]))
    bounds[some] = scale * error
    return integrals, bounds, masses


def _ellipse_bound(unit: Array, log_unit: Array) -> Array:
    """Largest error of the mean of q log q over each panel; infinite where no ellipse is free of zeros.

    q = exp(a x + b x^2) R, and q log q = q (a x + b x^2 + log r_0) + q log(R / r_0). The nodes integrate the first part
    exactly. Where the coefficients r_i of R sum to less than r_0 on an ellipse, the second has no singularity within, and its
    size there bounds the error.
    """
    slope = 1.5 * (log_unit @ (WEIGHTS * X))
    bend = (log_unit @ (WEIGHTS * _EVEN)) / float(WEIGHTS @ _EVEN**2)
    r = np.exp(log_unit - slope[:, None] * X - bend[:, None] * X**2) @ TO_CHEBYSHEV
    r_0, rest = np.maximum(r[:, 0], 1e-300), np.abs(r[:, 1:])
    best = np.full(len(unit), np.inf)
    for rho in ELLIPSES:
        axis = 0.5 * (rho + 1 / rho)
        beyond = (rest[:, -1] + rest[:, -2]) * rho**NODES  # as much again for the terms that 16 nodes do not see
        a = (rest @ rho ** np.arange(1, NODES) + beyond) / r_0
        free = a < 0.98
        a, where = a[free], np.flatnonzero(free)
        size = (1 + a) * -np.log1p(-a) * r_0[where] * np.exp(np.abs(slope[where]) * axis + np.abs(bend[where]) * axis**2)
        bound = 32 / 15 * size * rho ** (2.0 - 2 * NODES) / (1 - rho**-2)
        best[where] = np.minimum(best[where], bound)
    return best
