"""What a record says of the machine that it was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def machine() -> dict[str, str | int | None]:
    """Processor, OpenBLAS's kernels where they are chosen by hand, cores and torch threads."""
    return {
        "processor": processor(),
        "kernels": os.environ.get("OPENBLAS_CORETYPE", "own"),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def processor() -> str:
    """The processor's name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
