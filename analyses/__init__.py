"""Everything that reproduces a number: analyses read klprobe, klprobe knows nothing of them."""

from klprobe.runtime import kernels

kernels.choose()  # before any analysis loads NumPy, as the command does
