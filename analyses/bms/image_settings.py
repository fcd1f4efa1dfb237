"""Numbers taken from "Best-of-Many-Samples" Distribution Matching (2020), sections 4.2 and 4.3 and appendices C to E."""

from __future__ import annotations

from typing import Any, NamedTuple

LATENTS = 100
"""Section 4.2; that CelebA has as many is our reading."""
STEPS = {"cifar-10": 100_000, "celeba": 200_000, "celeba:size=128": 200_000}
"""Sections 4.2 and 4.3: generator iterations."""
IMAGES = {"cifar-10": (10_000, 5_000), "celeba": (10_000, 10_000), "celeba:size=128": (10_000, 10_000)}
"""Sections 4.2 and 4.3: real and generated images in the FID."""
DIVERSITY_SAMPLES = 5_000
"""Appendix E: samples in the LPIPS diversity."""


class Row(NamedTuple):
    """A method of a table, and the system that stands for it."""

    name: str
    system: str
    settings: dict[str, Any]
    fid: float | None = None
    ivom: float | None = None
    data: str = "cifar-10"


DCGAN = {"architecture": "dcgan"}
SNGAN = Row("SN-GAN, standard CNN", "sngan", {}, fid=25.5, ivom=0.0055)
ALPHA_SN = Row("alpha-GAN + SN, standard CNN", "bms-vae-gan", {"draws": 1}, fid=24.6, ivom=0.0048)
BMS_10 = Row("BMS-VAE-GAN, T = 10, standard CNN", "bms-vae-gan", {"draws": 10}, fid=23.8)
BMS_30 = Row("BMS-VAE-GAN, T = 30, standard CNN", "bms-vae-gan", {"draws": 30}, fid=23.4, ivom=0.0037)
LIGHT_SNGAN = Row("SN-GAN, DCGAN networks", "sngan", DCGAN)
LIGHT_ALPHA_SN = Row("alpha-GAN + SN, DCGAN networks", "bms-vae-gan", {"draws": 1, **DCGAN})
LIGHT_BMS = Row("BMS-VAE-GAN, T = 10", "bms-vae-gan", {"draws": 10, **DCGAN}, fid=28.8)
TABLES = (
    Row("WAE", "wae", {}, fid=89.3),
    Row("BMS-VAE, T = 10", "bms-vae", {"draws": 10}, fid=87.9),
    Row("DCGAN", "dcgan", {}, fid=30.7, ivom=0.0084),
    Row("alpha-GAN", "aae-gan", {"preset": "agan"}, fid=29.4),
    LIGHT_BMS,
    SNGAN,
    ALPHA_SN,
    BMS_10,
    BMS_30,
    Row("VEEGAN", "veegan", {}, ivom=0.0068),
)
"""Tables 4 and 6; DCGAN networks unless said. That the IvOM of Table 4 is of the networks of Table 6 is our reading."""
QUOTED = (("BW-GAN", 25.1), ("Dist-GAN, 300,000 iterations", 22.9), ("BMS-VAE-GAN, T = 10, 300,000 iterations", 21.8))
"""Table 6, standard CNN: rows that are quoted and not run."""

LARGE = "celeba:size=128"
RATES = {"lr": 1e-4, "code_lr": 4e-4}
FACE = {**DCGAN, **RATES, "discriminator_lr": 4e-4, "data_target": 0.5, "sample_target": 0.5}
"""Section 4.3, of alpha-GAN + SN and BMS-VAE-GAN. That the discriminators' rate is the code discriminator's too, and both rates
BMS-VAE's, is our reading; the other systems keep their own."""
FACE_SNGAN = Row("SN-GAN", "sngan", DCGAN, 21.9, 0.0221, "celeba")
FACE_ALPHA = Row("alpha-GAN", "aae-gan", {"preset": "agan"}, 19.2, None, "celeba")
FACE_ALPHA_SN = Row("alpha-GAN + SN, T = 1", "bms-vae-gan", {"draws": 1, **FACE}, 15.1, 0.0036, "celeba")
FACE_BMS_10 = Row("BMS-VAE-GAN, T = 10", "bms-vae-gan", {"draws": 10, **FACE}, 14.3, 0.0034, "celeba")
FACE_BMS_30 = Row("BMS-VAE-GAN, T = 30", "bms-vae-gan", {"draws": 30, **FACE}, 13.6, None, "celeba")
FACE_WAE = Row("WAE", "wae", {}, 41.2, None, "celeba")
FACES = (
    FACE_WAE,
    Row("BMS-VAE, T = 10", "bms-vae", {"draws": 10, **RATES}, 39.8, None, "celeba"),
    Row("DCGAN", "dcgan", {}, 31.1, None, "celeba"),
    Row("WGAN-GP", "wgan-gp", {}, 26.8, None, "celeba"),
    FACE_SNGAN,
    FACE_ALPHA,
    FACE_ALPHA_SN,
    FACE_BMS_10,
    FACE_BMS_30,
    Row("SN-GAN, 128 x 128", "sngan", DCGAN, 60.5, None, LARGE),
    Row("alpha-GAN + SN, T = 1, 128 x 128", "bms-vae-gan", {"draws": 1, **FACE}, 45.8, None, LARGE),
    Row("BMS-VAE-GAN, T = 10, 128 x 128", "bms-vae-gan", {"draws": 10, **FACE}, 42.7, None, LARGE),
)
"""Tables 7 and 8, DCGAN networks, 64 x 64 unless said."""
QUOTED_FACES = (("BEGAN", 26.3), ("Dist-GAN", 23.7))
"""Table 7: systems that klprobe does not have."""

COMPARED = {
    "cifar-10": {"paper": (SNGAN, ALPHA_SN, BMS_30), "quick": (LIGHT_SNGAN, LIGHT_ALPHA_SN, LIGHT_BMS)},
    "celeba": {"paper": (FACE_SNGAN, FACE_ALPHA_SN, FACE_BMS_10), "quick": (FACE_SNGAN, FACE_ALPHA_SN, FACE_BMS_10)},
}
"""Who is compared in Tables 5 and 9 and in Figures 3 and 5, ours last. A step of the standard CNN takes six times as long as
one of the DCGAN networks, so that quick presets have the latter."""
SHOWN_FACES = (FACE_WAE, FACE_SNGAN, FACE_ALPHA, FACE_ALPHA_SN, FACE_BMS_30)
"""Figures 2 and 4, whose other panels are BEGAN's and Dist-GAN's. Who is in Figure 2 is our reading of section 4.3."""
DIVERSITY = {
    "celeba": {"SN-GAN": 0.160, "alpha-GAN + SN": 0.162, "BMS-VAE-GAN": 0.151},
    "cifar-10": {"SN-GAN": 0.148, "alpha-GAN + SN": 0.145, "BMS-VAE-GAN": 0.140},
}
"""Table 9: LPIPS, T = 10."""
