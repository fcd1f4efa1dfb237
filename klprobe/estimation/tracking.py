"""`klprobe.track`: the report's main numbers in a second or two, as a flat dictionary for any logger."""

from __future__ import annotations

import contextlib
import inspect
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.distributions import Distribution

from klprobe.distributions.posteriors import DiagonalGaussian, as_posterior, standard_normal
from klprobe.estimation.run import capabilities, choose_methods, estimate
from klprobe.estimators.closed_form import ClosedForm
from klprobe.estimators.gmm import Gmm
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.files.arguments import Arguments, Batch, arguments_of, called, check_alone, each, matched
from klprobe.formats import Request
from klprobe.formats._encode import Encoder, Found, encode_points
from klprobe.runtime.named_rows import in_object
from klprobe.types import Estimator, InputError, Quantity, Side

QUICK: tuple[Estimator, ...] = (
    ClosedForm(),
    MonteCarlo(num_samples=4000),
    Gmm(components=10, em_iterations=10, steps=300, num_samples=10_000),
)
"""About a second and a half for 10,000 points of 32 latents; the mixture gives the lower bound of the population's KL."""
VERDICTS = {"resolved": 0.0, "floor-limited": 1.0, "methods-disagree": 2.0, "impossible": 3.0}
"""The verdict as a number; from 2 on, the other numbers cannot be trusted."""


def track(
    encoder: Distribution | Callable[[torch.Tensor], Any],
    data: Any = None,
    *,
    prior: Distribution | None = None,
    outputs: str | None = None,
    inputs: str | None = None,
    num_points: int = 10_000,
    batch_size: int = 500,
    device: torch.device | str | None = None,
    methods: Sequence[str | Estimator] = QUICK,
    seed: int = 0,
) -> dict[str, float]:
    """Measure what a training run should log about KL[q(z)||p(z)], in nats, between two epochs.

    Points and random numbers are the same every time, so that only the encoder moves the curves. Networks are put into eval
    mode and come back as they were, module by module; no gradients are computed, and no global random state changes.

    Args:
        encoder: A network, one of its methods, or a function, from a batch of data to a Distribution, to (mean, logvar), or
            to named outputs; or the posterior itself, a Distribution of batch shape (N,), and then no data. If a function
            does not name its networks, for instance when they are in a list, put them into eval mode yourself.
        data: A tensor or array of N points, a dictionary of arrays, a Dataset, or a DataLoader, whose Dataset is used; where
            items are tuples, their first entry, unless `inputs` says more. Population bounds need data that the encoder was
            not trained on.
        prior: Distribution with event shape (D,), on the CPU; None means the prior that the encoder returns
            beside the posterior, else N(0, I).
        outputs: What the encoder returns, as `mean,logvar`, `mean,std` or `_,mean,logvar` (`_` is ignored). None means by
            their names, or else by their values, which may become unclear while an encoder changes; name them in a long run.
        inputs: Which array, or part of the items, each argument of the encoder gets, as `x=images,y=labels`; parts of tuples
            are called 0, 1, ...: `x=0,y=1`. None gives it the data alone.
        num_points: Largest number of points, chosen by `seed` and N alone. They bound mutual information by log N.
        batch_size: Number of points encoded at a time.
        device: Device that points are moved to for encoding; None means that of the networks.
        methods: Methods as in `klprobe.estimate`; those that the posterior does not allow are left out.
        seed: Seed of all random numbers.

    Returns:
        average_kl, mutual_information, log_n, and for target in empirical, population: target_lower, target_upper (the
        bracket) and target_lower_error, target_upper_error (their standard errors); active_units; verdict, a number by
        `klprobe.tracking.VERDICTS` (0 resolved, 1 floor-limited, 2 methods-disagree, 3 impossible); not_done, how many
        methods failed; seconds. The keys are always these; what is not known is NaN.

    Raises:
        InputError: the encoder cannot run on these data, or its outputs cannot be read or hold NaN.

    Example:
        >>> logger.log_metrics(klprobe.track(model.encode, validation_set, outputs="mean,logvar"), step=epoch)
    """
    started = time.perf_counter()
    if isinstance(encoder, Distribution):
        posterior = _some_points(encoder, num_points, seed)
    else:
        found = _encode(encoder, data, Request(outputs=outputs, inputs=inputs), num_points, batch_size, device, seed)
        posterior = found.posterior
        if prior is None and found.no_prior:
            raise InputError(
                f"The encoder returns something of a prior of its own, and it cannot be used: {found.no_prior}. Give "
                "prior=klprobe.standard_normal(D), or another."
            )
        prior = found.prior if prior is None else prior
    q = as_posterior(posterior)
    prior = standard_normal(q.dim) if prior is None else prior
    able = capabilities(q, prior)
    # a validation epoch may run without gradients, but fitting the mixture needs them
    with torch.inference_mode(False), torch.enable_grad():
        chosen = [method for _, method in choose_methods(methods, q, prior) if method.requires <= able]
        report = estimate(posterior, prior, methods=chosen, seed=seed, marginals=False)
    numbers = {
        "average_kl": report.average_kl.value,
        "mutual_information": report.mutual_information.value,
        "log_n": report.log_n,
        **_bracket_ends("empirical", report.brackets["empirical"].lower, report.brackets["empirical"].upper),
        **_bracket_ends("population", report.brackets["population"].lower, report.brackets["population"].upper),
        "active_units": report.active_units,
        "verdict": VERDICTS[report.verdict],
        "not_done": len(report.not_done),
        "seconds": time.perf_counter() - started,
    }
    return {name: math.nan if value is None else float(value) for name, value in numbers.items()}


