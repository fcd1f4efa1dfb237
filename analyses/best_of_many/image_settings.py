"""Numbers taken from "Best-of-Many-Samples" Distribution Matching (2020), section 4.2: CIFAR-10."""

from __future__ import annotations

from typing import Any, NamedTuple

LATENTS, STEPS = 100, 100_000
"""Section 4.2: latents, and generator iterations."""
REAL, GENERATED = 10_000, 5_000
"""Section 4.2: images of each kind in the FID."""


class Row(NamedTuple):
    """A method of Table 4 or 6, and the system that stands for it."""

    name: str
    system: str
    settings: dict[str, Any]
    fid: float | None = None
    ivom: float | None = None


DCGAN = {"architecture": "dcgan"}
TABLES = (
    Row("WAE", "wae", {}, fid=89.3),
    Row("BMS-VAE, T = 10", "bms-vae", {"draws": 10}, fid=87.9),
    Row("DCGAN", "dcgan", {}, fid=30.7, ivom=0.0084),
    Row("alpha-GAN", "aae-gan", {"preset": "agan"}, fid=29.4),
    Row("BMS-VAE-GAN, T = 10", "bms-vae-gan", {"draws": 10, **DCGAN}, fid=28.8),
    Row("SN-GAN, standard CNN", "sngan", {}, fid=25.5, ivom=0.0055),
    Row("alpha-GAN + SN, standard CNN", "bms-vae-gan", {"draws": 1}, fid=24.6, ivom=0.0048),
    Row("BMS-VAE-GAN, T = 10, standard CNN", "bms-vae-gan", {"draws": 10}, fid=23.8),
    Row("BMS-VAE-GAN, T = 30, standard CNN", "bms-vae-gan", {"draws": 30}, fid=23.4, ivom=0.0037),
    Row("VEEGAN", "veegan", {}, ivom=0.0068),
)
"""Tables 4 and 6; DCGAN networks unless said. That the IvOM of Table 4 is of the networks of Table 6 is our reading."""
QUOTED = (("BW-GAN", 25.1), ("Dist-GAN, 300,000 iterations", 22.9), ("BMS-VAE-GAN, T = 10, 300,000 iterations", 21.8))
"""Table 6, standard CNN: rows that are quoted and not run."""
