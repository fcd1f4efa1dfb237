import os
import subprocess
import sys

import pytest

CHOOSE = """
import os, pathlib, sys
from klprobe.runtime import kernels
kernels.choose(pathlib.Path(sys.argv[1]))
print(os.environ.get("OPENBLAS_CORETYPE", "OpenBLAS's own"))
"""


@pytest.mark.parametrize(
    ("flags", "before", "chosen"),
    [
        ("fpu avx2 avx512f avx512bw avx512cd avx512dq avx512vl", "", "SkylakeX"),
        ("fpu avx2 avx512f avx512cd", "", "OpenBLAS's own"),
        ("fpu avx2 avx512f avx512bw avx512cd avx512dq avx512vl", "import numpy;", "OpenBLAS's own"),
        (None, "", "OpenBLAS's own"),
    ],
)
def test_wide_kernels_are_named_only_where_the_processor_has_them_and_numpy_is_not_loaded(tmp_path, flags, before, chosen):
    info = tmp_path / "cpuinfo"
    if flags is not None:
        info.write_text(f"processor : 0\nflags : {flags}\n")
    clean = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    command = [sys.executable, "-c", before + CHOOSE, str(info)]
    assert subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout.strip() == chosen
