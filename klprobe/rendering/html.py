"""Show a report as one self-contained HTML page, and as the fragment that a notebook shows.

Everything is inside the page: it loads nothing from outside, and its content security policy forbids it.
"""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import TYPE_CHECKING, Any

from klprobe.estimation.report import Report
from klprobe.printable import visible
from klprobe.rendering import figures, wording

if TYPE_CHECKING:
    from collections.abc import Sequence

    import jinja2


def page(report: Report, plots: Sequence[figures.Plot] | None = None) -> str:
    """Make one HTML document: answer, estimates, figures, checks, provenance, and the JSON document to download.

    Args:
        report: Report to show.
        plots: Figures of the report, where they have been drawn already.
    """
    return _render("page.html.jinja", report, figures.draw(report) if plots is None else plots)


def fragment(report: Report, plots: Sequence[figures.Plot] | None = None) -> str:
    """Make answer, estimates and failures for a notebook's output cell, with the first figure folded; arguments as `page`."""
    return _render("fragment.html.jinja", report, figures.draw(report)[:1] if plots is None else plots[:1])


def _render(template: str, report: Report, plots: Sequence[figures.Plot]) -> str:
    document = report.to_dict()
    return (
        environment()
        .get_template(template)
        .render(
            report=report,
            wording=wording,
            plots=[{"caption": p.caption, "alt": p.alt, "image": data_address("image/svg+xml", p.svg)} for p in plots],
            bounds=_unique([e.bound for e in report.estimates]),
            quantities=_unique([e.quantity for e in report.estimates if e.quantity in wording.QUANTITY_MEANING]),
            checks=sorted(report.checks, key=lambda check: (check.passed, check.severity)),
            learned=_learned(document["estimates"]),
            provenance=_pretty(document["provenance"]),
            document=data_address("application/json", report.to_json().encode()),
        )
    )


@cache
def environment() -> jinja2.Environment:
    """Make the environment that finds the templates of this folder."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("klprobe", "rendering"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """Prepare text for every `{{ }}` of a template before it is escaped; the output of a macro is ready already."""
    return visible(value, lines=True) if type(value) is str else value


def data_address(kind: str, content: bytes) -> str:
    """Make a data address, which holds its content, such as a picture, inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _learned(estimates: list[dict[str, Any]]) -> dict[str, str]:
    """Details of each method, without the curves that a figure shows."""
    found: dict[str, dict[str, Any]] = {}
    for estimate in estimates:
        details = {name: value for name, value in estimate["details"].items() if name != "curves"}
        found.setdefault(estimate["method"], {}).update(details)
    return {method: _pretty(details) for method, details in found.items() if details}


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)


def _unique(items: list[str]) -> list[str]:
    return list(dict.fromkeys(items))
