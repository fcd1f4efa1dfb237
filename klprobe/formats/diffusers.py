"""A model folder of diffusers (extra `[diffusers]`): JSON and safetensors, of the auto-encoders of images in `MODELS`.

The latents of a point, (C, H, W), are one vector of C H W. They are taken as the encoder gives them, where its own training
held them against N(0, I); a diffusion model sees them times the scaling factor s, and KL[q(s z) || N(0, I)] is KL[q(z) ||
N(0, I / s^2)]: the same question with another prior. Models of other kinds, and folders of whole pipelines, are recognised
so that they can be refused with the reason.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from klprobe.distributions.posteriors import SampleOnly
from klprobe.files import json_files
from klprobe.files.construction import LARGEST_SIZE, sizes_of
from klprobe.files.weights import fit, read_weights
from klprobe.formats import Encoded, Request, sha256
from klprobe.formats._codes import with_codebook
from klprobe.formats._encode import POINTS_AT_ONCE, Encoder, encode_data
from klprobe.types import CapabilityError, InputError

__all__ = ["Diffusers"]

Kind = Literal["gaussian", "deterministic", "codebook"]
MODELS: dict[str, Kind] = {
    "AutoencoderKL": "gaussian",
    "AsymmetricAutoencoderKL": "gaussian",
    "AutoencoderKLTemporalDecoder": "gaussian",
    "AutoencoderTiny": "deterministic",
    "AutoencoderDC": "deterministic",
    "VQModel": "codebook",
}
CONFIG, PIPELINE, WEIGHTS = "config.json", "model_index.json", "diffusion_pytorch_model"
EXACT = (f"{WEIGHTS}.safetensors", f"{WEIGHTS}.bin")
SHARDS = f"{WEIGHTS}.safetensors.index.json"
SHARD = re.compile(r"[A-Za-z0-9_.-]{1,100}\.safetensors")
OLD_ATTENTION = re.compile(r"(.*\battentions\.\d+\.)(query|key|value|proj_attn)(\.(?:weight|bias))")
NEW_NAME = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
BY_HAND = (
    "run it in Python: q = model.encode(x).latent_dist, then numpy.savez('posterior.npz', mean=q.mean.flatten(1), "
    "logvar=q.logvar.flatten(1)), or mean alone for a deterministic encoder"
)
YARDSTICK = "deterministic latents, and no prior in the model's training: N(0, I) is a yardstick; flattened from (C, H, W)"


@dataclass(frozen=True)
class Diffusers:
    """A folder of diffusers' AutoencoderKL or its kin, or VQModel, pip install 'klprobe[diffusers]'; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether the folder's config.json names a class of diffusers, or it is the folder of a pipeline."""
        try:
            if (path / PIPELINE).is_file():
                return "_diffusers_version" in _config(path, PIPELINE)
            config = _config(path) if (path / CONFIG).is_file() else {}
            return config.get("_class_name") in MODELS or {"_class_name", "_diffusers_version"} <= set(config)
        except InputError:
            return False

    def load(self, path: Path, request: Request) -> Encoded:
        """Run `encode` on the data, in eval mode and float32; of a VQModel, give the entries of its codebook.

        Raises:
            CapabilityError: diffusers is not installed, or another kind of model.
            InputError: a pipeline, no weights, damaged files, or data that do not fit.
        """
        if (path / PIPELINE).is_file():
            raise InputError(_of_pipeline(path))
        config, label = _config(path), f"{path.name}/{CONFIG}"
        name = str(config.get("_class_name"))[:60]
        if name not in MODELS:
            raise CapabilityError(
                f"{path.name} is a {name} of diffusers; klprobe runs {', '.join(MODELS)}, which encode images. If it is an "
                f"encoder, {BY_HAND}."
            )
        files = _weight_files(path)
        try:
            import diffusers
        except ImportError as error:
            raise CapabilityError(f"{path.name} needs diffusers: pip install 'klprobe[diffusers]'.") from error
        weights = _new_names({key: value for file in files for key, value in read_weights(file, request.limits).items()})
        _check_sizes(config, label)
        try:
            kind: Any = getattr(diffusers, name)
            known = inspect.signature(kind.__init__).parameters  # of others diffusers prints key and value
            asked = {key: value for key, value in config.items() if key in known}
            model: Any = sizes_of(lambda: kind.from_config(asked), len(weights), label)
        except InputError:
            raise
        except Exception as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{path.name} has a configuration that does not fit this diffusers ({said[:200]}).") from error
        fit(model, weights, path.name, name)
        model.to(request.device).eval()
        facts = {
            "format": "diffusers",
            "file": path.name,
            "sha256": {file.name: sha256(file) for file in (path / CONFIG, *files)},
            "model": name,
            "scaling_factor": config.get("scaling_factor"),
            "latent_channels": config.get("latent_channels"),
        }
        wants = f"images with {config.get('in_channels', 3)} channel(s), usually in [-1, 1] (--range=-1,1)"
        encode = _Encode(model, MODELS[name], request.device)
        notes = _notes(MODELS[name], config, files)
        if request.value_range is None:
            notes = (*notes, "diffusers' pipelines give images in [-1, 1]: if yours are in [0, 1], or bytes, say --range=-1,1")
        encoded = encode_data(Encoder(encode, path.name, wants), request, facts, notes)
        return _quantized(encoded, model, encode) if MODELS[name] == "codebook" else encoded


class _Encode:
    """The model's `encode` on points of shape (m, C, H, W), as tensors by name; `shape` is that of a point's latents."""

    def __init__(self, model: Any, kind: Kind, device: str) -> None:
        self.model, self.kind, self.device = model, kind, device
        self.shape: tuple[int, ...] = ()

    def __call__(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        (said,) = self.model.encode(x.to(self.device), return_dict=False)
        if self.kind == "gaussian":
            return {"mean": said.mean, "logvar": said.logvar}
        self.shape = tuple(said.shape[1:])
        return {"mean": said}


def _quantized(encoded: Encoded, model: Any, encode: _Encode) -> Encoded:
    """Find the entries of the codebook nearest to the encoder's latents, one for each place of (H, W)."""
    assert isinstance(encoded.posterior, SampleOnly)
    codes = []
    with torch.no_grad():
        for block in encoded.posterior.samples.float().split(POINTS_AT_ONCE):
            _, _, (_, _, entries) = model.quantize(block.reshape(-1, *encode.shape).to(encode.device))
            codes.append(entries.reshape(len(block), -1).cpu())
    return with_codebook(encoded, torch.cat(codes), int(model.quantize.n_e))


