"""Many Gaussians on the line by moments of the bins they fall in: the fast Gauss transform, in time linear in their number.

A bin holds the means of one cell, half as wide as the smallest standard deviation of its octave, and a sixteenth of an octave
of standard deviations. Around the bin's own Gaussian a component is a series of Hermite functions, whose coefficients are
polynomials of its mean and of its variance's distance from the bin's; so sums over components are sums of those, and the bins'
Gaussians at the nodes of the panels around them are one table for all octaves.
Reference: Greengard and Strain (1991), The fast Gauss transform.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from klprobe.distributions.mixture_entropy import NODES, REACH, Array, Index, Panels, X

SHADES = 16
"""Bins of the standard deviation an octave."""
ORDER = 10
"""Highest power of the series."""
SERIES_ERROR = 1.5e-7
"""Largest L1 norm of what the series leaves out of a component of mass 1, by the test of this file."""
CELLS = 4
"""Cells a panel."""
SLOTS = CELLS * SHADES
"""Bins a panel."""
AROUND = math.ceil(2 * REACH / 2)
"""Panels to either side that a component of a panel may reach."""
_VARIANCE = 0.5 * (4.0 ** (np.arange(SHADES) / SHADES) + 4.0 ** ((np.arange(SHADES) + 1) / SHADES))
"""Variance of each bin's Gaussian, in units of the octave's smallest."""


class Bins:
    """Moments of the components in a row of bins.

    Args:
        count: How many bins.
    """

    def __init__(self, count: int) -> None:
        self.moments = torch.zeros(ORDER + 1, count, dtype=torch.float64)

    def add(self, index: Index, u: Array, v: Array, weight: Array | float) -> None:
        """Add components, n of them.

        Args:
            index: Bin of each, shape (n,).
            u: Its mean less the bin's, in the bin's standard deviations, shape (n,).
            v: Its variance over the bin's, less 1, shape (n,).
            weight: Its mass, shape (n,), or one for all.
        """
        into, before, now = torch.from_numpy(index), np.zeros_like(u), np.full_like(u, weight)
        self.moments[0].index_add_(0, into, torch.from_numpy(now))
        spare = np.empty_like(u)
        for j in range(ORDER):
            np.multiply(before, v, out=spare)
            spare *= math.sqrt(j / (j + 1))
            np.multiply(now, u, out=before)
            before *= math.sqrt(1 / (j + 1))
            before += spare
            before, now = now, before
            self.moments[j + 1].index_add_(0, into, torch.from_numpy(now))

    @property
    def mass(self) -> float:
        """Mass of all that was added."""
        return float(self.moments[0].sum())

    def density(self, level: int, panels: Index, start: int = 0) -> Panels:
        """The density of one octave's bins, from the bin `start` on, `SLOTS` of them to each of these panels, ascending."""
        moments = self.moments[:, start : start + SLOTS * len(panels)].reshape(ORDER + 1, len(panels), SLOTS)
        filled = (moments[0] != 0).any(1)
        panels, moments = panels[filled.numpy()], moments[:, filled]
        if not len(panels):
            return Panels(level, panels, np.empty((0, NODES)))
        spread = (moments.permute(1, 0, 2).reshape(len(panels), -1) @ _table()).numpy().reshape(len(panels), -1, NODES)
        around = np.arange(-AROUND, AROUND + 1)
        index = functools.reduce(np.union1d, (panels + o for o in around))
        density = np.zeros((len(index), NODES))
        for o in around:
            density[np.searchsorted(index, panels + o)] += spread[:, o + AROUND]
        return Panels(level, index, density * 2.0**-level)


class Places:
    """From components to bins, for standard deviations of some octaves.

    Args:
        first, last: The octaves: 2^first <= std < 2^(last + 1).
    """

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        shades = np.arange(SHADES * first, SHADES * (last + 1))
        self.level, self.shade = shades // SHADES, shades % SHADES
        self._per_cell = np.ldexp(0.5 * CELLS, -self.level)
        per_std = _VARIANCE[self.shade] ** -0.5
        self._ratio = 2 / CELLS * per_std
        self._per_std = np.ldexp(per_std, -self.level)

    def __call__(self, mean: Array, std: Array) -> tuple[Index, Index, Array, Array]:
        """Row of `level` and `shade`, cell, u and v of each component, as `Bins.add` wants them."""
        row = shades_of(std)
        row -= SHADES * self.first
        np.clip(row, 0, len(self.shade) - 1, out=row)  # a logarithm's rounding may cross a bound, and harms nothing
        x = mean * self._per_cell[row]
        cell = np.floor(x)
        x -= cell
        x -= 0.5
        x *= self._ratio[row]
        v = std * self._per_std[row]
        v *= v
        v -= 1
        return row, cell.astype(np.int64), x, v


def shades_of(std: Array) -> Index:
    """The sixteenth of an octave that each standard deviation lies in, counted from 1."""
    return np.floor(np.log2(std) * SHADES).astype(np.int64)


def binned(level: int, mean: Array, std: Array, weight: Array) -> Panels:
    """The density of the components of one octave, wherever they lie."""
    places = Places(level, level)
    row, cell, u, v = places(mean, std)
    panels, which = np.unique(cell // CELLS, return_inverse=True)
    bins = Bins(SLOTS * len(panels))
    bins.add(which * SLOTS + (cell % CELLS) * SHADES + row, u, v, weight)
    return bins.density(level, panels)


@functools.cache
def _table() -> torch.Tensor:
    """Every slot's Hermite functions at the nodes of the panels around it, shape ((ORDER + 1) * SLOTS, panels * NODES)."""
    around = np.arange(-AROUND, AROUND + 1)
    z = (2 * around[:, None] + (X + 1)).ravel()
    centre = np.repeat((np.arange(CELLS) + 0.5) * 2 / CELLS, SHADES)[:, None]
    std = np.tile(np.sqrt(_VARIANCE), CELLS)[:, None]
    x = (z - centre) / std
    before, now = np.zeros_like(x), np.exp(-0.5 * x * x) / (std * math.sqrt(2 * math.pi))
    functions = [now]
    for j in range(ORDER):
        before, now = now, (x * now - math.sqrt(j) * before) / math.sqrt(j + 1)
        functions.append(now)
    return torch.from_numpy(np.stack(functions).reshape((ORDER + 1) * SLOTS, -1))
