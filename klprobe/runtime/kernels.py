"""Choose OpenBLAS's kernels for NumPy: those for the widest vectors that the processor has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})
"""Instructions that OpenBLAS's kernels named SkylakeX need."""


def choose(cpuinfo: Path = Path("/proc/cpuinfo")) -> None:
    """Name the AVX-512 kernels to OpenBLAS where the processor has them, unless somebody chose already.

    OpenBLAS tells processors apart by model, and takes AVX2 kernels for models newer than itself: on AMD's fifth Zen its
    0.3.31 does, and products run at 0.6 of the speed. It looks once, when it is loaded: this does nothing after NumPy is.
    """
    if "numpy" in sys.modules or not cpuinfo.exists():
        return
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    if set(flags.split()) >= AVX512:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
