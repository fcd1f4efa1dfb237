"""The evidence that metrics may use: samples, data, features, codes, and the trained system itself."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from klprobe.distributions.posteriors import ConditionalDistribution
from klprobe.evaluation.feature_net import UNIT, FeatureNet, range_note, to_unit, unit_range
from klprobe.evaluation.samples import SamplesAlone, as_data_are
from klprobe.files.images import has_picture
from klprobe.metrics import Features
from klprobe.training.data import Data
from klprobe.training.trained import TrainedSystem
from klprobe.types import CapabilityError, InputError, Progress, no_progress

SAMPLED_AT_ONCE = 500
NOISE = 0.1
"""Standard deviation of the noise on test data that DMVI and AGAN set beside their diversity."""
Role = Literal["model", "real", "noisy"]
"""Origin of the samples that a metric gets: the model, real data, or real data with noise."""


class Evidence:
    """The evidence that metrics may use, made when it is first needed; the names are those of `klprobe.metrics`.

    Sets of points are equal in size: as many samples as held-out data as real data in the samples' place. For metrics of
    samples alone the latter are the held-out data; for those that compare with held-out data they are training data.

    Args:
        system: System that is measured, or samples alone.
        held_out, training: Data that it was not trained on, and that it was; None where no data are set apart, so
            that nothing can take the samples' place where a metric compares with held-out data.
        dataset: Data set that they come from, which may know `centres` and `std`.
        net: Feature net, or a function that makes it when a metric needs one.
        num_samples: Largest number of samples.
        seed: Seed of the samples and of the choice of data.
        cache: Folder for features.
        perceptual: Folder with the weights of `lpips`.
        validation: Function that returns further data that it was not trained on, where there are any.
    """

    def __init__(
        self,
        system: TrainedSystem | SamplesAlone,
        held_out: Data,
        training: Data | None,
        dataset: Any,
        net: Callable[[], FeatureNet],
        *,
        num_samples: int,
        seed: int = 0,
        cache: Path | None = None,
        perceptual: Path | None = None,
        validation: Callable[[], Data] | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.given = system if isinstance(system, SamplesAlone) else None
        self.system: Any = system
        self.held_out, self.dataset, self._make_net = held_out, dataset, net
        self.compares_real, self.training = training is not None, held_out if training is None else training
        there = len(self.given.given) if self.given else num_samples
        self.num = min(num_samples, len(held_out), len(self.training), there)
        self.seed, self.cache, self.perceptual, self.progress = seed, cache, perceptual, progress
        self._validation = validation
        self.notes: dict[str, None] = {}
        self._features: dict[str, Features] = {}
        if self.num < 2:
            raise InputError(
                f"An evaluation needs at least 2 samples, and at least as many test data and training data; got {self.num}."
            )

    @cached_property
    def net(self) -> FeatureNet:
        """The feature net."""
        return self._make_net()

    @cached_property
    def samples(self) -> torch.Tensor:
        """Samples of the model, on the scale of the data, shape (num, *shape); values beyond the pixel range are cut off."""
        made = self._made()
        if not made.isfinite().all():
            raise InputError("the system makes samples that are not finite numbers, so it has diverged: train it again.")
        if self.pixels is None:
            return made
        low, high = self.pixels
        outside = float(((made < low) | (made > high)).double().mean())
        if outside:
            said = f"{100 * outside:.1f} % of the samples' values lay outside of [{low:g}, {high:g}]"
            said += f", between {float(made.min()):.3g} and {float(made.max()):.3g}"
            self.notes[f"{said}: cut off at its ends"] = None
        return made.clamp(low, high)

    def _made(self) -> torch.Tensor:
        """The samples before they are looked at."""
        if self.given:
            made, notes = as_data_are(self.given.some(self.num, generator_of(self.seed, "samples")), self.data)
            self.notes |= dict.fromkeys(notes)
            return made
        rng = torch.Generator(self.system.device).manual_seed(self.seed)
        return torch.cat([self.system.sample(n, generator=rng) for n in self._counts])

    @cached_property
    def pixels(self) -> tuple[float, float] | None:
        """Range of the data's pixels, by the values of held-out data; None for points that are not images, or of unknown range.

        Vectors that fill a square are images where they lie in [0, 1].
        """
        if len(self.held_out.shape) != 3:
            return UNIT if has_picture(self.held_out.shape) and self.held_out.shape != (2,) and _in_unit(self.data) else None
        try:
            found = unit_range(self.data)
        except InputError as error:
            self.notes[str(error).rstrip(".")] = None
            return None
        if found != UNIT:
            self.notes[range_note(found)] = None
        return found

    def unit(self, x: torch.Tensor) -> torch.Tensor:
        """Points on the data's scale, images brought to [0, 1]."""
        return x if self.pixels in (None, UNIT) else to_unit(x, self.pixels)

    @property
    def _counts(self) -> list[int]:
        """Numbers of samples that are made at once."""
        return [len(block) for block in torch.arange(self.num).split(SAMPLED_AT_ONCE)]

    @cached_property
    def _held_out(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._some(self.held_out, "held out")

    @property
    def data(self) -> torch.Tensor:
        """Held-out data, shape (num, *shape), chosen at random."""
        return self._held_out[0]

    @property
    def labels(self) -> torch.Tensor | None:
        """Labels of the held-out data, shape (num,), where they have labels."""
        return self._held_out[1]

    @cached_property
    def real(self) -> torch.Tensor:
        """Training data, of the same number."""
        return self._some(self.training, "training")[0]

    @cached_property
    def noisy(self) -> torch.Tensor:
        """Held-out data + N(0, 0.1) on the scale of [0, 1], cut off at its ends."""
        noise = torch.randn(self.data.shape, generator=generator_of(self.seed, "noise"))
        low, high = self.pixels or UNIT
        return (self.data + (high - low) * NOISE * noise).clamp(low, high)

    def give(self, name: str, role: Role, metric: str, compares: bool) -> Any:
        """Return the argument of that name.

        Args:
            name: The name of an argument of a metric's `measure`.
            role: The source that samples, and codes, come from.
            metric: The name of the metric that asks.
            compares: Whether the metric compares with held-out data.
        Raises:
            CapabilityError: this system or these data do not have it.
        """
        source = "held out" if role == "real" and not compares else role
        known: dict[str, Callable[[], Any]] = {
            "samples": lambda: self._points(source) if compares else self.unit(self._points(source)),
            "sample_features": lambda: self._look(source),
            "data": lambda: self.data,
            "data_features": lambda: self._look("held out"),
            "validation": self._validation_points,
            "data_labels": lambda: self.labels if self.system.conditional else None,
            "codes": lambda: self._prior_codes(self.seed) if role == "real" else self._codes[0],
            "prior_codes": lambda: self._prior_codes(generator_of(self.seed, "prior codes").initial_seed()),
            "means": lambda: None if role == "real" else self._codes[1],
            "generator": lambda: generator_of(self.seed, metric),
            "progress": lambda: self.progress,
            "model": self._model,
            "centres": lambda: self._of_modes(self.dataset.centres),
            "std": lambda: self._of_modes(self.dataset.std),
            "perceptual": self._perceptual,
            "own_logits": self._own_logits,
            "held_out_labels": self._held_out_labels,
            "sample_labels": lambda: self._sample_labels(source),
        }
        if name not in known:
            raise InputError(f"{metric} asks for {name!r}, which klprobe.evaluation.evidence does not know.")
        return known[name]()

    def _model(self) -> Any:
        """The trained system, for metrics that ask it more than samples."""
        if self.given:
            self.given.need("its encoder or decoder")
        return self.system

    def _of_modes(self, known: Any) -> Any:
        if known is None:
            raise CapabilityError(f"the modes of {self.held_out.name} are not known; those of ring and grid are")
        return known

    def _perceptual(self) -> Path:
        if self.perceptual is None:
            raise CapabilityError("needs the weights of AlexNet and of LPIPS: give their folder with --lpips-weights")
        return self.perceptual

    def _sample_labels(self, source: str) -> torch.Tensor:
        """Classes that samples were drawn for, or those of the data in the samples' place."""
        self.system.need("labels")
        if source == "model":
            return torch.cat([torch.arange(n) % self.system.classes for n in self._counts])
        return self._held_out_labels()

    def _held_out_labels(self) -> torch.Tensor:
        if self.labels is None:
            raise CapabilityError(f"{self.held_out.name} has no labels")
        return self.labels

    def _own_logits(self) -> torch.Tensor:
        """Logits, for the held-out data, of the classifier that a system learned beside its codes."""
        if self.given:
            self.given.need("its classifier")
        return torch.cat([self.system.classify(x) for x in self.data.split(SAMPLED_AT_ONCE)])

    def _points(self, source: str) -> torch.Tensor:
        """Points from one source: samples of the model, held-out data, real (training) data, or noisy data."""
        if source == "model":
            return self.samples
        return {"held out": lambda: self.data, "real": lambda: self.real, "noisy": lambda: self.noisy}[source]()

    def _validation_points(self) -> torch.Tensor | None:
        return None if self._validation is None else self._some(self._validation(), "validation")[0]

    def _some(self, data: Data, which: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Points and their labels."""
        chosen = torch.randperm(len(data), generator=generator_of(self.seed, which))[: self.num].sort().values
        return data.floats(chosen).cpu(), None if data.labels is None else data.labels[chosen.to(data.labels.device)].cpu()

    def _look(self, source: str) -> Features:
        """Features of points, computed once; a note says how accurate the net is on held-out data."""
        if source not in self._features:
            points = self._points(source)
            ready = points if self.net.value_range is None else self.unit(points)
            found, notes = self.net.features(ready, self.cache, self.progress)
            self._features[source] = found
            self.notes |= dict.fromkeys(notes)
            _, labels = self._held_out
            if source == "held out" and found.logits is not None and labels is not None and self.net.own:
                right = float((found.logits.argmax(1) == labels).double().mean())
                self.notes[f"{found.net} is right about {100 * right:.1f} % of the held-out data"] = None
        return self._features[source]

    def _prior_codes(self, seed: int) -> torch.Tensor:
        """Draws of the prior, of the same number."""
        if self.given:
            self.given.need("its prior")
        return self.system.sample_prior(self.num, torch.Generator(self.system.device).manual_seed(seed)).double()

    @cached_property
    def posterior(self) -> ConditionalDistribution:
        """Posterior q(z|x) of the held-out data."""
        if self.given:
            self.given.need("its encoder")
        return self.system.encode(self.data, self.labels if self.system.conditional else None)

    @cached_property
    def _codes(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One draw of q(z|x) for each held-out point, and the means of q(z|x) where they are known."""
        codes = self.posterior.sample_at(torch.arange(self.num), generator_of(self.seed, "codes")).cpu()
        try:
            return codes, self.posterior.mean.cpu()
        except NotImplementedError:
            return codes, None


def _in_unit(x: torch.Tensor) -> bool:
    return float(x.min()) >= 0 and float(x.max()) <= 1


def generator_of(seed: int, name: str) -> torch.Generator:
    """Make a generator that depends on the seed and the name alone, so that metrics do not change each other's numbers."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)
