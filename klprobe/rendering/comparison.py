"""Output of `klprobe compare`: checkpoints side by side, the JSON document `klprobe.comparison/1`, CSV, and one HTML page."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from klprobe.estimation.report import Report, as_json, plain
from klprobe.evaluation.run import Evaluation, Row
from klprobe.rendering import evaluation as scores
from klprobe.rendering import wording
from klprobe.rendering.files import write_together
from klprobe.rendering.html import data_address, environment
from klprobe.training.loop import CHECKPOINT
from klprobe.types import NotDone, Quantity

SCHEMA = "klprobe.comparison/1"
TITLE = "Checkpoints side by side"
MEANING = (
    "KL in nats: q_N averages q(z|x_n) over the points given, q over the whole population. ±: one standard error. real "
    "data: what the same metric gives to real data, for the first checkpoint's. Scores under different nets, at different "
    "numbers of samples, or on different data are not comparable."
)
DASH = "-"


@dataclasses.dataclass(frozen=True)
class Compared:
    """One checkpoint, with its KL and its sample quality, or the reasons why they are not known.

    Attributes:
        label: Short name, different from the others.
        path: Path as it was given.
        data: Data set and split.
        report: Report of `klprobe.estimate`.
        evaluation: Results of the metrics.
        not_done: Missing results, with the reasons.
    """

    label: str
    path: Path
    data: str
    report: Report | None = None
    evaluation: Evaluation | None = None
    not_done: tuple[NotDone, ...] = ()


def labels(paths: Sequence[Path]) -> list[str]:
    """Find the shortest different ends of the paths, without the name that klprobe gives to all its checkpoints."""
    parts = [path.parts[:-1] if path.name == CHECKPOINT and len(path.parts) > 1 else path.parts for path in paths]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(part[-length:]) for part in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [f"{i + 1}: {path}" for i, path in enumerate(paths)]


def columns(compared: Sequence[Compared]) -> tuple[str, ...]:
    """Names of the table's columns."""
    return ("quantity", *(c.label for c in compared), "real data", "better")


def table(compared: Sequence[Compared]) -> list[tuple[str, ...]]:
    """Make the rows under `columns`; `missing` explains a dash."""
    rows = [
        (name, *(DASH if c.report is None else cell(c.report) for c in compared), DASH, "-") for name, cell in KL_ROWS.items()
    ]
    kept: dict[str, list[Row | None]] = {}
    for i, c in enumerate(compared):
        for row in c.evaluation.rows if c.evaluation else ():
            kept.setdefault(row.score.quantity, [None] * len(compared))[i] = row
    for quantity, found in kept.items():
        first = next(row for row in found if row is not None)
        cells = (scores.cell(row.score if row else None) for row in found)
        rows.append((quantity, *cells, scores.cell(first.real), first.score.better))
    return rows


def _quantity(q: Quantity) -> str:
    return DASH if q.value is None else f"{wording.number(q.value, q.std_error)} nats"


KL_ROWS = {
    "KL[q||p], population": lambda report: wording.headline(report, "population"),
    "KL[q_N||p], empirical": lambda report: wording.headline(report, "empirical"),
    "average KL": lambda report: _quantity(report.average_kl),
    "mutual information": lambda report: _quantity(report.mutual_information),
    "active units": lambda report: DASH if report.active_units is None else f"{report.active_units} of {report.latent_dim}",
    "verdict": lambda report: report.verdict,
}


def missing(compared: Sequence[Compared]) -> list[tuple[str, str]]:
    """List (checkpoint and result, reason) for everything that is missing."""
    found = []
    for c in compared:
        found += [(f"{c.label}, {n.method}", n.reason) for n in c.not_done]
        if c.report is not None:
            found += [(f"{c.label}, {n.method}", n.reason) for n in c.report.not_done]
            for name in ("average_kl", "mutual_information"):
                quantity = getattr(c.report, name)
                if quantity.value is None:
                    found.append((f"{c.label}, {name.replace('_', ' ').replace('kl', 'KL')}", quantity.reason or "not known"))
        if c.evaluation is not None:
            found += [(f"{c.label}, {what}", reason) for what, reason in scores.missing(c.evaluation)]
    return found


def notes(compared: Sequence[Compared]) -> list[str]:
    """Collect the notes about images, and a note where data differ."""
    said = [note for c in compared for note in (c.evaluation.notes if c.evaluation else ())]
    data = {c.data for c in compared}
    if len(data) > 1:
        said.append(f"these checkpoints are on different data ({', '.join(sorted(data))}): their columns are not comparable")
    return list(dict.fromkeys(said))


def document(compared: Sequence[Compared], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Make a strict-JSON document: each checkpoint's `klprobe.report/1` and the rows of its evaluation."""
    return {
        "schema": SCHEMA,
        "checkpoints": [
            {
                "label": c.label,
                "path": str(c.path),
                "data": c.data,
                "report": None if c.report is None else c.report.to_dict(),
                "evaluation": None if c.evaluation is None else scores.document(c.evaluation, {}),
                "not_done": plain(c.not_done),
            }
            for c in compared
        ],
        "notes": notes(compared),
        "provenance": plain(provenance),
    }


def as_csv(compared: Sequence[Compared]) -> str:
    """Write CSV with a row for each checkpoint and quantity; a KL has both ends of its bracket."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["checkpoint", "quantity", "value", "std_error"])
    for c in compared:
        label = scores.sheet_cell(c.label)
        if c.report is not None:
            for target, bracket in c.report.brackets.items():
                for end in ("lower", "upper"):
                    side = getattr(bracket, end)
                    writer.writerow([label, f"{target}-kl-{end}", side.value, side.std_error])
            for name in ("average_kl", "mutual_information"):
                quantity = getattr(c.report, name)
                writer.writerow([label, name.replace("_", "-"), quantity.value, quantity.std_error])
        for row in c.evaluation.rows if c.evaluation else ():
            writer.writerow([label, row.score.quantity, row.score.value, row.score.std_error])
    return file.getvalue()


def page(compared: Sequence[Compared], content: Mapping[str, Any]) -> str:
    """Make one self-contained HTML page."""
    return (
        environment()
        .get_template("evaluation.html.jinja")
        .render(
            title=TITLE,
            given=given(compared),
            meaning=MEANING,
            columns=columns(compared),
            tables=[table(compared)],
            captions=["One column a checkpoint."],
            nets=list(dict.fromkeys(net for c in compared if c.evaluation for net in scores.nets(c.evaluation))),
            notes=notes(compared),
            missing=missing(compared),
            plots=[],
            name="comparison.json",
            document=data_address("application/json", as_json(content).encode()),
            provenance=json.dumps(content["provenance"], indent=2, ensure_ascii=False),
        )
    )


def given(compared: Sequence[Compared]) -> str:
    """Say what is compared."""
    return f"{len(compared)} checkpoints, " + ", ".join(f"{c.label} on {c.data}" for c in compared)


def save(compared: Sequence[Compared], content: Mapping[str, Any], out: Path) -> None:
    """Write comparison.json, .csv and .html into a folder.

    Raises:
        InputError: the folder cannot be written to.
    """
    write_together(out, _contents(compared, content))


def _contents(compared: Sequence[Compared], content: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield "comparison.json", as_json(content).encode()
    yield "comparison.csv", as_csv(compared).encode()
    yield "comparison.html", page(compared, content).encode(errors="replace")
