"""A model folder that pythae saved (extra `[pythae]`): configuration as JSON, weights, and the default architecture by name.

Of the folder, only tensors and JSON are read; a custom encoder is a pickle there, and is left closed. What q(z|x) and p(z) are
stands in `MODELS`, a row for each class of pythae; a class without a row is refused, since nobody has looked at it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.distributions import Independent, Normal, TransformedDistribution

from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.distributions.priors import mixture
from klprobe.distributions.pushed import InverseAutoregressive, Planar, Radial, VectorMap
from klprobe.files import json_files
from klprobe.files.construction import LARGEST_SIZE, sizes_of
from klprobe.files.weights import fit, read_weights
from klprobe.formats import Encoded, Request, refuse_flags, sha256
from klprobe.formats._codes import with_codebook
from klprobe.formats._encode import POINTS_AT_ONCE, Encoder, encode_data
from klprobe.types import CapabilityError, InputError

__all__ = ["Pythae"]

Kind = Literal["gaussian", "deterministic", "vamp", "iaf", "planar-radial", "codebook"]
GAUSSIAN = (
    "VAE BetaVAE BetaTCVAE DisentangledBetaVAE FactorVAE INFOVAE_MMD IWAE CIWAE MIWAE PIWAE MSSSIM_VAE VAEGAN Adversarial_AE"
)
MODELS: dict[str, Kind] = {
    **dict.fromkeys(GAUSSIAN.split(), "gaussian"),
    **dict.fromkeys(("AE", "WAE_MMD", "RAE_L2", "RAE_GP"), "deterministic"),
    "VAMP": "vamp",
    "VAE_IAF": "iaf",
    "VAE_LinNF": "planar-radial",
    "VQVAE": "codebook",
}
PARTS: dict[Kind, tuple[str, ...]] = {
    "vamp": ("pseudo_inputs",),
    "iaf": ("iaf_flow",),
    "planar-radial": ("net",),
    "codebook": ("quantizer",),
}
"""What of a model is needed beside its encoder."""
HAMILTONIAN = "whose codes are moved by Hamiltonian steps after its encoder's Gaussian is drawn, and have no density"
REFUSED = {
    "HVAE": HAMILTONIAN,
    "RHVAE": HAMILTONIAN,
    "SVAE": "whose q(z|x) is a von Mises-Fisher distribution on a sphere; its prior is --prior sphere",
    "PoincareVAE": "whose q(z|x) and p(z) live in a Poincare ball; draw p(z) too, and give it as --prior samples:FILE",
}
BY_HAND = "draw its codes yourself and save them, numpy.savez('posterior.npz', samples=model.embed(x).detach())"
WITHOUT_PRIOR = ("AE", "RAE_L2", "RAE_GP")
CONFIG, WEIGHTS = "model_config.json", "model.pt"
NAME = re.compile(r"[A-Z][A-Za-z0-9_]{0,39}")
"""Pattern of the name of a class of pythae.models."""


@dataclass(frozen=True)
class Pythae:
    """A folder that a pythae model saved: model_config.json and model.pt, pip install 'klprobe[pythae]'; needs --data."""

    def matches(self, path: Path) -> bool:
        """Whether the folder holds pythae's configuration and weights."""
        return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()

    def load(self, path: Path, request: Request) -> Encoded:
        """Build the default architecture, load the weights, and run its encoder in eval mode.

        A VAMP comes with its own prior, the mixture of its pseudo-inputs' posteriors; VAE_IAF and VAE_LinNF with the density
        of their flow.

        Raises:
            CapabilityError: pythae is not installed, or a posterior that klprobe cannot compute.
            InputError: a custom encoder, an unknown model, damaged files, data that do not fit, a flow that is not one to one.
        """
        refuse_flags(request, ("outputs",), f"{path.name} is pythae's, which says what its encoder returns")
        settings = _settings(path)
        name, kind = _kind(path, settings)
        weights = read_weights(path / WEIGHTS, request.limits)
        model, config = _build(path, name, settings, len(weights))
        parts = nn.ModuleDict({part: model.get_submodule(part) for part in ("encoder", *PARTS.get(kind, ()))})
        fit(parts, weights, path.name, name)
        parts.to(request.device, torch.float32).eval()
        facts = {
            "format": "pythae",
            "file": path.name,
            "sha256": {file: sha256(path / file) for file in (CONFIG, WEIGHTS)},
            "model": name,
            "latent_dim": config.latent_dim,
        }
        wants = f"points of shape {tuple(config.input_dim)}"
        means_alone = kind in ("deterministic", "codebook") or getattr(config, "deterministic_posterior", False) is True

        def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
            said = parts["encoder"](x.to(request.device))
            return {"mean": said.embedding} if means_alone else {"mean": said.embedding, "logvar": said.log_covariance}

        asked = dataclasses.replace(request, outputs="mean" if means_alone else "mean,logvar")
        encoded = encode_data(Encoder(run, path.name, wants), asked, facts, _notes(name, means_alone))
        if kind == "codebook":
            return _quantized(encoded, parts["quantizer"], request.device)
        if kind == "vamp":
            return _with_vampprior(encoded, parts, tuple(config.input_dim), run)
        return encoded if kind in ("gaussian", "deterministic") else _pushed(encoded, _maps(path.name, kind, parts), name)


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