def _config(path: Path, file: str = CONFIG) -> dict[str, Any]:
    """The configuration of a folder.

    Raises:
        InputError: the file is not JSON, or not a configuration.
    """
    config = json_files.read(path / file, f"{path.name}/{file}")
    if not isinstance(config, dict):
        raise InputError(f"{path.name}/{file} is not a configuration: save the model with save_pretrained of diffusers.")
    return config


def _of_pipeline(path: Path) -> str:
    """Say which folder to give instead of a pipeline's."""
    inside = []
    for folder in sorted(path.iterdir()):
        if (folder / CONFIG).is_file() and _config(folder).get("_class_name") in MODELS:
            inside.append(str(folder))
    if inside:
        return f"{path.name} is a whole pipeline of diffusers: give its auto-encoder, --checkpoint {' or '.join(inside)}."
    return f"{path.name} is a whole pipeline of diffusers, without an auto-encoder that klprobe runs ({', '.join(MODELS)})."


def _weight_files(path: Path) -> list[Path]:
    """Find the files of weights: one by its usual name, else the shards of its index, else the only variant, such as fp16.

    Raises:
        InputError: none, or several variants.
    """
    for name in EXACT:
        if (path / name).is_file():
            return [path / name]
    if (path / SHARDS).is_file():
        listed = _config(path, SHARDS).get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        if not names or not all(SHARD.fullmatch(name) and (path / name).is_file() for name in names):
            raise InputError(f"{path.name}/{SHARDS} names files that are not beside it: copy the whole folder again.")
        return [path / name for name in names]
    variants = sorted(path.glob(f"{WEIGHTS}.*.safetensors")) or sorted(path.glob(f"{WEIGHTS}.*.bin"))
    if len(variants) > 1:
        raise InputError(
            f"{path.name} holds {' and '.join(file.name for file in variants[:4])}, and klprobe does not choose: rename the "
            f"one that is meant to {EXACT[0]}."
        )
    if not variants:
        raise InputError(f"{path.name} lacks {EXACT[0]}: save the model with save_pretrained(folder, safe_serialization=True).")
    return variants


def _new_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take weights in float32, and attention layers by the names that diffusers gives them since 0.15."""
    return {
        f"{match[1]}{NEW_NAME[match[2]]}{match[3]}" if (match := OLD_ATTENTION.fullmatch(name)) else name: tensor.float()
        for name, tensor in weights.items()
    }


def _check_sizes(config: Mapping[str, Any], label: str) -> None:
    """Raise InputError where any size in the configuration is larger than that of any real network."""
    for key, value in config.items():
        inside = value if isinstance(value, list) else [value]
        if any(type(one) is int and abs(one) > LARGEST_SIZE for one in inside):
            raise InputError(f"{label}: {key[:40]} is {repr(value)[:40]}, beyond every network: it is damaged.")


def _notes(kind: Kind, config: dict[str, Any], files: list[Path]) -> tuple[str, ...]:
    read = () if files[0].name in EXACT else (f"weights of {', '.join(file.name for file in files[:4])}, run in float32",)
    if kind != "gaussian":
        return (*read, YARDSTICK) if kind == "deterministic" else read
    scale = config.get("scaling_factor")
    if not isinstance(scale, int | float) or scale <= 0 or config.get("shift_factor"):
        return (*read, "latents as the encoder gives them, flattened from (C, H, W), without shift or scaling factor")
    return (
        *read,
        f"latents as the encoder gives them, flattened from (C, H, W); scaled by {scale:g} against N(0, I) they are these "
        f"against --prior normal:scale={1 / scale:.6g}",
    )
