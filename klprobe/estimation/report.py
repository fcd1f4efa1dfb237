"""The report: everything one run found out, as data, and as the strict-JSON document `klprobe.report/1`."""

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
    """What `klprobe.estimate` returns. All values are nats; brackets are of the empirical and the population KL.

    Attributes:
        latent_dim, num_points, log_n: D, N, log N.
        average_kl: (1/N) sum_n KL[q(z|x_n)||p], its error over points.
        mutual_information: I_N between data point and code, at most log N.
        total_correlation: KL[q_N(z) || prod_d q_N(z_d)]; only for priors that factorise.
        dimensionwise_kl: KL[q_N(z_d)||p(z_d)] of each latent, or None.
        active_units: Latents whose posterior mean varies over the data by more than 0.01 (Burda et al. 2016).
        estimates: Every estimate of the KL, in the order they were made.
        brackets: `empirical` and `population`.
        verdict, advice: The answer in one word, and in sentences a reader can act on.
        checks: What had to hold, and whether it did.
        not_done: Methods that gave nothing, with the reason.
        parts: Levels, channels, categorical latents: what was also looked at by itself.
        prior_in_holes: Share of the prior's mass unlike held-out codes: q_N's density is below its 1 % quantile at codes scored
            without their own component; 0.01 in a perfect match, None where the points do not overlap.
        prior_unlike_codes: Share of the prior's mass unlike the codes of these points, scored with their own component: what a
            decoder that was trained on these points has not seen.
        provenance: Settings, seed, versions, commit, device, input.
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
        """The document `klprobe.report/1`; what has no finite value is None with a `reason`."""
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
        """`to_dict` as strict JSON text."""
        return as_json(self.to_dict())

    def to_pandas(self) -> pd.DataFrame:
        """One row per estimate: method, quantity, target, bound, value, std_error, nats_per_dim, num_samples, seconds."""
        import pandas as pd

        columns = ["method", "quantity", "target", "bound", "value", "std_error", "num_samples", "seconds"]
        table = pd.DataFrame([{c: getattr(e, c) for c in columns} for e in self.estimates], columns=columns)
        table.insert(6, "nats_per_dim", table["value"] / self.latent_dim)
        return table

    def _repr_html_(self) -> str:
        from klprobe.rendering.html import fragment

        return fragment(self)


def as_json(content: Any, indent: int = 2) -> str:
    """Strict JSON in ASCII that shows itself: every control character, DEL too, is an escape."""
    return json.dumps(content, indent=indent, allow_nan=False).replace("\x7f", "\\u007f")


def finite(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to print."""
    return value is not None and math.isfinite(value)


def plain(value: Any) -> Any:
    """JSON types only: non-finite floats become None, records become dicts."""
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
    """The record's fields; `reason` is there exactly when its value or standard error is not finite, or says why it is."""
    fields = _fields(record)
    reason = fields.pop("reason", None) or fields.get("details", {}).get("reason")
    missing = [_missing(name, getattr(record, name)) for name in ("value", "std_error") if not finite(getattr(record, name))]
    if missing or reason:
        fields["reason"] = reason or "; ".join(missing)
    return fields


def _missing(name: str, value: float | None) -> str:
    what = "not known" if value is None else "not a number" if math.isnan(value) else "infinite"
    return f"the {name.replace('std_error', 'standard error')} is {what}"
