"""BMS Table 5 and Figure 3: the nearest image that each generator can make, to images that it has not seen.

python -m analyses.bms.table_5_figure_3                   # from the records
python -m analyses.bms.table_5_figure_3 --preset quick    # training, searching, pictures
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from analyses.bms.image_models import held_out, model, of_last_preset, save_small, strip
from analyses.bms.image_scores import with_error
from analyses.bms.image_settings import COMPARED
from analyses.machinery import models
from analyses.machinery.cells import Cell, Item, Preset, Record, Result, main, markdown, reason
from klprobe.metrics._statistics import mean_error
from klprobe.metrics.ivom import Ivom, nearest_codes

HERE = Path(__file__).parent / "results"
SEARCH = {"tiny": (8, 2, 1), "quick": (100, 300, 1), "paper": (200, 300, 3)}
"""Images, steps of Adam, and starts of each; the paper gives none of these."""
SHOWN = 6
FILES = {"cifar-10": ("table_5.png", "Table 5: CIFAR-10"), "celeba": ("figure_3.png", "Figure 3: CelebA")}
ABOUT = """Left: the first {shown} held-out images, not chosen. Right: those {shown} of all that were searched where the
lead of BMS-VAE-GAN over the best other is largest, for Figure 3 is there to show regions which it alone covers. Who looks
for such images finds some for any system, so the table counts how often each is the nearest. Below an image stands its mean
squared error a value. Table 5 has no SN-GAN in the paper."""
SHORT = """Preset quick has {steps} training steps of {batch} images, DCGAN networks and T = 10, where the paper has the
standard CNN and T = 30: the pictures show that the whole way runs, and say nothing about finished systems."""

ERRORS = "± is one standard error over images; the spread over training seeds is not in it."


def cells(preset: Preset) -> list[Cell]:
    """A data set and its three models; without CelebA its cell fails, and the page says why."""
    which = "paper" if preset == "paper" else "quick"
    return [
        {"preset": preset, "data": data, "models": {row.name: model(preset, row) for row in compared[which]}}
        for data, compared in COMPARED.items()
    ]


def work(cell: Cell) -> Result:
    """Train; then search the same held-out images with every generator, and keep those that are shown."""
    preset, systems = cell["preset"], cell["models"]
    count, steps, restarts = SEARCH[preset]
    x = models.points(next(iter(systems.values())), held_out(preset), count).floats()
    search, errors, found = Ivom(points=count, steps=steps, restarts=restarts), {}, {"data": x}
    for name, wanted in systems.items():
        loaded = models.trained(wanted)
        codes, errors[name] = nearest_codes(search, loaded, x, torch.Generator().manual_seed(wanted["seed"]))
        found[name] = loaded.decode(codes)
    ours = errors[list(systems)[-1]]
    chosen = {"first": torch.arange(min(SHOWN, len(x))), "led": leads(errors, list(systems)[-1])[:SHOWN]}
    return {
        "images": len(x),
        "steps": steps,
        "restarts": restarts,
        "ivom": {name: [float(error.mean()), mean_error(error)] for name, error in errors.items()},
        "behind": {name: [float((error - ours).mean()), mean_error(error - ours)] for name, error in errors.items()},
        "nearest": nearest(errors),
        "shown": {which: _shown(indices, found, errors) for which, indices in chosen.items()},
    }


def leads(errors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    """Points by how much less the error of one system is than the best other's, the largest lead first, shape (n,)."""
    others = torch.stack([error for other, error in errors.items() if other != name])
    return (others.amin(0) - errors[name]).argsort(descending=True, stable=True)


def nearest(errors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """How many points each system comes nearest to; of equals the first one counts."""
    counts = torch.stack(list(errors.values())).argmin(0).bincount(minlength=len(errors))
    return dict(zip(errors, counts.tolist(), strict=True))


def _shown(indices: torch.Tensor, found: Mapping[str, torch.Tensor], errors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "indices": indices.tolist(),
        "errors": {name: [round(value, 5) for value in error[indices].tolist()] for name, error in errors.items()},
        "pictures": {name: strip(images[indices]) for name, images in found.items()},
    }


def write(records: list[Record], folder: Path) -> list[Path]:
    """table_5_figure_3.md and a picture for each data set, of the last preset that has records."""
    parts, written = ["# BMS Table 5 and Figure 3", ABOUT.format(shown=SHOWN)], []
    last = {record["cell"]["data"]: record for record in of_last_preset(records)}
    for data, (name, title) in FILES.items():
        parts.append(f"## {title}")
        record = last.get(data)
        if record is None or not record["result"]:
            parts.append(f"No picture: {reason(record)}." if record else "Not run yet.")
            continue
        result = record["result"]
        parts.append(f"![Held-out images and the nearest that each system makes]({name})")
        head = ["system", "mean squared error", "more than BMS-VAE-GAN's, pairwise", f"nearest, of {result['images']}"]
        lines = [
            [name, *(with_error(result[what][name]) for what in ("ivom", "behind")), str(result["nearest"][name])]
            for name in result["ivom"]
        ]
        lines[-1][2] = ""
        parts.append(markdown(head, lines))
        starts = f"{result['restarts']} start{'s' if result['restarts'] > 1 else ''}"
        parts.append(f"{result['steps']} steps of Adam, {starts}, {record['date']}. {ERRORS}")
        if record["cell"]["preset"] == "quick":
            trained = next(iter(record["cell"]["models"].values()))
            parts.append(SHORT.format(steps=trained["steps"], batch=trained["settings"]["batch_size"]))
        written.append(save_small(folder / name, (11, 1.25 * (1 + len(lines))), partial(draw, result=result)))
    path = folder / "table_5_figure_3.md"
    path.write_text("\n\n".join(parts) + "\n")
    return [path, *written]


def draw(figure: Figure, result: Result) -> None:
    """Rows: data and systems; left the first images, right those where the last system leads most."""
    sides = list(result["shown"].values())
    grid = figure.subplots(len(sides[0]["pictures"]), len(sides), squeeze=False)
    for column, shown in enumerate(sides):
        for axes, (name, encoded) in zip(grid[:, column], shown["pictures"].items(), strict=True):
            pixels, count = models.picture(encoded), len(shown["indices"])
            axes.imshow(pixels)
            below = [f"{error:.4f}" for error in shown["errors"].get(name, [])] or [f"image {i}" for i in shown["indices"]]
            axes.set_xticks([(i + 0.5) * pixels.shape[1] / count - 0.5 for i in range(count)], below, fontsize=6)
            axes.set_yticks([])
            axes.tick_params(length=0)
            axes.set_title("held-out images" if name == "data" else name, fontsize=8, loc="left")
            axes.spines[:].set_visible(False)


def headline(rows: list[Record]) -> str:
    """Error of the nearest image each system makes, and how often it is the nearest of all."""
    said = []
    for record in rows:
        kept = record["result"]
        said += [f"{name}: {kept['ivom'][name][0]:.4f}, nearest to {kept['nearest'][name]}" for name in kept["ivom"]]
    return "; ".join(said)


ITEM = Item(
    order=5,
    title="BMS Table 5, Figure 3",
    paper="pictures; in Table 4 IvOM .0055, .0048, .0037",
    headline=headline,
    folder=HERE,
    records="table_5_figure_3.jsonl",
    cells=cells,
    work=work,
    write=write,
)

if __name__ == "__main__":
    main(ITEM)
