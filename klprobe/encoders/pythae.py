"""A model folder that pythae saved (extra `[pythae]`): configuration as JSON, weights, and the default architecture by name.

Of the folder, only tensors and JSON are read; a custom encoder is a pickle there, and is left closed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from klprobe.encoders._encode import Encoder, encode_data
from klprobe.encoders._shared import Encoded, Request, sha256
from klprobe.files.weights import fit, read_weights
from klprobe.types import CapabilityError, InputError

__all__ = ["Pythae"]

NOT_THE_ENCODER = ("VAE_IAF", "VAE_LinNF", "HVAE", "RHVAE", "SVAE", "PoincareVAE", "VQVAE", "HRQVAE")
"""Systems whose q(z|x) is more, or other, than the diagonal Gaussian that their encoder gives."""
CONFIG, WEIGHTS = "model_config.json", "model.pt"


@dataclass(frozen=True)
class Pythae:
    """A folder that a pythae model saved: model_config.json and model.pt, pip install 'klprobe[pythae]'; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether the folder holds pythae's configuration and weights."""
        return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()

    def load(self, path: Path, request: Request) -> Encoded:
        """Build the default architecture, give it the weights, run its encoder in eval mode.

        Raises:
            CapabilityError: pythae is not installed, or the posterior is not the encoder's Gaussian.
            InputError: a custom encoder, an unknown model, damaged files, data that do not fit.
        """
        settings = _settings(path)
        name = str(settings["name"]).removesuffix("Config")
        if name in NOT_THE_ENCODER:
            raise CapabilityError(
                f"{path.name} is a {name}, whose q(z|x) is not the Gaussian that its encoder gives: draw its latents yourself "
                "and save them, numpy.savez('posterior.npz', samples=z)."
            )
        if not settings.get("uses_default_encoder", False):
            raise InputError(
                f"{path.name} has an encoder of its own, which pythae stores as a pickle, and klprobe never unpickles: give "
                f"--checkpoint {path / WEIGHTS} --encoder package.module:factory."
            )
        encoder = _build(path, name, settings)
        fit(encoder, read_weights(path / WEIGHTS, request.limits), path.name, name)
        encoder.to(request.device).eval()
        facts = {
            "format": "pythae",
            "file": path.name,
            "sha256": {file: sha256(path / file) for file in (CONFIG, WEIGHTS)},
            "model": name,
            "latent_dim": settings["latent_dim"],
        }
        wants = f"points of shape {tuple(settings['input_dim'])}"
        return encode_data(Encoder(lambda x: encoder(x.to(request.device)), path.name, wants), request, facts)


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if {"name", "input_dim", "latent_dim"} <= set(settings):
            return dict(settings)
    except (ValueError, TypeError):
        pass
    raise InputError(f"{path.name}/{CONFIG} is no configuration of pythae: it needs name, input_dim and latent_dim.")


def _build(path: Path, name: str, settings: dict[str, Any]) -> torch.nn.Module:
    """The encoder of a freshly built pythae model of that configuration."""
    try:
        import pythae.models
    except ImportError as error:
        raise CapabilityError(f"{path.name} needs pythae: pip install 'klprobe[pythae]'.") from error
    kind, config = getattr(pythae.models, name, None), getattr(pythae.models, f"{name}Config", None)
    if kind is None or config is None:
        raise InputError(f"{path.name} is a {name[:40]!r}, which pythae {getattr(pythae, '__version__', '')} does not know.")
    try:
        with torch.device("meta"):  # sizes alone: a configuration may claim any, the weights show which are true
            model = kind(config(**{key: value for key, value in settings.items() if key != "name"}))
    except Exception as error:
        raise InputError(f"{path.name}/{CONFIG} does not fit this pythae ({type(error).__name__}: {error}).") from error
    encoder: torch.nn.Module = model.encoder
    return encoder
