"""How numbers are said in few words, the same everywhere: over several seeds, and spans of time."""

from __future__ import annotations

import statistics


def over_seeds(values: list[float], form: str) -> str:
    """Mean ± standard deviation of several, or the one there is."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form.lstrip('+'))}" if len(values) > 1 else mean


def in_words(seconds: float) -> str:
    """As 40 s, 12 min, 3.4 h or 5 days."""
    for size, unit, digits in ((172_800.0, "days", 86_400.0), (5400.0, "h", 3600.0), (100.0, "min", 60.0)):
        if seconds >= size:
            return f"{seconds / digits:.1f} {unit}" if unit != "min" else f"{seconds / digits:.0f} {unit}"
    return f"{seconds:.0f} s"
