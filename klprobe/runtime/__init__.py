"""This process: its machine, its kernels, its neighbours, its work in progress, and the user's own code."""