def _kind(path: Path, settings: dict[str, Any]) -> tuple[str, Kind]:
    """Find the model's class, and what its posterior is.

    Raises:
        CapabilityError: a posterior that klprobe cannot compute.
        InputError: an unknown class, or an encoder of its own, which is a pickle.
    """
    said = settings["name"]
    name = next((n for n in (said.removesuffix("_Config"), said.removesuffix("Config")) if n in (*MODELS, *REFUSED)), None)
    if name is None:
        raise InputError(
            f"{path.name} is a {said.removesuffix('Config')[:40]!r}, whose q(z|x) and p(z) klprobe does not know: it "
            f"knows {', '.join(MODELS)}. If q(z|x) is a Gaussian, save mean and logvar, else {BY_HAND}."
        )
    if name in REFUSED:
        raise CapabilityError(f"{path.name} is a {name}, {REFUSED[name]}: {BY_HAND}.")
    kind = MODELS[name]
    if settings.get("uses_default_encoder") is not True:
        way = f"give --checkpoint {path / WEIGHTS} --encoder package.module:factory"
        if kind == "vamp":
            way += (
                " --prior vampprior:pseudo.npy, its own prior, after numpy.save('pseudo.npy', "
                "model.pseudo_inputs(model.idle_input).detach().reshape(-1, *model.model_config.input_dim))"
            )
        elif kind in ("iaf", "planar-radial"):
            way = f"with a flow behind it, {BY_HAND}"
        elif kind == "codebook":
            way = (
                "save the entries that points have, numpy.savez('codes.npz', codes=model({'data': x}).quantized_indices, "
                "codebook_size=model.quantizer.num_embeddings)"
            )
        raise InputError(
            f"{path.name} has an encoder of its own, which pythae stores as a pickle, and klprobe never unpickles: {way}."
        )
    return name, kind


def _build(path: Path, name: str, settings: dict[str, Any], held: int) -> tuple[nn.Module, Any]:
    """Build a model of that configuration, as shapes without memory, and the configuration as pythae understands it."""
    try:
        import pythae.models
    except ImportError as error:
        raise CapabilityError(f"{path.name} needs pythae: pip install 'klprobe[pythae]'.") from error
    kind: Any = getattr(pythae.models, name, None)
    config: Any = getattr(pythae.models, settings["name"], None)
    if not (_is_a(kind, pythae.models.BaseAE) and _is_a(config, pythae.models.BaseAEConfig)):
        raise InputError(f"{path.name} is a {name[:40]!r}, which pythae {getattr(pythae, '__version__', '')} does not know.")
    try:
        understood = config(**{key: value for key, value in settings.items() if key != "name"})
        sizes = understood.input_dim
        if not sizes or not all(type(size) is int and 0 < size <= LARGEST_SIZE for size in (*sizes, understood.latent_dim)):
            raise ValueError(f"input_dim is {sizes} and latent_dim {understood.latent_dim}")
        model: nn.Module = sizes_of(lambda: kind(understood), held, f"{path.name}/{CONFIG}")
    except InputError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"{path.name}/{CONFIG} does not fit this pythae ({said}).") from error
    return model, understood


