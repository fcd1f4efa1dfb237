"""Output of `klprobe holes`: sentences, the JSON document `klprobe.holes/1`, one HTML page, and the files of one folder."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from klprobe.estimation.holes import Draws, Holes
from klprobe.estimation.report import as_json, finite, plain
from klprobe.rendering import wording
from klprobe.rendering.figures import Plot
from klprobe.rendering.files import write_together
from klprobe.rendering.holes_figures import NAMES, percent
from klprobe.rendering.html import data_address, environment
from klprobe.types import Quantity

SCHEMA = "klprobe.holes/1"
TITLE = "Prior holes: does the prior draw codes that the encoder never makes?"
CERTAIN = 3.0
"""Number of standard errors from the share of a perfect match beyond which a share is called more or less."""
RANKED = 64
"""Number of deepest holes and of most crowded codes in the files."""
SHOWN, SHOWN_PAIRS = 5, 4
"""Number of rows of a table."""


def has_holes(holes: Holes) -> bool:
    """Whether clearly more of the prior's mass lies in holes than in a perfect match."""
    share = holes.trained_share if holes.share.value is None else holes.share
    return (share.value or 0.0) > holes.level + CERTAIN * (share.std_error or 0.0)


def answer(holes: Holes) -> str:
    """Write the result in a sentence or two."""
    seen = f"{_of_a_hundred(holes.trained_share)} start where a decoder that was trained on these points has seen no code."
    if holes.share.value is None:
        reason = str(holes.share.reason)
        return f"{reason[:1].upper()}{reason[1:]}. Of 100 samples decoded from the prior, {seen}"
    value, error, level = holes.share.value, holes.share.std_error or 0.0, holes.level
    samples = f"Of 100 samples decoded from the prior, {_of_a_hundred(holes.share)} start where held-out codes are rarer than "
    samples += f"around all but {100 * level:g} % of the codes themselves"
    if has_holes(holes):
        found = f"There are holes. {samples}: {value / level:.1f} times as many as a perfect match would have."
    elif value < level - CERTAIN * error:
        found = f"No holes are found. {samples}: fewer than a perfect match would have, as when codes spread beyond the prior."
    else:
        found = f"No holes are found. {samples}, as a perfect match would have."
    return f"{found} {seen}"


def _of_a_hundred(share: Quantity) -> str:
    value = share.value or 0.0
    return f"{100 * value:.0f}" if value >= 0.095 else f"{100 * value:.1f}"


def shares(holes: Holes) -> dict[str, str]:
    """The three shares, with the value of a perfect match, by their names."""
    perfect = f"(a perfect match: {100 * holes.level:g} %)"
    return {
        f"of the prior's mass is unlike held-out codes {perfect}": percent(holes.share),
        "of it is unlike the codes of these points, if the decoder was trained on them": percent(holes.trained_share),
        f"of the codes lie where draws of the prior are as rare {perfect}": percent(holes.reverse_share),
    }


def given(holes: Holes, source: str) -> str:
    """Say which input and how many draws the numbers come from."""
    n, dim = holes.num_points, holes.codes.z.shape[1]
    return f"{source}: N = {n:,} points, {dim} latents; {len(holes.codes.z):,} draws of q and of p"


def latents(holes: Holes) -> list[tuple[str, str]]:
    """Make rows (latents, nats): the latents that differ most from the prior, and the most dependent pairs."""
    rows = []
    if holes.dimensionwise_kl is None:
        rows.append(("one latent", f"not known ({holes.dimensionwise_kl_reason})"))
    else:
        ranked = sorted(((d, v) for d, v in enumerate(holes.dimensionwise_kl) if finite(v)), key=lambda item: -item[1])
        rows += [(f"latent {d}", wording.number(value).value) for d, value in ranked[:SHOWN_PAIRS]]
        rows += [("other latents", holes.dimensionwise_kl_reason)] if holes.dimensionwise_kl_reason else []
    if holes.pairs is None:
        rows.append(("two latents", f"not known ({holes.pairs_reason})"))
    else:
        rows += [
            (f"latents {i} and {j}", f"{wording.number(kl).value}, {wording.number(dependence).value} of it dependence")
            for i, j, kl, dependence in sorted(holes.pairs.ranked(), key=lambda pair: -pair[3])[:SHOWN_PAIRS]
        ]
    return rows


