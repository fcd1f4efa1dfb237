"""Turn images into features: a net, the images that it takes, and a cache so that no features are computed twice."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from klprobe.files.archive import names_in
from klprobe.files.child import Limits
from klprobe.files.programs import start
from klprobe.metrics import Features
from klprobe.training.trained import load_system
from klprobe.types import InputError, Progress, no_progress

POINTS_AT_ONCE = 500

Look = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]

UNIT, SYMMETRIC, BYTES = (0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)
OUTSIDE = 0.25
"""Share of its range that values may lie outside of it before the range is taken to be another."""


@dataclass(frozen=True)
class FeatureNet:
    """A net that turns images, or points, into features.

    Attributes:
        name: Name of the net, for readers; scores under different names are not comparable.
        digest: Digest of its weights, for the cache; empty where features cost nothing, and none are kept.
        look: Function from points (m, *shape), float32, on its device, to features (m, dim) and logits (m, classes) or None.
        shape: Shape of the points that it takes; None for any.
        value_range: Range of their values, where they are images; None for that of the data, on which it was trained.
        device: Device that it runs on.
        own: Whether its classes are those of the data at hand.
    """

    name: str
    digest: str
    look: Look
    shape: tuple[int, ...] | None = None
    value_range: tuple[float, float] | None = UNIT
    device: str = "cpu"
    own: bool = False

    def features(
        self, x: torch.Tensor, cache: Path | None = None, progress: Progress = no_progress
    ) -> tuple[Features, tuple[str, ...]]:
        """Compute features of points in [0, 1], and say how the points were changed for the net.

        Args:
            x: Points, shape (n, *shape).
            cache: Folder of features already known, by the digests of net and points; None keeps nothing.
        Raises:
            InputError: the net cannot take the points, or gives features that are not finite.
        """
        ready, notes = fit(x, self)
        file = None if cache is None or not self.digest else cache / f"{_digest(ready, self.digest)}.npz"
        if file is not None and (kept := _kept(file, self.name)) is not None:
            return kept, notes
        found = self._look(ready, progress)
        if not found.values.isfinite().all():
            raise InputError(f"{self.name} gives features that are not finite: damaged weights, or images of a wrong range.")
        if file is not None:
            _keep(file, found)
        return found, notes

    @torch.no_grad()
    def _look(self, x: torch.Tensor, progress: Progress) -> Features:
        values, logits, done = [], [], 0
        for block in x.split(POINTS_AT_ONCE):
            seen, classes = self.look(block.to(self.device))
            values.append(seen.flatten(1).double().cpu())
            if classes is not None:
                logits.append(classes.double().cpu())
            done += len(block)
            progress(done, len(x))
        return Features(torch.cat(values), self.name, torch.cat(logits) if logits else None)


def raw_values() -> FeatureNet:
    """Use the points themselves as features, without a net."""
    return FeatureNet("the values themselves", "", lambda x: (x.flatten(1), None))


def read_net(
    path: Path,
    device: str,
    shape: tuple[int, ...] | None = None,
    value_range: tuple[float, float] = UNIT,
    limits: Limits | None = None,
) -> FeatureNet:
    """Read a net from a file: a checkpoint of `klprobe train classifier`, or TorchScript.

    TorchScript returns logits (also taken as features), or features and logits; it runs in a confined process.

    Args:
        path: The file.
        device: Device that it runs on.
        shape, value_range: Shape and range that a TorchScript net takes; a checkpoint of klprobe says them itself.
        limits: Memory and time that a TorchScript net may use.
    Raises:
        InputError: there is no such file, it holds no such net, or its program does more than compute.
    """
    if not path.is_file():
        raise InputError(f"There is no net {path}.")
    if path.suffix == ".safetensors":
        system = load_system(path, device)
        digest = _of_weights(system.checkpoint.networks)
        if "look" not in system.capabilities:
            raise InputError(f"{path} is a {system.name}, not a net that judges: give one of klprobe train classifier.")
        about = system.settings
        name = f"classifier of {about['dataset']} ({about['steps']} steps, {about['latent_dim']} features, {digest[:8]})"
        return FeatureNet(name, digest, system.look, system.shape, device=device)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if "constants.pkl" not in names_in(path):
        raise InputError(f"{path} is neither a checkpoint of klprobe train classifier nor TorchScript.")
    program = start("torchscript", path, limits or Limits(), device=device)

    def look(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        try:
            seen = program.run(x.cpu())
        except RuntimeError as error:
            raise InputError(
                f"{path.name} cannot take points of shape {tuple(x.shape[1:])} ({error}): choose another --net."
            ) from error
        return _pair(seen, path.name, len(x))

    return FeatureNet(f"{path.name} ({digest[:8]})", digest, look, shape, value_range, device)


def _pair(seen: Any, label: str, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and logits in the answer of a net; a single tensor is both."""
    pair = seen if isinstance(seen, list) and len(seen) == 2 else [seen, seen]
    if not all(isinstance(part, torch.Tensor) and part.dim() > 1 and len(part) == num for part in pair):
        raise InputError(
            f"{label} returns neither logits nor (features, logits), each with one row for each point: choose another --net."
        )
    return pair[0], pair[1]


