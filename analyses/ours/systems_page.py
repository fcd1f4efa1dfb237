"""The comparison of all systems as a page and a figure, from the records alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from analyses.machinery.cells import Record, markdown
from analyses.machinery.drawing import save
from analyses.machinery.models import look_up, picture
from analyses.ours.systems_settings import CLAIM, COMMON, SYSTEMS

HEAD = (
    "system",
    "q(z\\|x)",
    "steps",
    "seeds",
    "CPU s",
    "average KL",
    "KL[q(z)\\|\\|p(z)] at least",
    "at most",
    "by the flow",
    "by the classifier",
    "l1 a pixel",
    "rms a pixel",
    "FID",
    "Inception score",
)
COLUMNS = 4
FAR = 200.0
"""FID of samples that no one would take for digits (ours, by eye)."""


def page(records: Sequence[Record]) -> str:
    """Markdown: the table, and whether DMVI's order is found."""
    rows = [(name, found) for name in SYSTEMS if (found := of_system(records, name))]
    if not rows:
        return "# Every system on MNIST\n\nNo records yet.\n"
    first = rows[0][1][0]
    fid, score = (first["result"]["quality"][name][2] for name in ("fid", "inception-score"))
    parts = [
        "# Every system on MNIST, side by side",
        "Made by `python -m analyses.ours.systems` from records. "
        f"MLP pair on vectors of 784, {COMMON['latent_dim']} latents, {COMMON['width']} units a layer, batches of 64; preset "
        f"{first['cell']['preset']}. Nats, on the 10,000 test points; medians over seeds, and ± the largest "
        "standard error of one.",
        markdown(HEAD, [_row(name, found) for name, found in rows]),
        "The bracket is of the population's KL. A deterministic or implicit encoder has no density, so no method bounds its KL "
        "from above, and the empirical KL of a deterministic one is infinite. The flow (`maf`) and the classifier (the larger "
        "of its two bounds) err low for every system, are fitted in the same way, and so compare systems. `age`'s prior, "
        "uniform on the sphere, has no density, which a flow needs. `draw` is bounded from above by its average KL alone: "
        "Monte Carlo would run its network for every pair of draw and point. CPU seconds are those of the process that wrote "
        "the record; one that was stopped before it had trained already. FID and Inception score are under klprobe's own "
        f"{first['result']['quality']['net']}; training data in the samples' place get {fid:.1f} and {score:.2f}.",
        _far(rows),
        "![Samples and reconstructions](systems.png)",
        "## Do the adversarial auto-encoders match q(z) to p(z) better than the VAE?",
        *_claim(dict(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def _far(rows: Sequence[tuple[str, Sequence[Record]]]) -> str:
    """Names those that did not learn to draw digits."""
    far = [name for name, found in rows if statistics.median(r["result"]["quality"]["fid"][0] for r in found) > FAR]
    return f"Not digits, by an FID above {FAR:.0f} at this budget: {', '.join(far) or 'none'}."


def of_system(records: Sequence[Record], name: str) -> list[Record]:
    """The records of one system, one a seed, the last one of each."""
    wanted = COMMON | SYSTEMS[name]
    own = [r for r in records if r["result"] and r["cell"]["model"]["system"] == name]
    found = {r["cell"]["model"]["seed"]: r for r in own if r["cell"]["model"]["settings"] == wanted}
    return [found[seed] for seed in sorted(found)]


def lower_bounds(record: Record) -> dict[str, tuple[float, float] | None]:
    """What flow and classifier certify of KL[q(z)||p(z)], and their errors."""
    kept = record["result"]["kl"]
    ratio = [found for name in ("donsker-varadhan", "nwj") if (found := look_up(kept, "classifier", name))]
    return {"maf": look_up(kept, "maf"), "classifier": max(ratio) if ratio else None}


def _row(name: str, found: Sequence[Record]) -> list[str]:
    cell, results = found[0]["cell"]["model"], [record["result"] for record in found]
    kind = "" if results[0]["kl"] is None else results[0]["kl"]["posterior"]
    columns = [
        name,
        kind,
        f"{cell['steps']:,}",
        str(len(found)),
        f"{statistics.median(record['cpu_seconds'] for record in found):.0f}",
    ]
    if results[0]["kl"] is None:
        columns += [""] * 7
    else:
        sides = [r["kl"]["brackets"]["population"] for r in results]
        bounds = [lower_bounds(record) for record in found]
        columns += [
            _shown([r["kl"]["average_kl"] for r in results], 3),
            *(_shown([side[which][:2] for side in sides], 3) for which in ("lower", "upper")),
            *(_shown([bound[method] for bound in bounds], 3) for method in ("maf", "classifier")),
            *(_shown([r["reconstruction_errors"][error] for r in results], 4) for error in ("l1", "rms")),
        ]
    return [*columns, *(_shown([r["quality"][q][:2] for r in results], d) for q, d in (("fid", 1), ("inception-score", 2)))]


def _shown(scores: Sequence[Sequence[float | None] | None], digits: int) -> str:
    """Median and the largest error."""
    known = [score for score in scores if score is not None and score[0] is not None]
    if not known:
        return "none"
    errors = [error for _, error in known if error is not None]
    middle = f"{statistics.median(value for value, _ in known if value is not None):.{digits}f}"
    return f"{middle} ± {max(errors):.{digits}f}" if errors else middle


def _claim(rows: dict[str, Sequence[Record]]) -> list[str]:
    """A sentence for each system of DMVI's claim that has a record, and bound."""
    if "vae" not in rows:
        return ["No VAE to compare with yet."]
    said = [
        "DMVI argues that matching the marginals brings q(z) nearer to p(z). By the same lower bound on the same test points, "
        "seed by seed. Better or worse is by more than two standard errors of the difference, and speaks of the bounds alone, "
        "which may be looser for one system than for another:"
    ]
    vaes = {record["cell"]["model"]["seed"]: lower_bounds(record) for record in rows["vae"]}
    lines = []
    for name in CLAIM:
        found = {record["cell"]["model"]["seed"]: lower_bounds(record) for record in rows.get(name, [])}
        for method in ("maf", "classifier"):
            pairs = [(own[method], vaes[seed][method]) for seed, own in found.items() if seed in vaes]
            known = [(own, vae) for own, vae in pairs if own and vae]
            if known:
                lines.append(_verdict(name, method, known))
    return [*said, "\n".join(lines)]


def _verdict(name: str, method: str, pairs: Sequence[tuple[tuple[float, float], tuple[float, float]]]) -> str:
    """Of a system's and the VAE's bounds and their errors, a pair for each seed."""
    words = []
    for own, vae in pairs:
        gap, error = vae[0] - own[0], (vae[1] ** 2 + own[1] ** 2) ** 0.5
        words.append("no different" if abs(gap) <= 2 * error else "better" if gap > 0 else "worse")
    counts = ", ".join(f"{word} in {words.count(word)}" for word in ("better", "no different", "worse") if word in words)
    own, vae = (", ".join(f"{pair[i][0]:.2f}" for pair in pairs) for i in (0, 1))
    return f"- {name} by {method}: {own} against {vae} nats: {counts} of {len(pairs)}."


def panels(records: Sequence[Record], path: Path) -> Path:
    """Samples, and reconstructions beside them, of every system's first seed; the data that are rebuilt come first."""
    shown = [(name, found[0]["result"]["pictures"]) for name in SYSTEMS if (found := of_system(records, name))]
    data = next((pictures["data"] for _, pictures in shown if "data" in pictures), None)
    pairs = [("test data", data, None), *((n, p["samples"], p.get("reconstructions")) for n, p in shown)]
    lines = -(-len(pairs) // COLUMNS)

    def draw(figure: Figure) -> None:
        axes = figure.subplots(lines, 2 * COLUMNS, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for i, (name, left, right) in enumerate(pairs):
            row, column = divmod(i, COLUMNS)
            for axis, image, what in ((axes[row, 2 * column], left, ""), (axes[row, 2 * column + 1], right, "rebuilt")):
                if image is not None:
                    axis.imshow(picture(image))
                    axis.set_title(what or name, fontsize=8)

    written = save(path, (2.4 * COLUMNS, 1.35 * lines), draw)
    with Image.open(written) as figure:  # grey digits need no more than 16 greys
        small = figure.convert("L").quantize(16)
    small.save(written, optimize=True)
    return written