def _bracket_ends(target: str, lower: Side, upper: Side) -> dict[str, float | None]:
    ends: dict[str, Side | Quantity] = {f"{target}_lower": lower, f"{target}_upper": upper}
    return {name + what: value for name, end in ends.items() for what, value in (("", end.value), ("_error", end.std_error))}


def _fixed(total: int, num_points: int, seed: int) -> torch.Tensor:
    """Choose points of `total`, in order, as a function of the three numbers alone."""
    if num_points < 2:
        raise InputError(f"An aggregate posterior needs at least 2 data points; got num_points = {num_points}.")
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:num_points].sort().values


def _some_points(posterior: Distribution, num_points: int, seed: int) -> Distribution:
    """Select the posterior of the fixed points, on the CPU, without its graph."""
    with torch.no_grad():
        q = as_posterior(posterior)
        if isinstance(q, DiagonalGaussian):
            q = q.to("cpu")
        return q if q.num_points <= num_points else q.select(_fixed(q.num_points, num_points, seed))  # type: ignore[return-value]


def _encode(
    encoder: Callable[[torch.Tensor], Any],
    data: Any,
    request: Request,
    num_points: int,
    batch_size: int,
    device: torch.device | str | None,
    seed: int,
) -> Found:
    """Encode the fixed points of the data."""
    if not callable(encoder):
        raise TypeError(f"Give an encoder that can be called, or a posterior, a Distribution; got {type(encoder).__name__}.")
    networks = _networks_of(encoder)
    weight = next((p for network in networks for p in network.parameters()), None)
    to = torch.device(device or (weight.device if weight is not None else "cpu"))
    kind = weight.dtype if weight is not None else torch.get_default_dtype()

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x.to(to, kind) if x.is_floating_point() else x.to(to)

    def run(x: Batch) -> Any:
        return called(encoder, each(x, moved))

    label = getattr(encoder, "__qualname__", type(encoder).__name__)
    with _eval_mode(networks), _random_state_kept(to, seed):
        points = _Points(data, num_points, seed, _Taking(label, arguments_of(encoder), request.inputs))
        return encode_points(Encoder(run, label, batch_size=batch_size), points, request)