def top(draws: Draws, count: int) -> list[dict[str, Any]]:
    """Turn the first draws into records: |z|, log-densities in nats, and the data point that a code came from."""
    rows = []
    for k in range(min(count, len(draws.z))):
        row = {"radius": float(draws.z[k].norm()), "log_p": float(draws.log_p[k]), "log_q": float(draws.log_q[k])}
        rows.append({"point": int(draws.points[k]), **row} if draws.points[k] >= 0 else row)
    return rows


def document(holes: Holes, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Make a strict-JSON document of everything but the codes; shares are between 0 and 1, the rest is in nats."""
    names = ("i", "j", "kl", "dependence")
    pairs = [dict(zip(names, pair, strict=True)) for pair in holes.pairs.ranked()] if holes.pairs is not None else None
    content = {
        "schema": SCHEMA,
        "latent_dim": holes.codes.z.shape[1],
        "num_points": holes.num_points,
        "num_samples": len(holes.codes.z),
        "quantile": holes.level,
        "answer": answer(holes),
        "share": holes.share,
        "trained_share": holes.trained_share,
        "reverse_share": holes.reverse_share,
        "threshold": holes.threshold,
        "trained_threshold": holes.trained_threshold,
        "reverse_threshold": holes.reverse_threshold,
        "deepest_holes": top(holes.deepest(RANKED), RANKED),
        "most_crowded_codes": top(holes.crowded(RANKED), RANKED),
        "dimensionwise_kl": holes.dimensionwise_kl,
        "dimensionwise_kl_reason": holes.dimensionwise_kl_reason,
        "pairwise_kl": pairs,
        "pairwise_kl_reason": holes.pairs_reason,
        "radius": holes.radius,
        "provenance": provenance,
    }
    return {name: value for name, value in plain(content).items() if not (name.endswith("_reason") and value is None)}


def arrays(holes: Holes) -> bytes:
    """Write the ranked codes as .npz: hole_z, hole_log_q and so on, crowded_z, ... and ordinary_z, ..., as in `Draws`."""
    found = {"hole": holes.deepest(RANKED), "crowded": holes.crowded(RANKED), "ordinary": holes.ordinary(RANKED)}
    content = {
        f"{name}_{field.name}": getattr(draws, field.name).numpy()
        for name, draws in found.items()
        for field in dataclasses.fields(Draws)
    }
    file = io.BytesIO()
    np.savez(file, **content)
    return file.getvalue()


def page(holes: Holes, source: str, content: Mapping[str, Any], plots: Sequence[Plot]) -> str:
    """Make one self-contained HTML page."""
    return (
        environment()
        .get_template("holes.html.jinja")
        .render(
            title=TITLE,
            given=given(holes, source),
            answer=answer(holes),
            found=has_holes(holes),
            shares=shares(holes),
            level=f"{100 * holes.level:g}",
            tables={
                "Deepest holes: likely draws of the prior, the least likely codes first": top(holes.deepest(SHOWN), SHOWN),
                "Most crowded codes: likely codes, one a data point, the least likely draws of the prior first": top(
                    holes.crowded(SHOWN), SHOWN
                ),
            },
            latents=latents(holes),
            number=wording.number,
            plots=[{"caption": p.caption, "alt": p.alt, "image": data_address("image/svg+xml", p.svg)} for p in plots],
            document=data_address("application/json", as_json(content).encode()),
            provenance=json.dumps(content["provenance"], indent=2, ensure_ascii=False),
        )
    )


def save(holes: Holes, source: str, content: Mapping[str, Any], plots: Sequence[Plot], out: Path) -> None:
    """Write holes.json, holes.npz, holes.html and the figures into a folder; figures of an older run are removed.

    Raises:
        InputError: the folder cannot be written to.
    """
    ours = [f"holes-{name}.{kind}" for name in NAMES for kind in ("png", "svg")]
    write_together(out, _contents(holes, source, content, plots), ours)


def _contents(holes: Holes, source: str, content: Mapping[str, Any], plots: Sequence[Plot]) -> Iterator[tuple[str, bytes]]:
    yield "holes.json", as_json(content).encode()
    yield "holes.npz", arrays(holes)
    for plot in plots:
        yield from ((f"holes-{plot.name}.png", plot.png), (f"holes-{plot.name}.svg", plot.svg))
    yield "holes.html", page(holes, source, content, plots).encode(errors="replace")
