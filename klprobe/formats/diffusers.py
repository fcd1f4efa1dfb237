"""A folder of diffusers' AutoencoderKL (extra `[diffusers]`): JSON and safetensors.

The latents of a point, (C, H, W), are one vector of C H W. They are taken as the encoder gives them, where its own training
held them against N(0, I); a diffusion model sees them times the scaling factor s, and KL[q(s z) || N(0, I)] is KL[q(z) ||
N(0, I / s^2)]: the same question with another prior.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
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

__all__ = ["Diffusers"]

KIND = "AutoencoderKL"
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Diffusers:
    """A folder of diffusers' AutoencoderKL, pip install 'klprobe[diffusers]'; needs --data, mostly --range=-1,1."""

    def matches(self, path: Path) -> bool:
        """Whether the folder's config.json names an AutoencoderKL."""
        try:
            return (path / CONFIG).is_file() and _config(path).get("_class_name") == KIND
        except InputError:
            return False

    def load(self, path: Path, request: Request) -> Encoded:
        """Run `encode` on the data, in eval mode and float32.

        Raises:
            CapabilityError: diffusers is not installed.
            InputError: the folder has no safetensors, files are damaged, or the data do not fit.
        """
        config = _config(path)
        if not (path / WEIGHTS).is_file():
            raise InputError(
                f"{path.name} lacks {WEIGHTS}: save the model with save_pretrained(folder, safe_serialization=True)."
            )
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise CapabilityError(f"{path.name} needs diffusers: pip install 'klprobe[diffusers]'.") from error
        weights, label = read_weights(path / WEIGHTS, request.limits), f"{path.name}/{CONFIG}"
        _check_sizes(config, label)
        try:
            known = inspect.signature(AutoencoderKL.__init__).parameters  # for other settings diffusers prints key and value
            asked = {key: value for key, value in config.items() if key in known}
            model = sizes_of(lambda: AutoencoderKL.from_config(asked), len(weights), label)
        except InputError:
            raise
        except Exception as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path.name} has a configuration that does not fit this diffusers ({said[:200]}).") from error
        fit(model, weights, path.name, KIND)
        model.to(request.device, torch.float32).eval()
        facts = {
            "format": "diffusers",
            "file": path.name,
            "sha256": {file: sha256(path / file) for file in (CONFIG, WEIGHTS)},
            "scaling_factor": config.get("scaling_factor"),
            "latent_channels": config.get("latent_channels"),
        }
        wants = f"images with {config.get('in_channels')} channel(s), usually in [-1, 1] (--range=-1,1)"
        encoder = Encoder(lambda x: model.encode(x.to(request.device)), path.name, wants)
        return encode_data(encoder, request, facts, _notes(config))


def _config(path: Path) -> dict[str, Any]:
    """Read the configuration of a folder.

    Raises:
        InputError: the file is not JSON, or not a configuration.
    """
    config = json_files.read(path / CONFIG, f"{path.name}/{CONFIG}")
    if not isinstance(config, dict):
        raise InputError(f"{path.name}/{CONFIG} is not a configuration: save the model with save_pretrained of diffusers.")
    return config


def _check_sizes(config: Mapping[str, Any], label: str) -> None:
    """Raise InputError where any size in the configuration is larger than that of any real network."""
    for key, value in config.items():
        inside = value if isinstance(value, list) else [value]
        if any(type(one) is int and abs(one) > LARGEST_SIZE for one in inside):
            raise InputError(f"{label}: {key[:40]} is {repr(value)[:40]}, beyond every network: it is damaged.")


def _notes(config: dict[str, Any]) -> tuple[str, ...]:
    scale = config.get("scaling_factor")
    if not isinstance(scale, int | float) or scale <= 0 or config.get("shift_factor"):
        return ("latents as the encoder gives them, flattened from (C, H, W), without shift or scaling factor",)
    return (
        f"latents as the encoder gives them, flattened from (C, H, W); scaled by {scale:g} against N(0, I) they are these "
        f"against --prior normal:scale={1 / scale:.6g}",
    )
