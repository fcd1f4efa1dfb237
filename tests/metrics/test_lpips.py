import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from klprobe.metrics.lpips import LPIPS
from klprobe.types import InputError

CHANNELS = (4, 6, 8, 5, 3)


@pytest.fixture(scope="module")
def stand_in():
    """A narrow AlexNet with random weights, as torch modules."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        convolutions = [
            nn.Conv2d(a, b, size, stride, padding)
            for a, b, size, stride, padding in zip(
                (3, *CHANNELS), CHANNELS, (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), (2, 2, 1, 1, 1), strict=False
            )
        ]
        linear = [torch.rand(1, c, 1, 1) for c in CHANNELS]
    return convolutions, linear


@pytest.fixture
def folder(stand_in, tmp_path):
    convolutions, linear = stand_in
    state = {}
    for place, layer in zip((0, 3, 6, 8, 10), convolutions, strict=True):
        state |= {f"features.{place}.weight": layer.weight.detach(), f"features.{place}.bias": layer.bias.detach()}
    torch.save(state, tmp_path / "alexnet.pth")
    save_file({f"lin{i}.model.1.weight": weight for i, weight in enumerate(linear)}, tmp_path / "lpips.safetensors")
    return tmp_path


def images(n=8, side=64, channels=3):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(0))


def run(x, folder, **settings):
    (score,) = LPIPS(**settings).measure(x, folder, torch.Generator().manual_seed(1))
    return score


@torch.no_grad()
def by_hand(a, b, stand_in):
    """Zhang et al., eq. 1, one image, one layer and one place at a time."""
    convolutions, linear = stand_in
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = (((2 * image - 1) - shift[:, None, None]) / scale[:, None, None] for image in (a, b))
    total = 0.0
    for layer, (convolution, weights) in enumerate(zip(convolutions, linear, strict=True)):
        if layer in (1, 2):
            x, y = (nn.functional.max_pool2d(image, 3, 2) for image in (x, y))
        x, y = convolution(x).relu(), convolution(y).relu()
        places = []
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                u, v = (image[:, i, j] / (image[:, i, j].norm() + 1e-10) for image in (x, y))
                places.append(float((weights.flatten() * (u - v) ** 2).sum()))
        total += sum(places) / len(places)
    return total


def test_it_is_the_definition(folder, stand_in):
    x = images()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1)).view(4, 2)
    expected = sum(by_hand(x[i], x[j], stand_in) for i, j in order.tolist()) / 4
    found = run(x, folder)
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert "every channel" not in found.net


def test_equal_images_are_at_distance_zero_and_others_above(folder):
    assert run(images(1).repeat(8, 1, 1, 1), folder).value == 0
    assert run(images(), folder).value > 0


def test_grey_and_small_images_are_taken_and_without_learned_weights_the_score_says_so(folder):
    assert run(images(side=28, channels=1), folder).details["side"] == 64
    (folder / "lpips.safetensors").unlink()
    assert run(images(), folder).net.endswith("every channel alike")


def test_what_cannot_be_judged_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="at least 4 images"):
        run(torch.zeros(9, 64), folder)
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        run(2 * images() - 1, folder)
    with pytest.raises(InputError, match="no folder"):
        run(images(), tmp_path / "nowhere")
    (folder / "alexnet.pth").write_bytes(b"nothing")
    with pytest.raises(InputError, match="more than tensors"):
        run(images(), folder)
    (folder / "alexnet.pth").unlink()
    with pytest.raises(InputError, match=r"lacks features.0.weight"):
        run(images(), folder)
