"""Run the metrics on a trained system: hand each what its arguments name, beside it the same of real data."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch.distributions import Distribution

from klprobe import registry
from klprobe.checkpoint import Checkpoint
from klprobe.datasets._shared import Data
from klprobe.distributions import as_posterior, standard_normal
from klprobe.metrics._features import FeatureNet
from klprobe.metrics._shared import Features, Score
from klprobe.pictures import sample
from klprobe.report.document import NotDone
from klprobe.types import CapabilityError, InputError, Progress, no_progress

SAMPLED_AT_ONCE = 500
NOISE = 0.1
"""Standard deviation of the noise on test data that DMVI and AGAN set beside their diversity."""
Role = Literal["model", "real", "noisy"]
"""Whose samples a metric gets: the model's, real data's, or real data's with noise."""
ROLES: dict[Role, str] = {"model": "model", "real": "training", "noisy": "noisy"}
"""Where they come from, where the metric compares with held-out data."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What a metric says of the model, and of real data (or of the prior, for codes) in the model's place."""

    metric: str
    score: Score
    real: Score | None = None
    noisy: Score | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that the metrics found.

    Attributes:
        rows: One a quantity, in the order asked for.
        not_done: Metrics that could not be, and why.
        notes: What was changed or assumed about the images, in sentences.
        settings: Of every metric.
        seconds: By metric.
    """

    rows: tuple[Row, ...]
    not_done: tuple[NotDone, ...]
    notes: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]]
    seconds: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Trained:
    """A checkpoint as metrics ask it (`klprobe.metrics._shared.Model`), on its device; what comes out is on the CPU."""

    checkpoint: Checkpoint
    device: str = "cpu"

    @property
    def latent_dim(self) -> int:
        """D, the number of latents."""
        return int(self.checkpoint.algorithm.latent_dim)

    @property
    def prior(self) -> Distribution:
        """p(z), N(0, I) unless the system says otherwise."""
        return getattr(self.checkpoint.algorithm, "prior_distribution", None) or standard_normal(self.latent_dim)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Points of codes, differentiable, shape (m, *shape)."""
        self._has("decode", "no generator")
        return self.checkpoint.algorithm.decode(self.checkpoint.networks, z.float().to(self.device)).cpu()

    def posterior(self, x: torch.Tensor, seed: int = 0) -> Distribution:
        """q(z|x), batch shape (m,), event shape (D,)."""
        self._has("encode", "no encoder")
        noise = torch.Generator(self.device).manual_seed(seed)
        with torch.no_grad():
            return self.checkpoint.algorithm.encode(self.checkpoint.networks, x.to(self.device), noise)

    def draw(self, x: torch.Tensor, num: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes z ~ q(z|x), shape (num, m, D), and their log-densities, shape (num, m)."""
        q = as_posterior(self.posterior(x))
        if not q.has_log_prob:
            raise CapabilityError(f"the encoder of {self._system} gives samples and no density log q(z|x)")
        everyone = torch.arange(len(x))
        z = [q.sample_at(everyone, generator) for _ in range(num)]
        return torch.stack(z).cpu(), torch.stack([q.log_prob_at(codes, everyone) for codes in z]).cpu()

    @torch.no_grad()
    def log_likelihood(self, x: torch.Tensor, z: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """log p(x|z) of each pair in nats, shape (m,)."""
        self._has("log_likelihood", "no density p(x|z)")
        noise = torch.Generator(self.device).manual_seed(int(torch.randint(2**62, (), generator=generator)))
        x, z = x.to(self.device), z.float().to(self.device)
        return self.checkpoint.algorithm.log_likelihood(self.checkpoint.networks, x, z, noise).cpu()

    @property
    def _system(self) -> str:
        return str(self.checkpoint.settings["system"])

    def _has(self, method: str, lack: str) -> None:
        if not hasattr(self.checkpoint.algorithm, method):
            raise CapabilityError(f"{self._system} has {lack}")


class Evidence:
    """What metrics may look at, made when it is first asked for; the names are those of `klprobe.metrics`.

    Sets of points are equal in size: as many samples as held-out data as real data in the samples' place. For metrics of
    samples alone the latter are the held-out data; for those that compare with held-out data they are training data.

    Args:
        trained: The system.
        held_out, training: Data that it was not trained on, and that it was.
        dataset: Where they come from; `centres` and `std` are its.
        net: Feature net, or what makes it when a metric needs one.
        num_samples: Samples at most.
        seed: Of the samples and of the choice of data.
        cache: Folder for features.
        perceptual: Folder with the weights of `lpips`.
    """

    def __init__(
        self,
        trained: Trained,
        held_out: Data,
        training: Data,
        dataset: Any,
        net: Callable[[], FeatureNet],
        *,
        num_samples: int,
        seed: int = 0,
        cache: Path | None = None,
        perceptual: Path | None = None,
        progress: Progress = no_progress,
    ) -> None:
        self.trained, self.held_out, self.training, self.dataset, self._make_net = trained, held_out, training, dataset, net
        self.num = min(num_samples, len(held_out), len(training))
        self.seed, self.cache, self.perceptual_path, self.progress = seed, cache, perceptual, progress
        self.notes: dict[str, None] = {}
        self._features: dict[str, Features] = {}
        if self.num < 2:
            raise InputError(f"An evaluation needs at least 2 samples, and as many test and training data; got {self.num}.")

    @cached_property
    def net(self) -> FeatureNet:
        """The feature net."""
        return self._make_net()

    @cached_property
    def samples(self) -> torch.Tensor:
        """Of the model, on the CPU, shape (num, *shape)."""
        if not hasattr(self.trained.checkpoint.algorithm, "decode"):
            raise CapabilityError(f"{self.trained.checkpoint.settings['system']} has no generator")
        noise = torch.Generator(self.trained.device).manual_seed(self.seed)
        counts = [len(block) for block in torch.arange(self.num).split(SAMPLED_AT_ONCE)]
        checkpoint = self.trained.checkpoint
        made = torch.cat([sample(checkpoint.algorithm, checkpoint.networks, n, noise).cpu() for n in counts])
        if not made.isfinite().all():
            raise InputError("the system makes samples that are no finite numbers: it has diverged.")
        return made

    @cached_property
    def _held_out(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._some(self.held_out, "held out")

    @property
    def data(self) -> torch.Tensor:
        """Held out, shape (num, *shape), chosen at random."""
        return self._held_out[0]

    @cached_property
    def real(self) -> torch.Tensor:
        """Training data, as many."""
        return self._some(self.training, "training")[0]

    @cached_property
    def noisy(self) -> torch.Tensor:
        """Held-out data + N(0, 0.1), cut off at the ends of [0, 1]."""
        noise = torch.randn(self.data.shape, generator=generator_of(self.seed, "noise"))
        return (self.data + NOISE * noise).clamp(0, 1)

    def give(self, name: str, role: Role, metric: str, wanted: Sequence[str]) -> Any:
        """The argument of that name.

        Raises:
            CapabilityError: it cannot be had from this system or data.
        """
        compares = any(argument.startswith("data") for argument in wanted)
        if name in ("samples", "sample_features", "data", "data_features"):
            which = "held out" if name.startswith("data") or (role == "real" and not compares) else ROLES[role]
            return self._look(which) if name.endswith("features") else self._points(which)
        if name in ("codes", "means"):
            codes, means = self._prior_codes() if role == "real" else self._codes
            return codes if name == "codes" else means
        if name == "generator":
            return generator_of(self.seed, metric)
        if name == "progress":
            return self.progress
        if name == "model":
            return self.trained
        if name in ("centres", "std"):
            if not hasattr(self.dataset, name):
                raise CapabilityError(f"the modes of {self.held_out.name} are not known; those of ring and grid are")
            return getattr(self.dataset, name)
        if name == "perceptual":
            if self.perceptual_path is None:
                raise CapabilityError("needs AlexNet's weights and those of LPIPS: give --lpips-weights their folder")
            return self.perceptual_path
        if name == "sample_labels":
            raise CapabilityError("no system here makes samples of a class that is asked for; the library takes their labels")
        raise InputError(f"{metric} asks for {name!r}, which klprobe.evaluation does not know.")

    def _points(self, which: str) -> torch.Tensor:
        sets = {"held out": lambda: self.data, "training": lambda: self.real, "noisy": lambda: self.noisy}
        return sets.get(which, lambda: self.samples)()

    def _some(self, data: Data, which: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Points and their labels."""
        chosen = torch.randperm(len(data), generator=generator_of(self.seed, which))[: self.num].sort().values
        return data.floats(chosen).cpu(), None if data.labels is None else data.labels[chosen.to(data.labels.device)].cpu()

    def _look(self, which: str) -> Features:
        """Features of points, looked at once; how good a classifier is at held-out data is said."""
        if which not in self._features:
            found, notes = self.net.features(self._points(which), self.cache, self.progress)
            self._features[which] = found
            self.notes |= dict.fromkeys(notes)
            _, labels = self._held_out
            if which == "held out" and found.logits is not None and labels is not None and self.net.own:
                right = float((found.logits.argmax(1) == labels).double().mean())
                self.notes[f"{found.net} is right about {100 * right:.1f} % of the held-out data"] = None
        return self._features[which]

    def _prior_codes(self) -> tuple[torch.Tensor, None]:
        noise = torch.Generator(self.trained.device).manual_seed(self.seed)
        return self.trained.checkpoint.algorithm.prior(self.num, noise).double().cpu(), None

    @cached_property
    def _codes(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One draw of q(z|x) a held-out point, and the means of q(z|x) where they are known."""
        rng, codes, means = generator_of(self.seed, "codes"), [], []
        for block in self.data.tensor_split(-(-len(self.data) // SAMPLED_AT_ONCE)):
            q = as_posterior(self.trained.posterior(block, self.seed))
            codes.append(q.sample_at(torch.arange(len(block)), rng).cpu())
            with contextlib.suppress(NotImplementedError, AttributeError):
                means.append(q.mean.cpu())
        return torch.cat(codes), torch.cat(means) if len(means) == len(codes) else None


def evaluate(
    metrics: Mapping[str, Any], evidence: Evidence, begin: Callable[[str], Progress] = lambda _: no_progress
) -> Evaluation:
    """Every metric on the model, and on real data where that has a meaning; what cannot be is named with its reason.

    Args:
        metrics: Configured metrics by name.
        evidence: What they look at.
        begin: Called with a metric's name, gives the receiver of its progress.
    """
    rows: list[Row] = []
    not_done, seconds = [], {}
    for name, metric in metrics.items():
        evidence.progress, started = begin(name), time.perf_counter()
        try:
            with _threads_for(evidence):
                rows += _rows(name, metric, evidence)
        except InputError as error:
            not_done.append(NotDone(name, str(error)))
        seconds[name] = time.perf_counter() - started
    settings = {name: dataclasses.asdict(metric) for name, metric in metrics.items()}
    return Evaluation(tuple(rows), tuple(not_done), tuple(evidence.notes), settings, seconds)


def _rows(name: str, metric: Any, evidence: Evidence) -> list[Row]:
    wanted = list(inspect.signature(metric.measure).parameters)
    found: dict[Role, tuple[Score, ...]] = {}
    for role in _roles(wanted):
        arguments = {argument: evidence.give(argument, role, name, wanted) for argument in wanted}
        found[role] = metric.measure(**arguments)
    rows = []
    for i, score in enumerate(found["model"]):
        real, noisy = (found[role][i] if role in found else None for role in ("real", "noisy"))
        rows.append(Row(name, score, real, noisy))
    return rows


@contextlib.contextmanager
def _threads_for(evidence: Evidence) -> Iterator[None]:
    """One torch thread for vectors, whose networks' products are too small to share; images have convolutions."""
    before = torch.get_num_threads()
    if len(evidence.held_out.shape) == 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _roles(wanted: Sequence[str]) -> tuple[Role, ...]:
    """In whose place others make sense: samples have real data, codes the prior; noise is for images alone."""
    if not {"samples", "sample_features", "codes"} & set(wanted):
        return ("model",)
    if "samples" in wanted and not {"data", "centres"} & set(wanted):
        return ("model", "real", "noisy")
    return ("model", "real")


def generator_of(seed: int, name: str) -> torch.Generator:
    """A generator that depends on the seed and the name alone: no metric's numbers change with its company."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)


def choose(names: Sequence[str]) -> dict[str, Any]:
    """Metrics by name, with their default settings; "all" stands for every one.

    Raises:
        InputError: no name, or an unknown one.
    """
    if not names:
        raise InputError(f"No metric was named; known: all, {', '.join(registry.names('metrics'))}.")
    wanted = [n for name in names for n in (registry.names("metrics") if name == "all" else [name.replace("_", "-")])]
    return {name: registry.load("metrics", name)() for name in dict.fromkeys(wanted)}
