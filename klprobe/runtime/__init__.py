"""The process: BLAS kernels, other processes, unfinished work, versions, random numbers, and the user's own code."""
