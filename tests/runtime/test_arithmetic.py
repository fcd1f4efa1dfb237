import torch

from klprobe.runtime import parallel
from klprobe.runtime.arithmetic import arithmetic


def test_it_names_every_blas_with_the_threads_it_has_now():
    with parallel.one_blas_thread():
        facts = arithmetic()
    assert facts["blas"]
    assert all(library.endswith(", 1 threads") for library in facts["blas"])
    assert facts["torch"].startswith(torch.__version__)
    assert (facts["gpu"] is None) == (not torch.cuda.is_available())
