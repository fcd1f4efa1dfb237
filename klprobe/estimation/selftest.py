"""Hold this machine's arithmetic against known answers, and digest the bits of what it found."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch

from klprobe.estimation import known_answers as known
from klprobe.types import Progress, no_progress

DIGITS = 16
"""Number of hexadecimal digits of a digest, which is SHA-256 cut short."""


@dataclass(frozen=True)
class Held:
    """One check.

    Attributes:
        name: What was computed, and against what it was held.
        unit: What the errors are measured in.
        error: Greatest error; None where the computation failed.
        allowed: Largest error that is right; None where the computation failed.
        right: Whether the error is allowed.
        reason: Why the computation failed; None where it did not.
        seconds: Seconds it took.
    """

    name: str
    unit: str
    error: float | None
    allowed: float | None
    right: bool
    reason: str | None
    seconds: float


@dataclass(frozen=True)
class Selftest:
    """All checks.

    Attributes:
        checks: The checks, in the order they ran.
        digest: Digest of the bits of every number that they found; equal on machines that compute alike.
        small_digest: The `small_digest` that every report has too.
    """

    checks: tuple[Held, ...]
    digest: str
    small_digest: str

    @property
    def right(self) -> bool:
        """Whether all checks are right."""
        return all(check.right for check in self.checks)


Check = tuple[str, str, Callable[[], known.Result]]


def selftest(*, progress: Progress = no_progress, checks: Sequence[Check] = ()) -> Selftest:
    """Run all checks of this machine, or those that are given; about 20 s on two cores that are otherwise idle.

    Args:
        progress: Called with the number of checks done, and of all.
        checks: Checks to run in place of all: name, unit and function.
    """
    state, held = hashlib.sha256(), []
    chosen = [*(checks or all_checks())]
    for done, (name, unit, compute) in enumerate(chosen):
        progress(done, len(chosen), name)
        started = time.perf_counter()
        error: float | None = None
        allowed: float | None = None
        reason: str | None = None
        try:
            error, allowed, found = compute()
            state.update(f"{name} {found.shape}".encode() + np.ascontiguousarray(found).tobytes())
        except Exception as failure:  # a machine that cannot compute it is what this looks for
            reason = f"{type(failure).__name__}: {failure}"
            state.update(f"{name} failed".encode())
        right = error is not None and allowed is not None and bool(error <= allowed)
        held.append(Held(name, unit, error, allowed, right, reason, time.perf_counter() - started))
    return Selftest(tuple(held), state.hexdigest()[:DIGITS], small_digest())


@cache
def small_digest() -> str:
    """Digest of the bits of a few sums by each way of computing a tile, which takes some hundredths of a second.

    It says nothing of right or wrong. Two reports with different ones come from machines, versions or kernels that round
    differently, so their last digits may differ.
    """
    state = hashlib.sha256()
    for case in known.WAYS.values():
        q, z, own = case.make(48, 12)
        state.update(known.sums(q, z, own).tobytes())
    return state.hexdigest()[:DIGITS]


def all_checks() -> list[Check]:
    """The checks, with their names and units."""
    gpu = torch.cuda.is_available()
    return [
        *(
            (f"log q_N(z) by {way}, against brute force", "nats", partial(known.log_sums, case, *_size(case)))
            for way, case in known.WAYS.items()
        ),
        *(
            (f"log q_N(z) on the GPU, {way}, against brute force", "nats", partial(known.log_sums, case, *_size(case), "cuda"))
            for way, case in known.WAYS.items()
            if gpu
        ),
        *(
            (f"log q_N(z) by torch, {way}, against brute force", "nats", partial(known.log_sums_by_torch, case, *_size(case)))
            for way, case in known.WAYS.items()
        ),
        (
            "log q_N(z) of full covariances, against brute force",
            "nats",
            partial(known.log_sums_of_covariances, 20_000, 200),
        ),
        ("one thread against all", "nats", partial(known.threads, 60_000, 2000)),
        ("losses by removal of a component, against densities without it", "nats", partial(known.removals, 2000, 300)),
        ("KL of single latents, against an even grid", "nats", partial(known.marginals, 2000)),
        ("means of control variates, against zero", "standard errors", partial(known.controls, 2000)),
        *(
            (
                f"monte-carlo, {d} latents, equal posteriors, against the closed form",
                "standard errors",
                partial(known.monte_carlo_where_no_point_differs, d),
            )
            for d in (1, 8, 64)
        ),
        *(
            (
                f"monte-carlo, {d} latents, posteriors apart, against log N",
                "standard errors",
                partial(known.monte_carlo_where_no_points_overlap, d),
            )
            for d in (4, 16)
        ),
        ("monte-carlo, one latent, against an even grid", "standard errors", partial(known.monte_carlo_in_one_latent, 200)),
        *(
            (
                f"bounds of a population, {d} latents, against its closed form",
                "standard errors",
                partial(known.monte_carlo_of_a_population, d),
            )
            for d in (2, 10)
        ),
        *_products(gpu),
    ]


def _size(case: known.Case) -> tuple[int, int]:
    """Number of points and codes that keep brute force below two seconds."""
    return (20_000, 200) if case.latents < 100 else (1500, 16)


def _products(gpu: bool) -> list[Check]:
    """Matrix products of every library, in both precisions."""
    libraries: dict[str, Callable[[known.Array, known.Array], known.Array]] = {
        "NumPy": np.matmul,
        "torch": _by_torch,
        **({"torch on the GPU": _on_gpu} if gpu else {}),
    }
    return [
        (f"{precision} products by {name}, against sums", "bounds of rounding", partial(known.products, library, single))
        for name, library in libraries.items()
        for precision, single in (("float64", False), ("float32", True))
    ]


def _by_torch(a: known.Array, b: known.Array) -> known.Array:
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


def _on_gpu(a: known.Array, b: known.Array) -> known.Array:
    return (torch.from_numpy(a).cuda() @ torch.from_numpy(b).cuda()).cpu().numpy()
