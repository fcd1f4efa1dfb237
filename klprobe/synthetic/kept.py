"""A run on synthetic Gaussians that is kept on disk while it goes on, and taken up again to the same bits."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from klprobe.files import json_files
from klprobe.files.tensor_file import opened, write
from klprobe.types import InputError, Progress, no_progress

KIND = "synthetic run"
REMEDY = "delete it, and the run begins anew"


class Paused(Exception):
    """A run was told to stop, and is kept: the same call goes on with it."""


class Learner(Protocol):
    """A player with parameters and an optimiser."""

    @property
    def parameters(self) -> list[torch.Tensor]:
        """Tensors that it learns."""

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Optimiser of the parameters."""


@dataclasses.dataclass(frozen=True)
class Keep:
    """Where and how a run is kept.

    Attributes:
        path: A `.safetensors` file, which goes away with the end of the run.
        stop: Asked after every step whether the run is to be kept and left: `Paused`.
        seconds: Between two writes.
        progress: Told after every step the steps done and the steps in all.
    """

    path: Path
    stop: Callable[[], bool] = lambda: False
    seconds: float = 300.0
    progress: Progress = no_progress


class Keeper:
    """Restores a run's players, generator and curve where they are kept, and keeps them; without a `Keep` it does nothing.

    Args:
        keep: Where to.
        run: What the run is of, in plain JSON values; a file of another run is refused.
        players: By name.
        noise: The generator of all draws.
        curve: The curve so far.
        begun: CPU seconds of the process when the run began.
    Attributes:
        step: The first step that is not done yet.
        spent: CPU seconds of the sessions before.
    """

    def __init__(
        self,
        keep: Keep | None,
        run: Mapping[str, Any],
        players: Mapping[str, Learner],
        noise: torch.Generator,
        curve: dict[str, list[float]],
        begun: float,
    ) -> None:
        self.keep, self.run, self.players, self.noise, self.curve = keep, json.loads(json.dumps(run)), players, noise, curve
        self.step, self.spent = 0, 0.0
        self.begun, self.written = begun, time.monotonic()
        if keep is not None and keep.path.exists():
            try:
                self._restore(keep.path)
            except InputError:
                raise
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise InputError(f"{keep.path} is damaged ({error}): {REMEDY}.") from error

    def after(self, step: int, steps: int) -> None:
        """Keep what is there after a step, where it is time to.

        Raises:
            Paused: the run was told to stop.
            InputError: the file cannot be written.
        """
        if self.keep is None:
            return
        stop = self.keep.stop()
        if stop or time.monotonic() - self.written >= self.keep.seconds:
            self._write(self.keep.path, step + 1)
            self.written = time.monotonic()
        self.keep.progress(step + 1, steps)
        if stop:
            raise Paused

    def end(self) -> float:
        """Forget what is kept of a run that is over; its CPU seconds in all."""
        if self.keep is not None:
            with contextlib.suppress(OSError):
                self.keep.path.unlink(missing_ok=True)
        return self.spent + time.process_time() - self.begun

    def _write(self, path: Path, step: int) -> None:
        tensors = {"noise": self.noise.get_state()}
        for name, player in self.players.items():
            tensors |= {f"{name}.{i}": value for i, value in enumerate(player.parameters)}
            for index, state in player.optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.optimiser.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
        spent = self.spent + time.process_time() - self.begun
        path.parent.mkdir(parents=True, exist_ok=True)
        said = {"run": self.run, "step": step, "curve": self.curve, "spent": spent, "tensors": sorted(tensors)}
        write(path, tensors, said, kind=KIND)

    def _restore(self, path: Path) -> None:
        with opened(path) as file:
            if file.kind != KIND:
                raise InputError(f"{path} is no kept run on synthetic Gaussians: {REMEDY}.")
            said, tensors = json_files.parse(file.header["klprobe.settings"], str(path)), file.tensors()
        if said["tensors"] != sorted(tensors):
            raise ValueError("not all of its tensors are there")
        if said["run"] != self.run:
            raise InputError(f"{path} is of another run: {REMEDY}.")
        for name, player in self.players.items():
            for i, value in enumerate(player.parameters):
                with torch.no_grad():
                    value.copy_(tensors[f"{name}.{i}"])
            state: dict[int, dict[str, torch.Tensor]] = {}
            prefix = f"{name}.optimiser."
            for key in (key for key in tensors if key.startswith(prefix)):
                index, what = key.removeprefix(prefix).split(".")
                state.setdefault(int(index), {})[what] = tensors[key]
            player.optimiser.load_state_dict({"state": state, "param_groups": player.optimiser.state_dict()["param_groups"]})
        self.noise.set_state(tensors["noise"])
        self.step, self.spent = int(said["step"]), float(said["spent"])
        for name, values in said["curve"].items():
            self.curve[name][:] = values
