"""Diversity of samples by a net trained on photographs: learned perceptual distance, the mean over pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from klprobe.files.child import Limits
from klprobe.files.weights import read_weights as read_state_dict
from klprobe.metrics import Score
from klprobe.metrics._statistics import mean_error
from klprobe.types import InputError

__all__ = ["LPIPS"]

LAYERS = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))
"""AlexNet's convolutions: their place in `features`, stride, padding. A max-pool comes before the second and the third."""
POOLED = (1, 2)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Shift and scale of the channels of images in [-1, 1] (Zhang et al., LPIPS 0.1)."""
TINY = 1e-10
PAIRS_AT_ONCE = 64
FILES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class LPIPS:
    """Sample diversity by LPIPS: mean perceptual distance over random pairs, 0 for equal images.

    LPIPS is a distance: higher is more diverse, and what real data have is best, for noise has more (BMS Table 9 calls its
    lowest value the most diverse). The net is AlexNet. Its weights cannot come with klprobe: `perceptual` is the folder
    that holds them, as published: the state dict of AlexNet (`features.0.weight`, ...) and that of LPIPS
    (`lin0.model.1.weight`, ...); without the latter every channel counts alike, and the score says so.

    Reference: Zhang et al. (2018), eq. 1; BMS Table 9.
    """

    pairs: int = 1000
    """Largest number of pairs; no sample is in two of them."""
    side: int = 64
    """Side, in pixels, that smaller images are enlarged to, bilinearly, because AlexNet needs at least 31 (BMS does not
    say)."""

    def measure(self, samples: torch.Tensor, perceptual: Path, generator: torch.Generator) -> tuple[Score, ...]:
        """`lpips-diversity`.

        Raises:
            InputError: no images, fewer than 4, or no weights.
        """
        if samples.dim() != 4 or len(samples) < 4 or samples.shape[1] not in (1, 3):
            raise InputError(f"lpips needs at least 4 images of 1 or 3 channels; got {tuple(samples.shape)}.")
        if samples.min() < -1e-3 or samples.max() > 1 + 1e-3:
            raise InputError(f"lpips needs images in [0, 1]; these lie in [{samples.min():.3g}, {samples.max():.3g}].")
        weights, learned = read_weights(perceptual)
        order = torch.randperm(len(samples), generator=generator)[: 2 * min(self.pairs, len(samples) // 2)]
        blocks = zip(order[::2].split(PAIRS_AT_ONCE), order[1::2].split(PAIRS_AT_ONCE), strict=True)
        apart = torch.cat([self._distance(samples[a], samples[b], weights) for a, b in blocks])
        net = f"AlexNet of {perceptual.name}" + ("" if learned else ", every channel alike")
        details = {"pairs": len(apart), "side": max(self.side, min(samples.shape[2:]))}
        return (Score("lpips-diversity", float(apart.mean()), mean_error(apart), "closer", net=net, details=details),)

    @torch.no_grad()
    def _distance(self, a: torch.Tensor, b: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """LPIPS of each pair, shape (m,): weighted squares of differences of unit features, mean over places, sum of layers."""
        total = torch.zeros(len(a), dtype=torch.float64)
        for layer, (x, y) in enumerate(zip(self._layers(a, weights), self._layers(b, weights), strict=True)):
            apart = (x / (x.norm(dim=1, keepdim=True) + TINY) - y / (y.norm(dim=1, keepdim=True) + TINY)).square()
            total += (apart * weights[f"lin{layer}"]).sum(1).mean((1, 2)).double()
        return total

    def _layers(self, x: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """Outputs after each of AlexNet's five convolutions."""
        x = x.float().expand(-1, 3, -1, -1)
        if min(x.shape[2:]) < self.side:
            x = F.interpolate(x, self.side, mode="bilinear")
        shift, scale = (torch.tensor(numbers)[:, None, None] for numbers in (SHIFT, SCALE))
        x, found = (2 * x - 1 - shift) / scale, []
        for layer, (place, stride, padding) in enumerate(LAYERS):
            x = F.max_pool2d(x, 3, 2) if layer in POOLED else x
            x = F.conv2d(x, weights[f"features.{place}.weight"], weights[f"features.{place}.bias"], stride, padding)
            x = F.relu(x)
            found.append(x)
        return found


def read_weights(folder: Path) -> tuple[dict[str, torch.Tensor], bool]:
    """Weights of AlexNet and, as `lin0` to `lin4` of shape (channels, 1, 1), of its layers; whether those were learned.

    Raises:
        InputError: no folder, a file that is no state dict, or weights that are missing.
    """
    if not folder.is_dir():
        raise InputError(
            f"lpips needs a folder with the weights of AlexNet and of LPIPS, but there is no folder {folder}: give "
            "--lpips-weights."
        )
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in FILES:
            found |= read_state_dict(path, Limits())
    needed = [f"features.{place}.{kind}" for place, _, _ in LAYERS for kind in ("weight", "bias")]
    missing = [name for name in needed if name not in found]
    if missing:
        raise InputError(f"{folder} lacks {', '.join(missing)}: put the state dict of AlexNet there ({', '.join(FILES)}).")
    learned = all(f"lin{i}.model.1.weight" in found for i in range(len(LAYERS)))
    weights = {name: found[name].float() for name in needed}
    for i, (place, _, _) in enumerate(LAYERS):
        channels = weights[f"features.{place}.bias"].shape[0]
        given = found[f"lin{i}.model.1.weight"].float() if learned else torch.full((channels,), 1 / channels)
        weights[f"lin{i}"] = given.reshape(channels, 1, 1)
    return weights, learned
