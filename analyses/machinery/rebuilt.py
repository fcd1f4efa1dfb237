"""How far reconstructions are from the data."""

from __future__ import annotations

import torch

from klprobe.metrics._statistics import mean_error
from klprobe.training.data import Data
from klprobe.training.trained import TrainedSystem

POINTS_AT_ONCE = 1000


def reconstruction_errors(system: TrainedSystem, data: Data, seed: int) -> dict[str, list[float]]:
    """Mean absolute and root-mean-square error of a pixel of E[x|z], z ~ q(z|x), one draw a point, and their errors."""
    noise, absolute, squared = torch.Generator().manual_seed(seed), [], []
    for indices in torch.arange(len(data)).split(POINTS_AT_ONCE):
        x = data.floats(indices)
        error = (x - system.reconstruct(x, generator=noise)).double().flatten(1)
        absolute.append(error.abs().mean(1))
        squared.append(error.square().mean(1))
    l1, l2 = (torch.cat(parts) for parts in (absolute, squared))
    root = float(l2.mean()) ** 0.5
    return {"l1": [float(l1.mean()), mean_error(l1)], "rms": [root, mean_error(l2) / (2 * root)]}
