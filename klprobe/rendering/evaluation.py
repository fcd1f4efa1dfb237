"""Output of `klprobe evaluate`: one table, the JSON document `klprobe.evaluation/1`, CSV, one HTML page, and their files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from klprobe.estimation.report import as_json, plain
from klprobe.evaluation.run import Evaluation, Row
from klprobe.metrics import Score
from klprobe.printable import visible
from klprobe.rendering import wording
from klprobe.rendering.evaluation_figures import NAMES
from klprobe.rendering.figures import Plot
from klprobe.rendering.files import write_together
from klprobe.rendering.html import data_address, environment

SCHEMA = "klprobe.evaluation/1"
TITLE = "Sample quality: how close do samples come to data?"
COLUMNS = ("quantity", "this model", "real data", "real + noise", "better")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of a text that a spreadsheet runs as a formula; a file's name may begin like this."""
MEANING = (
    "±: one standard error. real data: held-out data in the model's place, or training data where a metric compares with "
    "held-out data (a net that klprobe trained has seen them); for latents the prior. real + noise: held-out data + N(0, 0.1), "
    "cut off at the ends of [0, 1]. closer: to real data's value. Scores under different nets, or at different numbers of "
    "samples, are not comparable."
)


def cell(score: Score | None) -> str:
    """Write `19.04 ± 0.02`, or a dash."""
    if score is None or score.value is None:
        return "-"
    if score.std_error and score.std_error > 1e-12 * abs(score.value):
        value = str(wording.number(score.value, score.std_error))
    else:  # a count, or a value without an error
        whole = f"{score.value:g}" if float(score.value).is_integer() else str(wording.number(score.value, 0.0))
        value = whole if score.std_error is None else f"{whole} ± 0"
    return f"{value} {score.unit}".strip()


def table(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """Make the rows under `COLUMNS`."""
    return [(row.score.quantity, cell(row.score), cell(row.real), cell(row.noisy), row.score.better) for row in evaluation.rows]


def missing(evaluation: Evaluation) -> list[tuple[str, str]]:
    """List (name, reason) of quantities without a value, and of metrics that could not be measured."""
    rows = [(r.score.quantity, r.score.reason or "not known") for r in evaluation.rows if r.score.value is None]
    return rows + [(m.method, m.reason) for m in evaluation.not_done]


def nets(evaluation: Evaluation) -> list[str]:
    """Name the feature nets of the scores."""
    return list(dict.fromkeys(row.score.net for row in evaluation.rows if row.score.net is not None))


def document(evaluation: Evaluation, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Make a strict-JSON document of all results."""
    content = {
        "schema": SCHEMA,
        "nets": nets(evaluation),
        "rows": [_row(row) for row in evaluation.rows],
        "not_done": evaluation.not_done,
        "notes": evaluation.notes,
        "settings": evaluation.settings,
        "seconds": evaluation.seconds,
        "provenance": provenance,
    }
    return plain(content)


def _row(row: Row) -> dict[str, Any]:
    found = {"metric": row.metric, **{k: v for k, v in plain(row.score).items() if not (k == "reason" and v is None)}}
    for name, score in (("real", row.real), ("noisy", row.noisy)):
        if score is not None:
            found[name] = {"value": score.value, "std_error": score.std_error}
    return found


def as_csv(document: Mapping[str, Any]) -> str:
    """Write CSV with a row for each quantity."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["metric", "quantity", "value", "std_error", "unit", "better", "net", "real", "real_std_error", "noisy"])
    for row in document["rows"]:
        real, noisy = row.get("real", {}), row.get("noisy", {})
        own = [sheet_cell(row[name]) for name in ("metric", "quantity", "value", "std_error", "unit", "better", "net")]
        writer.writerow([*own, real.get("value"), real.get("std_error"), noisy.get("value")])
    return file.getvalue()


def sheet_cell(value: Any) -> Any:
    """Write a value for CSV; text that a spreadsheet would run as a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(FORMULA) and len(value) > 1 else visible(value)


def page(evaluation: Evaluation, given: str, content: Mapping[str, Any], plots: Sequence[Plot]) -> str:
    """Make one self-contained HTML page."""
    return (
        environment()
        .get_template("evaluation.html.jinja")
        .render(
            title=TITLE,
            given=given,
            meaning=MEANING,
            columns=COLUMNS,
            tables=[table(evaluation)],
            captions=["Every score of the model, beside those of real data."],
            nets=nets(evaluation),
            notes=evaluation.notes,
            missing=missing(evaluation),
            plots=[{"caption": p.caption, "alt": p.alt, "image": data_address("image/svg+xml", p.svg)} for p in plots],
            name="evaluation.json",
            document=data_address("application/json", as_json(content).encode()),
            provenance=json.dumps(content["provenance"], indent=2, ensure_ascii=False),
        )
    )


def save(evaluation: Evaluation, given: str, content: Mapping[str, Any], plots: Sequence[Plot], out: Path) -> None:
    """Write evaluation.json, .csv, .html and the figures into a folder; figures of an older run are removed.

    Raises:
        InputError: the folder cannot be written to.
    """
    ours = [f"evaluation-{name}.{kind}" for name in NAMES for kind in ("png", "svg")]
    write_together(out, _contents(evaluation, given, content, plots), ours)


def _contents(
    evaluation: Evaluation, given: str, content: Mapping[str, Any], plots: Sequence[Plot]
) -> Iterator[tuple[str, bytes]]:
    yield "evaluation.json", as_json(content).encode()
    yield "evaluation.csv", as_csv(content).encode()
    for plot in plots:
        yield from ((f"evaluation-{plot.name}.png", plot.png), (f"evaluation-{plot.name}.svg", plot.svg))
    yield "evaluation.html", page(evaluation, given, content, plots).encode(errors="replace")
