"""How numbers over several seeds are said in few words: the same in all headlines."""

from __future__ import annotations

import statistics


def over_seeds(values: list[float], form: str) -> str:
    """Mean ± standard deviation of several, or the one there is."""
    mean = format(statistics.mean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form.lstrip('+'))}" if len(values) > 1 else mean
