"""A model folder that pythae saved (extra `[pythae]`): configuration as JSON, weights, and the default architecture by name.

Only tensors and JSON are read from the folder; a custom encoder is stored as a pickle, which is never opened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from klprobe.files import json_files
from klprobe.files.construction import LARGEST_SIZE, sizes_of
from klprobe.files.weights import fit, read_weights
from klprobe.formats import Encoded, Request, sha256
from klprobe.formats._encode import Encoder, encode_data
from klprobe.types import CapabilityError, InputError

__all__ = ["Pythae"]

NOT_THE_ENCODER = ("VAE_IAF", "VAE_LinNF", "HVAE", "RHVAE", "SVAE", "PoincareVAE", "VQVAE", "HRQVAE")
"""Systems whose q(z|x) is more, or other, than the diagonal Gaussian that their encoder gives."""
CONFIG, WEIGHTS = "model_config.json", "model.pt"
NAME = re.compile(r"[A-Z][A-Za-z_]{0,39}")
"""Pattern of the name of a class of pythae.models."""


@dataclass(frozen=True)
class Pythae:
    """A folder that a pythae model saved: model_config.json and model.pt, pip install 'klprobe[pythae]'; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether the folder holds pythae's configuration and weights."""
        return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()

    def load(self, path: Path, request: Request) -> Encoded:
        """Build the default architecture, load the weights, and run its encoder in eval mode.

        Raises:
            CapabilityError: pythae is not installed, or the posterior is not the encoder's Gaussian.
            InputError: the encoder is a custom one, the model is unknown, files are damaged, or the data do not fit.
        """
        settings = _settings(path)
        name = settings["name"].removesuffix("Config")
        if name in NOT_THE_ENCODER:
            raise CapabilityError(
                f"{path.name} is a {name}, whose q(z|x) is not the Gaussian that its encoder gives: draw its codes yourself "
                "and save them, numpy.savez('posterior.npz', samples=z)."
            )
        if settings.get("uses_default_encoder") is not True:
            raise InputError(
                f"{path.name} has an encoder of its own, which pythae stores as a pickle, and klprobe never unpickles: give "
                f"--checkpoint {path / WEIGHTS} --encoder package.module:factory."
            )
        weights = read_weights(path / WEIGHTS, request.limits)
        encoder, config = _build(path, name, settings, len(weights))
        fit(encoder, weights, path.name, name)
        encoder.to(request.device).eval()
        facts = {
            "format": "pythae",
            "file": path.name,
            "sha256": {file: sha256(path / file) for file in (CONFIG, WEIGHTS)},
            "model": name,
            "latent_dim": config.latent_dim,
        }
        wants = f"points of shape {tuple(config.input_dim)}"
        return encode_data(Encoder(lambda x: encoder(x.to(request.device)), path.name, wants), request, facts)


def _settings(path: Path) -> dict[str, Any]:
    label = f"{path.name}/{CONFIG}"
    settings = json_files.read(path / CONFIG, label)
    if not isinstance(settings, dict) or not {"name", "input_dim", "latent_dim"} <= set(settings):
        raise InputError(f"{label} is not a configuration of pythae, which needs name, input_dim and latent_dim.")
    if not isinstance(settings["name"], str) or not NAME.fullmatch(settings["name"]):
        raise InputError(f"{label}: name is {repr(settings['name'])[:40]}, and no model of pythae is called that.")
    if large := [key for key, value in settings.items() if type(value) is int and abs(value) > LARGEST_SIZE]:
        raise InputError(f"{label}: {large[0][:40]} is {repr(settings[large[0]])[:40]}, beyond every network: it is damaged.")
    return settings


def _build(path: Path, name: str, settings: dict[str, Any], held: int) -> tuple[torch.nn.Module, Any]:
    """Build the encoder of that configuration, as shapes without memory, and the configuration as pythae understands it."""
    try:
        import pythae.models
    except ImportError as error:
        raise CapabilityError(f"{path.name} needs pythae: pip install 'klprobe[pythae]'.") from error
    kind: Any = getattr(pythae.models, name, None)
    config: Any = getattr(pythae.models, f"{name}Config", None)
    if not (_is_a(kind, pythae.models.BaseAE) and _is_a(config, pythae.models.BaseAEConfig)):
        raise InputError(f"{path.name} is a {name[:40]!r}, which pythae {getattr(pythae, '__version__', '')} does not know.")
    try:
        understood = config(**{key: value for key, value in settings.items() if key != "name"})
        sizes = understood.input_dim
        if not sizes or not all(type(size) is int and 0 < size <= LARGEST_SIZE for size in (*sizes, understood.latent_dim)):
            raise ValueError(f"input_dim is {sizes} and latent_dim {understood.latent_dim}")
        encoder: torch.nn.Module = sizes_of(lambda: kind(understood), held, f"{path.name}/{CONFIG}").encoder
    except InputError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{path.name}/{CONFIG} does not fit this pythae ({said}).") from error
    return encoder, understood


def _is_a(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)
