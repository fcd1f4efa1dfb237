"""How long an item takes at the paper's size: from operations that are counted, until it was measured.

python -m analyses.machinery.operations        # count what is not in results/operations.json yet; a minute of a core for all
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from analyses.machinery.cells import Cell, Costs, Item, Record, results
from klprobe import registry
from klprobe.training.data import Data
from klprobe.training.loop import train

COUNTED = Path(__file__).parent / "results" / "operations.json"
RATE = {"cpu": 1e11, "cuda": 1e13}
"""Operations a second of one core, as the VAE on 28 x 28 pixels has them, and of one large GPU, which is a guess."""
LEAST = {"cpu": 2.5e-3, "cuda": 1.5e-3}
"""Seconds of one player's update of a small network: what starting its kernels takes."""
POINTS = {"train": 60_000, "test": 10_000}
"""In a part of a data set; CelebA's are more, CIFAR-10's fewer."""
SHAPES = {
    "color-mnist": (3, 28, 28),
    "cifar-10": (3, 32, 32),
    "celeba": (3, 64, 64),
    "celeba:size=128": (3, 128, 128),
    "mnist": (1, 28, 28),
    "mnist:flat": (784,),
    "ring": (2,),
    "grid": (2,),
}
BATCH = 4
"""Points in the step that is counted; operations are in proportion to them."""


def seconds(item: Item, device: str) -> float:
    """Of all cells at the paper's size, each trained run once, one after another on one core or GPU; 0: nothing is known."""
    steps: dict[str, tuple[Mapping[str, Any], int]] = {}
    total = 0.0
    for cell in item.cells("paper"):
        costs = costs_of(item, cell)
        for model in costs.models:
            made = json.dumps({name: value for name, value in model.items() if name != "steps"}, sort_keys=True)
            steps[made] = (model, max(model["steps"], steps.get(made, (model, 0))[1]))
        total += sum(
            _fit(method, POINTS[split], costs.latents, device) for split, some in costs.methods.items() for method in some
        )
        total += costs.operations / RATE[device] + costs.steps * LEAST[device]
    known = {key(entry["model"]): entry for entry in json.loads(COUNTED.read_text())}
    for model, number in steps.values():
        step = known[key(model)]
        total += number * max(step["updates"] * LEAST[device], step["operations"] / RATE[device])
    return total


def seconds_in_one_piece(item: Item, cell: Cell, device: str) -> float:
    """What of one cell is begun anew where it is cut off: looking at its model, and what it trains and does not keep."""
    costs, kept = costs_of(item, cell), models_of(cell)
    total = sum(_fit(method, POINTS[split], costs.latents, device) for split, some in costs.methods.items() for method in some)
    known = {key(entry["model"]): entry for entry in json.loads(COUNTED.read_text())}
    for model in (model for model in costs.models if model not in kept):
        if (step := known.get(key(model))) is not None:
            total += model["steps"] * max(step["updates"] * LEAST[device], step["operations"] / RATE[device])
    return total


def costs_of(item: Item, cell: Cell) -> Costs:
    """What an item declares of a cell, or the models that the cell names."""
    return item.costs(cell) if item.costs is not None else Costs(models=models_of(cell))


def models_of(cell: Cell) -> list[Mapping[str, Any]]:
    """The models that a cell names, which are trained once for all cells."""
    one, several = cell.get("model"), cell.get("models", {})
    return [*([one] if isinstance(one, dict) else []), *several.values()]


def measured(item: Item, records: Sequence[Record], device: str) -> float | None:
    """CPU seconds of all cells at the paper's size on a device; None unless each has a record."""
    cells = item.cells("paper")
    found = [record for _, record in results(cells, [r for r in records if r.get("device", "cpu") == device])]
    return sum(record["cpu_seconds"] for record in found) if cells and len(found) == len(cells) else None


def key(model: Mapping[str, Any]) -> str:
    """What the operations of a step depend on."""
    sizes = {name: value for name, value in model["settings"].items() if not name.endswith(("lr", "_weight", "decay_steps"))}
    return json.dumps([model["system"], model["dataset"].partition(":validation")[0], sizes], sort_keys=True)


class Counter(TorchDispatchMode):
    """Counts operations of products and convolutions, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it, and count it if it is one that takes long."""
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def count(model: Mapping[str, Any]) -> dict[str, float]:
    """Operations of a training step, and the updates that its players make."""
    kind = registry.load("trainers", model["system"])
    whole, small = (kind(**(model["settings"] | more)) for more in ({}, {"batch_size": BATCH}))
    name, noise = model["dataset"], torch.Generator().manual_seed(0)
    shape = SHAPES.get(name) or SHAPES[name.partition(":")[0]]
    num = 64 * BATCH
    pixels = torch.randint(256, (num, *shape), generator=noise, dtype=torch.uint8)
    stored = pixels if len(shape) > 1 or math.prod(shape) > 2 else torch.randn(num, *shape, generator=noise)
    data = Data(name.partition(":")[0], "train", stored, torch.randint(10, (num,), generator=noise))
    with tempfile.TemporaryDirectory() as folder, Counter() as counter:
        train(small, data, steps=1, out=folder)
    with torch.random.fork_rng():
        updates = sum(player.updates for player in small.players(small.networks(shape)))
    return {"operations": counter.total * whole.batch_size / BATCH, "updates": updates}


def _fit(method: Any, points: int, latents: int, device: str) -> float:
    """Seconds of one estimator, by the sizes of what it fits; of one that fits nothing, by points and draws."""
    name = registry.name_of(method)
    chosen = method.settings() if hasattr(method, "settings") else method
    steps, batch = getattr(chosen, "steps", 0), getattr(chosen, "batch_size", 0)
    width, layers = getattr(chosen, "width", 0), getattr(chosen, "layers", 1)
    weights = {
        "classifier": 2 * (latents * width + (layers - 1) * width**2),
        "gmm": getattr(chosen, "components", 0) * latents**2,
        "maf": getattr(chosen, "flows", 0) * (3 * latents * width + (layers - 1) * width**2),
        "lstm": latents * layers * 8 * width**2,
    }.get(name, 0)
    draws = getattr(chosen, "num_samples", 0) * points * latents * 8 if name == "monte-carlo" else 0
    return steps * max(LEAST[device], 6 * batch * weights / RATE[device]) + draws / RATE[device]


def main() -> None:
    """Count a step of every model of the paper's presets that was not counted yet."""
    from analyses.machinery.declared import items

    wanted = {
        key(model): model for item in items().values() for cell in item.cells("paper") for model in costs_of(item, cell).models
    }
    kept = ("system", "dataset", "settings")
    known = {key(entry["model"]): entry for entry in json.loads(COUNTED.read_text())} if COUNTED.exists() else {}
    found = [known.get(at) or {"model": {name: model[name] for name in kept}} | count(model) for at, model in wanted.items()]
    COUNTED.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in found) + "\n]\n")


if __name__ == "__main__":
    main()
