"""What a number's last bits depend on beside the input: processor, BLAS kernels, threads, GPU."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from klprobe.runtime import parallel


def arithmetic() -> dict[str, Any]:
    """Say by which kernels and with how many threads this process computes."""
    blas = [
        " ".join(str(library.get(fact)) for fact in ("internal_api", "version", "architecture") if library.get(fact))
        + f", {library['num_threads']} threads"
        for library in parallel.libraries()
        if library["user_api"] == "blas"
    ]
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "blas": blas,
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
