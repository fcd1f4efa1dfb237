import pytest
import torch

from klprobe.metrics import Features
from klprobe.metrics.prdc import PRDC
from klprobe.types import InputError


def normal(n, seed, scale=1.0, dim=3):
    return scale * torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(x, y, seed=0, **settings):
    scores = PRDC(**settings).measure(Features(x, "a net"), Features(y, "a net"), torch.Generator().manual_seed(seed))
    return {score.quantity: score for score in scores}


def brute_force(x, y, k):
    """Naeem et al., eqs. 3 to 6, one pair at a time."""

    def radius(points, i):
        return sorted(float((points[i] - p).norm()) for j, p in enumerate(points) if j != i)[k - 1]

    of_x, of_y = [radius(x, i) for i in range(len(x))], [radius(y, j) for j in range(len(y))]
    apart = [[float((a - b).norm()) for b in y] for a in x]
    rows, columns = range(len(x)), range(len(y))
    return {
        "precision": sum(any(apart[i][j] < of_y[j] for j in columns) for i in rows) / len(x),
        "recall": sum(any(apart[i][j] < of_x[i] for i in rows) for j in columns) / len(y),
        "density": sum(apart[i][j] < of_y[j] for i in rows for j in columns) / len(x) / k,
        "coverage": sum(any(apart[i][j] < of_y[j] for i in rows) for j in columns) / len(y),
    }


@pytest.mark.parametrize(("k", "scale"), [(1, 1.0), (3, 1.5), (5, 0.5)])
def test_it_is_the_definition(k, scale):
    x, y = normal(60, 0, scale), normal(45, 1)
    found = run(x, y, k=k)
    assert {name: score.value for name, score in found.items()} == pytest.approx(brute_force(x, y, k), rel=1e-12)


def test_equal_distributions_have_density_one_and_the_known_coverage():
    found = run(normal(1000, 0), normal(1000, 1))
    assert abs(found["density"].value - 1) < 5 * found["density"].std_error
    assert abs(found["coverage"].value - (1 - 2**-5)) < 5 * found["coverage"].std_error


def test_narrow_samples_are_precise_and_recall_little_and_wide_ones_the_reverse():
    narrow, wide = run(normal(300, 0, 0.3), normal(300, 1)), run(normal(300, 0, 3.0), normal(300, 1))
    assert narrow["precision"].value > wide["precision"].value + 0.3
    assert narrow["recall"].value < wide["recall"].value - 0.3


@pytest.mark.parametrize("start", [0, 300])
def test_the_error_is_of_the_size_of_the_spread_over_data_sets(start):
    """60 sets: their spread has a relative error of 9 %. Near 1 halves vary by more than twice the whole, hence 0.6 to 1.3."""
    found = [run(normal(200, 2 * s, 1.2), normal(200, 2 * s + 1)) for s in range(start, start + 60)]
    for name in found[0]:
        spread = torch.tensor([f[name].value for f in found]).std()
        error = torch.tensor([f[name].std_error for f in found]).square().mean().sqrt()
        assert 0.6 < spread / error < 1.3, name


def test_shares_of_none_or_all_have_an_error_too():
    found = run(normal(50, 0), 100 + normal(50, 1))
    for name in ("precision", "recall", "coverage"):
        assert found[name].value == 0
        assert found[name].std_error == pytest.approx((0.02 * 0.98 / 50) ** 0.5)
    assert (found["density"].value, found["density"].std_error) == (0, pytest.approx(1 / 5 / 50))


def test_too_few_points_are_refused():
    with pytest.raises(InputError, match="12 points of each set"):
        run(normal(11, 0), normal(50, 1))
    with pytest.raises(InputError, match="at least 1"):
        run(normal(80, 0), normal(50, 1), k=0)


def test_radii_of_zero_are_counted_and_said():
    x, y = normal(100, 0), normal(100, 1)
    x[:12] = x[0]  # 12 copies have 5 others at least
    x[20:25] = x[20]  # 5 copies have 4 others each, and a radius
    y[:6] = y[0] * (1 + 1e-8)  # copies but for rounding
    y[0] = y[1] * (1 + 1e-8)
    found = run(x, y)
    for score in found.values():
        assert score.details["zero_radii"] == {"samples": 12, "data": 6}
        assert score.note.startswith("prdc: 12 of 100 samples and 6 of 100 data have a radius of 0")
    assert run(normal(100, 2), normal(100, 3))["recall"].note == ""


def test_copies_have_a_radius_of_exactly_zero_whatever_rounding_leaves():
    once = 1000 + normal(40, 4, dim=30)
    x = once.repeat_interleave(10, 0) * (1 + 1e-9 * normal(400, 5, dim=30))
    assert run(x, x.clone())["recall"].value == 0
    assert run(x, x.clone())["recall"].details["zero_radii"] == {"samples": 400, "data": 400}
