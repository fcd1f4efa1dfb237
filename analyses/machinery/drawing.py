"""Figures of the analyses: klprobe's style, colours that the colour-blind can tell apart, same bytes from same records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib.style
from matplotlib.figure import Figure

from klprobe.rendering.figures import STYLE

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008)."""


def save(path: Path, size: tuple[float, float], draw: Callable[[Figure], None]) -> Path:
    """Draw on a figure of `size` inches and write it, as .svg or .png."""
    with matplotlib.style.context(["default", STYLE, {"text.parse_math": True}]):
        figure = Figure(figsize=size)
        draw(figure)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path
