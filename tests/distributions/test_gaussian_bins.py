import math

import numpy as np
import pytest

from klprobe.distributions.gaussian_bins import SERIES_ERROR, SHADES, Places, binned, shades_of
from klprobe.distributions.mixture_entropy import DENSITY_ERROR, WEIGHTS, evaluated, integral


def difference(level, mean, std):
    """L1 norm of bins' density less that of the components, for a mass of 1."""
    weight = np.full(len(mean), 1 / len(mean))
    bins, exact = binned(level, mean, std, weight), evaluated(level, mean, std, weight)
    common = np.isin(bins.places, exact.places)
    assert np.isin(exact.places, bins.places).all()
    found = np.abs(bins.density[common] - exact.density) @ WEIGHTS
    beyond = np.abs(bins.density[~common]) @ WEIGHTS
    return 2.0**level * (found.sum() + beyond.sum())


@pytest.mark.parametrize("level", [-40, -3, 0, 20])
def test_the_series_is_right_to_its_bound_at_the_corners_of_every_bin(level):
    for shade in range(SHADES):
        for within in (0.0, 0.3, 0.5, 0.999999):
            std = 2.0**level * 2 ** ((shade + within) / SHADES)
            for u in (-0.2499999, -0.1, 0.0, 0.2, 0.2499999):  # of a cell half as wide as the octave's smallest deviation
                mean = 2.0**level * (0.25 + u + 0.5 * np.array([0.0, 1.0, -7.0]))
                assert difference(level, mean, np.full(3, std)) < SERIES_ERROR


def test_many_components_in_bins_are_all_of_them():
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=5000), rng.uniform(0.125, 0.24999, 5000)
    weight = rng.dirichlet(np.ones(5000))
    by_bins = integral([binned(-3, mean, std, weight)], 1.0, SERIES_ERROR)
    one_by_one = integral([evaluated(-3, mean, std, weight)], 1.0, DENSITY_ERROR)
    assert by_bins.mass == pytest.approx(1, abs=1e-10)
    assert by_bins.value == pytest.approx(one_by_one.value, abs=1e-9)
    assert by_bins.error < 1e-5


def test_places_name_the_bin_of_each_component():
    std, mean = np.array([0.25, 0.3, 0.99, 1.0]), np.array([0.3, -0.3, 7.9, 2.0])
    places = Places(-2, 0)
    row, cell, u, v = places(mean, std)
    assert places.level[row].tolist() == [-2, -2, -1, 0]
    assert (places.level[row] * SHADES + places.shade[row] == shades_of(std)).all()
    width = 2.0 ** (places.level[row] - 1)
    assert cell.tolist() == [math.floor(m / w) for m, w in zip(mean, width, strict=True)]
    assert (np.abs(u) <= 0.25).all()
    assert (np.abs(v) < 0.045).all()
