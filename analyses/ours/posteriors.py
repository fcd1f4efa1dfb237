"""Posteriors of other people's encoders: .npz files of mean and logvar, in the folder that KLPROBE_POSTERIORS names."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from klprobe.distributions.posteriors import DiagonalGaussian, as_posterior
from klprobe.formats import load
from klprobe.types import InputError

FILES = ("joint-vae-fashion", "beta-vae-mnist", "factor-vae-mnist")
"""Published encoders: joint VAE (continuous part), beta-VAE, FactorVAE; one row for each of 60,000 training images."""


def open_posterior(name: str) -> DiagonalGaussian:
    """q(z|x_n) of one file; a small random one for `tiny`.

    Raises:
        InputError: the folder or the file is not there.
    """
    if name == "tiny":
        generator = torch.Generator().manual_seed(0)
        return DiagonalGaussian(torch.randn(200, 2, generator=generator), std=torch.full((200, 2), 0.5))
    folder = os.environ.get("KLPROBE_POSTERIORS")
    if folder is None:
        raise InputError(f"{name}.npz is not in the repository: name its folder in KLPROBE_POSTERIORS.")
    posterior = as_posterior(load(Path(folder) / f"{name}.npz").posterior)
    assert isinstance(posterior, DiagonalGaussian)
    return posterior


def some(posterior: DiagonalGaussian, num_points: int, seed: int) -> DiagonalGaussian:
    """As many points, drawn without replacement."""
    chosen = torch.randperm(posterior.num_points, generator=torch.Generator().manual_seed(seed))[:num_points]
    return posterior.select(chosen)