def fit(x: torch.Tensor, net: FeatureNet) -> tuple[torch.Tensor, tuple[str, ...]]:
    """Convert points to those that the net takes, float32, and say in words what was changed.

    Raises:
        InputError: the points cannot be brought to the net's shape.
    """
    notes = []
    x = x.float()
    if net.shape is None:
        return x, ()
    if len(net.shape) == 3 and x.dim() == 4:
        if net.value_range is not None and (found := unit_range(x)) != UNIT:
            x = to_unit(x, found)
            notes.append(range_note(found))
        channels, size = net.shape[0], net.shape[1:]
        if x.shape[1] == 1 and channels == 3:
            x = x.expand(-1, 3, -1, -1)
            notes.append(f"grey images were given to {net.name} as three equal channels")
        elif x.shape[1] == 3 and channels == 1:
            x = x.mean(1, keepdim=True)
            notes.append(f"colour images were given to {net.name} as the mean of their channels")
        if tuple(x.shape[2:]) != size:
            notes.append(
                f"images of {x.shape[2]} x {x.shape[3]} pixels were given to {net.name} as {size[0]} x {size[1]}, bilinear"
            )
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        low, high = net.value_range or UNIT
        x = x if (low, high) == UNIT else low + (high - low) * x
    if tuple(x.shape[1:]) != net.shape:
        raise InputError(
            f"{net.name} takes points of shape {net.shape}; these have {tuple(x.shape[1:])}: choose another --net."
        )
    return x, tuple(notes)


def _of_weights(networks: nn.Module) -> str:
    """Digest of the weights alone, so that a net with the same weights is the same net in every version."""
    state = hashlib.sha256()
    for name, weight in networks.state_dict().items():
        state.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def _digest(x: torch.Tensor, net: str) -> str:
    """Digest of points and net, which is the key of the cache."""
    state = hashlib.sha256(f"{net} {tuple(x.shape)} {x.dtype}".encode())
    state.update(x.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def _kept(file: Path, name: str) -> Features | None:
    """Features that an earlier run kept; None where there are none, or the file is damaged, which is then written again."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            logits = torch.from_numpy(kept["logits"]) if "logits" in kept else None
            return Features(torch.from_numpy(kept["values"]), name, logits)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def _keep(file: Path, found: Features) -> None:
    """Write features under another name, then rename the file, so that no incomplete file is ever read."""
    draft = file.with_name(f".{os.getpid()}.{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if found.logits is None:
            np.savez(draft, values=found.values.numpy())
        else:
            np.savez(draft, values=found.values.numpy(), logits=found.logits.numpy())
        os.replace(draft, file)
    except OSError as error:
        raise InputError(f"Features cannot be kept in {file.parent} ({error}): give --cache another folder.") from error


def unit_range(x: torch.Tensor) -> tuple[float, float]:
    """Range of images by their values, with a quarter of it left for outliers: [0, 1], [-1, 1], or [0, 255] of bytes.

    Raises:
        InputError: the values fit none of these ranges.
    """
    least, most = float(x.min()), float(x.max())
    for low, high in (UNIT, SYMMETRIC):
        slack = OUTSIDE * (high - low)
        if low - slack <= least and most <= high + slack:
            return low, high
    if -0.1 * most <= least and most <= (1 + OUTSIDE) * BYTES[1]:
        return BYTES
    raise InputError(f"images lie in [{least:.3g}, {most:.3g}], which is not a range that klprobe knows: bring them to [0, 1].")


def to_unit(x: torch.Tensor, found: tuple[float, float]) -> torch.Tensor:
    """Scale images of a range to [0, 1]."""
    return (x - found[0]) / (found[1] - found[0])


def range_note(found: tuple[float, float]) -> str:
    """Note that says how images of another range than [0, 1] were scaled."""
    return f"images were taken to lie in [{found[0]:g}, {found[1]:g}], by their values, and brought to [0, 1]"