def _is_a(kind: Any, base: type) -> bool:
    return isinstance(kind, type) and issubclass(kind, base)


def _notes(name: str, means_alone: bool) -> tuple[str, ...]:
    if name in WITHOUT_PRIOR:
        return (f"{name} is trained without a prior, so N(0, I) is a yardstick and nothing that its codes were held to",)
    if means_alone and name == "Adversarial_AE":
        return ("deterministic_posterior: its codes are the means, and the spread that its encoder also gives is not used",)
    return ()


def _with_vampprior(encoded: Encoded, parts: nn.ModuleDict, shape: tuple[int, ...], run: Any) -> Encoded:
    """Add the model's own prior, the mixture of the posteriors of its pseudo-inputs."""
    with torch.no_grad():
        first: Any = parts["pseudo_inputs"].get_submodule("0")
        count = first.in_features
        x = parts["pseudo_inputs"](torch.eye(count, device=first.weight.device)).reshape(count, *shape)
        said = {role: tensor.cpu() for role, tensor in run(x).items()}
    if not all(bool(tensor.isfinite().all()) for tensor in said.values()):
        raise InputError(
            f"{encoded.provenance['file']}: the posteriors of its pseudo-inputs are NaN or infinite: it is damaged."
        )
    prior = mixture(DiagonalGaussian(said["mean"], logvar=said["logvar"]))
    what = f"its VampPrior, the mixture of the posteriors of {count:,} pseudo-inputs"
    return dataclasses.replace(encoded, prior=prior, prior_name=what)


def _quantized(encoded: Encoded, quantizer: Any, device: str) -> Encoded:
    """Find the entries of the codebook nearest to the encoder's latents, each of which is a place."""
    assert isinstance(encoded.posterior, SampleOnly)
    with torch.no_grad():
        blocks = encoded.posterior.samples.float().split(POINTS_AT_ONCE)
        codes = [quantizer(z[:, None, :, None].to(device)).quantized_indices.flatten(1).cpu() for z in blocks]
    return with_codebook(encoded, torch.cat(codes), int(quantizer.num_embeddings))


def _pushed(encoded: Encoded, maps: list[VectorMap], name: str) -> Encoded:
    """Take the encoder's Gaussian through the model's flow."""
    assert isinstance(encoded.posterior, DiagonalGaussian)
    mean, std = encoded.posterior.rows(slice(None))
    base = Independent(Normal(mean, std, validate_args=False), 1)
    note = f"{name}: q(z|x) is the encoder's Gaussian after {len(maps)} maps of its flow, with their exact densities"
    posterior = TransformedDistribution(base, [*maps], validate_args=False)
    return dataclasses.replace(encoded, posterior=posterior, notes=(*encoded.notes, note))


def _maps(label: str, kind: Kind, parts: nn.ModuleDict) -> list[VectorMap]:
    """Build the model's flow, from the encoder's draw to the code, in float64."""
    (part,) = PARTS[kind]
    flow: Any = parts[part].cpu().double()
    if kind == "iaf":
        return [InverseAutoregressive(_made(made)) for made in reversed(flow.net)]
    try:
        return [_planar_or_radial(layer) for layer in flow]
    except InputError as error:
        raise InputError(f"{label}: {error}: its q(z|x) has no density; {BY_HAND}.") from error


def _made(made: Any) -> Any:
    def shift_and_log_scale(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        said = made(x)
        return said.mu, said.log_var

    return shift_and_log_scale


def _planar_or_radial(layer: Any) -> VectorMap:
    """Build one map as pythae parametrises it: a radial map's beta is softplus(b) - alpha."""
    held = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    if "u" in held:
        return Planar(held["w"][0], held["u"][0], held["b"][0])
    alpha = held["log_alpha"][0].exp()
    return Radial(held["x0"][0], alpha, nn.functional.softplus(held["beta"][0]) - alpha)
