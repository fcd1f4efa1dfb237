import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from klprobe.metrics.ms_ssim import WEIGHTS, MsSsim
from klprobe.types import InputError


def images(n, side, channels=1, seed=0):
    """Blurred noise, in which every scale has something to compare."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, side // 4, side // 4, generator=generator, dtype=torch.float64)
    fine = torch.rand(n, channels, side, side, generator=generator, dtype=torch.float64)
    return 0.7 * torch.nn.functional.interpolate(coarse, side, mode="bilinear") + 0.3 * fine


def run(x, seed=0, **settings):
    (score,) = MsSsim(**settings).measure(x, torch.Generator().manual_seed(seed))
    return score


@pytest.mark.parametrize(("side", "channels", "scales"), [(28, 1, 2), (32, 3, 2), (64, 1, 3)])
def test_with_mirrored_edges_it_is_that_of_torchmetrics_on_the_same_pairs(side, channels, scales):
    functional = pytest.importorskip("torchmetrics.functional.image")
    x = images(12, side, channels)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    weights = torch.tensor(WEIGHTS[:scales])
    theirs = functional.multiscale_structural_similarity_index_measure(
        x[order[::2]], x[order[1::2]], data_range=1.0, betas=tuple(float(w) for w in weights / weights.sum())
    )
    ours = run(x, seed=3, edges="mirror")
    assert 1 - ours.value == pytest.approx(float(theirs), rel=1e-6)
    assert ours.details == {"pairs": 6, "kernel": 11, "sigma": 1.5, "scales": scales, "edges": "mirror"}


def test_with_valid_windows_it_is_the_definition():
    """Wang et al. in numpy, with scipy's convolution, one scale, inner windows; negative likeness is 0."""
    x = images(4, 16)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0))
    offset = np.arange(11) - 5
    line = np.exp(-0.5 * (offset / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for i, j in order.view(2, 2).tolist():
        a, b = x[i, 0].numpy(), x[j, 0].numpy()
        ma, mb, aa, bb, ab = (convolve2d(v, window, "valid") for v in (a, b, a * a, b * b, a * b))
        top = (2 * ma * mb + 1e-4) * (2 * (ab - ma * mb) + 9e-4)
        values.append(max((top / ((ma**2 + mb**2 + 1e-4) * (aa - ma**2 + bb - mb**2 + 9e-4))).mean(), 0))
    assert 1 - run(x, scales=1).value == pytest.approx(np.mean(values), rel=1e-10)


@pytest.mark.parametrize(
    ("side", "kernel", "scales"), [(8, 7, 1), (28, 11, 2), (32, 11, 2), (64, 11, 3), (128, 11, 4), (256, 11, 5)]
)
def test_scales_and_kernel_follow_from_the_side(side, kernel, scales):
    details = run(images(4, side)).details
    assert (details["kernel"], details["scales"]) == (kernel, scales)


def test_equal_images_have_no_diversity_and_vectors_that_fill_a_square_are_images():
    x = images(10, 8)
    assert run(x[:1].repeat(10, 1, 1, 1)).value == pytest.approx(0, abs=1e-12)
    assert run(x.flatten(1)).value == run(x).value
    assert run(x).better == "closer"


def test_the_error_is_that_of_independent_pairs():
    found = [run(images(20, 16, seed=seed)) for seed in range(100)]
    spread = torch.tensor([score.value for score in found]).std()
    error = torch.tensor([score.std_error for score in found]).square().mean().sqrt()
    assert 0.8 < spread / error < 1.25  # 100 sets: the spread has a relative error of 7 %


@pytest.mark.parametrize(
    ("x", "settings", "words"),
    [
        (torch.zeros(9, 3), {}, "fill a square"),
        (torch.zeros(2, 1, 16, 16), {}, "at least 4"),
        (torch.full((8, 1, 16, 16), 2.0), {}, r"in \[0, 1\]"),
        (torch.zeros(8, 1, 32, 32), {"scales": 5}, "do not fit"),
    ],
)
def test_what_has_no_diversity_is_refused(x, settings, words):
    with pytest.raises(InputError, match=words):
        run(x, **settings)
