"""The report: all results of one run, as data and as the strict-JSON document `klprobe.report/1`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from klprobe.types import Bracket, Check, Estimate, NotDone, PartReport, Quantity, RadiusHistogram, Side, Verdict

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "klprobe.report/1"


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of `klprobe.estimate`. All values are in nats; brackets are of the empirical and the population KL.

    Attributes:
        latent_dim, num_points, log_n: The numbers D, N and log N.
        average_kl: Mean over the points, (1/N) sum_n KL[q(z|x_n)||p], with its error over points.
        mutual_information: Mutual information I_N between data point and code, at most log N.
        total_correlation: Total correlation KL[q_N(z) || prod_d q_N(z_d)]; only for priors that factorise.
        dimensionwise_kl: KL[q_N(z_d)||p(z_d)] of each latent, or None.
        active_units: Number of latents whose posterior mean has a variance over the data above 0.01 (Burda et al. 2016).
        estimates: Every estimate of the KL, in the order in which they were made.
        brackets: Brackets of the targets `empirical` and `population`.
        verdict, advice: The answer in one word, and in sentences that say what to do.
        checks: Conditions that have to hold, and whether they do.
        not_done: Methods that gave no answer, with the reason.
        parts: Reports of levels, channels and categorical latents by themselves.
        prior_in_holes: Share of the prior's mass unlike held-out codes: q_N's density is below its 1 % quantile at codes scored
            without their own component; 0.01 in a perfect match, None where the points do not overlap.
        prior_unlike_codes: Share of the prior's mass unlike the codes of these points, scored with their own component: what a
            decoder that was trained on these points has not seen.
        provenance: Settings, seed, versions, commit, device and input.
    """

    latent_dim: int
    num_points: int
    log_n: float
    average_kl: Quantity
    mutual_information: Quantity
    total_correlation: Quantity
    dimensionwise_kl: tuple[float, ...] | None
    active_units: int | None
    estimates: tuple[Estimate, ...]
    brackets: Mapping[str, Bracket]
    verdict: Verdict
    advice: str
    checks: tuple[Check, ...]
    not_done: tuple[NotDone, ...] = ()
    radius: RadiusHistogram | None = None
    parts: tuple[PartReport, ...] = ()
    prior_in_holes: Quantity = dataclasses.field(default_factory=lambda: Quantity(None, None, "not computed"))
    prior_unlike_codes: Quantity = dataclasses.field(default_factory=lambda: Quantity(None, None, "not computed"))
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Make the document `klprobe.report/1`; a value that is not finite is None, with a `reason`."""
        document = {"schema": SCHEMA, **_fields(self)}
        if self.dimensionwise_kl is None:
            document["dimensionwise_kl_reason"] = self.total_correlation.reason or "not computed"
        elif bad := [d for d, value in enumerate(self.dimensionwise_kl) if not finite(value)]:
            nowhere = f"not finite in {len(bad)} latents, the first of them latent {bad[0]}"
            document["dimensionwise_kl_reason"] = self.total_correlation.reason or nowhere
        if self.active_units is None:
            document["active_units_reason"] = self.average_kl.reason or "the posterior means are not known"
        return document

    def to_json(self) -> str:
        """Write `to_dict` as strict JSON."""
        return as_json(self.to_dict())

    def to_pandas(self) -> pd.DataFrame:
        """Make a table with a row for each estimate: method, quantity, target, bound, value, std_error, nats_per_dim, ..."""
        import pandas as pd

        columns = ["method", "quantity", "target", "bound", "value", "std_error", "num_samples", "seconds"]
        table = pd.DataFrame([{c: getattr(e, c) for c in columns} for e in self.estimates], columns=columns)
        table.insert(6, "nats_per_dim", table["value"] / self.latent_dim)
        return table

    def _repr_html_(self) -> str:
        from klprobe.rendering.html import fragment

        return fragment(self)


def as_json(content: Any, indent: int = 2) -> str:
    """Write strict JSON in ASCII, in which every control character, DEL too, is an escape."""
    return json.dumps(content, indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


def finite(value: float | None) -> TypeGuard[float]:
    """Whether the value is a finite number."""
    return value is not None and math.isfinite(value)


def plain(value: Any) -> Any:
    """Convert to JSON types: non-finite floats become None, and records become dicts."""
    if isinstance(value, Quantity | Side | Estimate):
        return _with_reason(value)
    if isinstance(value, Bracket):
        return {k: v for k, v in _fields(value).items() if v is not None}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "tolist"):  # numpy and torch arrays and scalars
        return plain(value.tolist())
    return str(value)


def _fields(record: Any) -> dict[str, Any]:
    return {f.name: plain(getattr(record, f.name)) for f in dataclasses.fields(record)}


def _with_reason(record: Quantity | Side | Estimate) -> dict[str, Any]:
    """Fields of the record; `reason` is among them when a value or its standard error is not finite, or a reason is given."""
    fields = _fields(record)
    reason = fields.pop("reason", None) or fields.get("details", {}).get("reason")
    missing = [_missing(name, getattr(record, name)) for name in ("value", "std_error") if not finite(getattr(record, name))]
    if missing or reason:
        fields["reason"] = reason or "; ".join(missing)
    return fields


def _missing(name: str, value: float | None) -> str:
    what = "not known" if value is None else "not a number" if math.isnan(value) else "infinite"
    return f"the {name.replace('std_error', 'standard error')} is {what}"