def _networks_of(encoder: Callable[[torch.Tensor], Any]) -> list[nn.Module]:
    """Find the networks of a callable: itself, the object whose method it is, and networks that a function names."""
    found = [encoder, getattr(encoder, "__self__", None)]
    if inspect.isfunction(encoder):
        used = inspect.getclosurevars(encoder)
        found += [*used.nonlocals.values(), *used.globals.values()]
    return [network for network in found if isinstance(network, nn.Module)]


@contextlib.contextmanager
def _eval_mode(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Put every module into eval mode, and afterwards back as it was, so that a frozen part of a network stays frozen."""
    before = {module: module.training for network in networks for module in network.modules()}
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextlib.contextmanager
def _random_state_kept(device: torch.device, seed: int) -> Iterator[None]:
    """Seed the random numbers of Python, NumPy and torch, which data and encoders may use, and restore them afterwards."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (it is the global one that is kept)
    there = {"devices": [device], "device_type": device.type} if device.type != "cpu" else {"devices": []}
    try:
        with torch.random.fork_rng(**there):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _whole(x: torch.Tensor) -> torch.Tensor:
    """Labels and lengths in whole numbers of one type, as embeddings take them; others as they are."""
    return x if x.is_floating_point() or x.dtype == torch.bool else x.long()


class _Taking(NamedTuple):
    """What an encoder takes, and what the user says of it."""

    label: str
    arguments: Arguments
    inputs: str | None

    def arrays(self, held: Sequence[str]) -> dict[str, str]:
        """The array that each argument gets, of those that there are; none where the data alone are meant."""
        if self.inputs:
            return matched(self.inputs, self.arguments, held, self.label, "the data")
        if len(self.arguments.needed) > 1:
            check_alone(self.arguments, held, self.label)
        return {}


class _Points:
    """The fixed points of the data, fetched when the encoder needs them."""

    def __init__(self, data: Any, num_points: int, seed: int, taking: _Taking) -> None:
        self.collate: Callable[[list[Any]], Any] = torch.utils.data.default_collate
        if isinstance(data, torch.utils.data.DataLoader):
            self.collate, data = data.collate_fn or self.collate, data.dataset
        if isinstance(data, np.ndarray):
            data = torch.from_numpy(data)
        several = taking.inputs is not None or len(taking.arguments.needed) > 1
        offer = in_object(data, "the data") if several else None
        arrays = taking.arrays(offer.names if offer else ())
        self.arrays, self.rows = arrays, offer.rows(tuple(dict.fromkeys(arrays.values()))) if offer and arrays else None
        if self.rows is not None:
            self.chosen = _fixed(self.rows.length, num_points, seed)
            return
        if isinstance(data, Mapping):
            held = ", ".join(map(str, data))
            raise InputError(
                f"The data are a dictionary of {held}: say which the encoder gets, as inputs='x={next(iter(data), 0)}'."
            )
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise InputError(
                "An encoder needs data: a tensor or array with one point a row, a Dataset with a length, or a DataLoader of "
                f"one; got {type(data).__name__}."
            )
        self.data, self.chosen = data, _fixed(len(data), num_points, seed)

    def __len__(self) -> int:
        return len(self.chosen)

    def batch(self, start: int, stop: int) -> Batch:
        """The points from `start` up to `stop`, shape (m, ...), or several inputs by argument."""
        rows = self.chosen[start:stop]
        if self.rows is not None:
            found = self.rows.some(rows)
            several = {argument: found[array] for argument, array in self.arrays.items()}
            first = next(iter(several))
            return {name: x if name == first else _whole(x) for name, x in several.items()}
        batch = self.data[rows] if isinstance(self.data, torch.Tensor) else self.collate([self.data[int(i)] for i in rows])
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if not isinstance(x, torch.Tensor):
            raise InputError(
                f"The data's points are {type(x).__name__}: give a Dataset of tensors, or of tuples that begin with one."
            )
        return x
