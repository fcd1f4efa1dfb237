"""What formats with a codebook have in common: from the entries that data points have to a posterior over the entries."""

from __future__ import annotations

import dataclasses

import torch

from klprobe.distributions.codebook import codebook_of, prior_name
from klprobe.formats import Encoded

ABOUT = "z is the number of a codebook's entry; q(z|x) is the share of the point's {places:,} places that hold it"


def with_codebook(encoded: Encoded, codes: torch.Tensor, entries: int) -> Encoded:
    """Describe the same data by the entries of a codebook of that size as codes, shape (N, ...), held against uniform use.

    Raises:
        InputError: as `codebook_of`.
    """
    found = codebook_of(codes, entries, str(encoded.provenance.get("file", "codes")))
    provenance = {key: value for key, value in encoded.provenance.items() if key != "outputs"}
    return dataclasses.replace(
        encoded,
        posterior=found.posterior,
        prior=found.prior,
        prior_name=prior_name(found.usage),
        provenance={**provenance, "codebook": found.usage},
        notes=(*encoded.notes, ABOUT.format(places=found.usage["places"])),
        parts={},
    )
