"""A digest of a whole posterior and its prior: two runs that have it in common speak of the same distributions."""

from __future__ import annotations

import hashlib

import torch
from torch.distributions import Distribution

from klprobe.distributions.posteriors import ROWS_AT_ONCE, DiagonalGaussian, prior_log_prob
from klprobe.types import InputError, Posterior

PRIOR_ROWS = 1024
"""Codes at which the prior's density is looked at."""


def digest(posterior: Posterior, prior: Distribution) -> str:
    """SHA-256 over all rows of the posterior, their weights and groups, and the prior's log-densities at some of its codes.

    A diagonal Gaussian is digested as its numbers are stored. Of any other posterior one code a row is drawn with a fixed seed,
    and its log-density taken where there is one.
    """
    state = hashlib.sha256(f"{posterior.num_points} {posterior.dim}".encode())
    some = None
    for start in range(0, posterior.num_points, ROWS_AT_ONCE):
        rows = torch.arange(start, min(start + ROWS_AT_ONCE, posterior.num_points))
        if isinstance(posterior, DiagonalGaussian):
            span = slice(start, start + len(rows))
            parts = [posterior.mean[span], posterior.spread[span]]
            codes = posterior.rows(slice(start, start + min(len(rows), PRIOR_ROWS)))[0]
            state.update(posterior.parametrization.encode())
        else:
            codes = posterior.sample_at(rows, torch.Generator().manual_seed(start))
            parts = [codes, posterior.log_prob_at(codes, rows)] if posterior.has_log_prob else [codes]
        some = codes if some is None else some
        for part in parts:
            state.update(str(part.dtype).encode() + part.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    for name, given in (("weights", posterior.weights), ("groups", posterior.groups)):
        if given is not None:
            state.update(name.encode() + given.cpu().numpy().tobytes())
    if some is not None and posterior.has_log_prob:
        state.update(_densities(prior, some[:PRIOR_ROWS].cpu()))
    return state.hexdigest()


def _densities(prior: Distribution, codes: torch.Tensor) -> bytes:
    """The prior's log-densities, as bytes; its words where it has no density."""
    try:
        return prior_log_prob(prior, codes).cpu().numpy().tobytes()
    except InputError:
        return str(prior).encode()
