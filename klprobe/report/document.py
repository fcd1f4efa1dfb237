"""The report: everything one run found out, as data, and as the strict-JSON document `klprobe.report/1`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from klprobe.types import Bracket, Check, Estimate, Quantity, Side, Verdict

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "klprobe.report/1"
NOT_FINITE = "not a finite number"


@dataclasses.dataclass(frozen=True)
class NotDone:
    """A method that was asked for and gave no estimate, and why."""

    method: str
    reason: str


@dataclasses.dataclass(frozen=True)
class RadiusHistogram:
    """Densities of |z| under q(z) and p(z) over common bins; shapes (bins + 1,), (bins,), (bins,)."""

    edges: tuple[float, ...]
    posterior: tuple[float, ...]
    prior: tuple[float, ...]


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
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The document `klprobe.report/1`; what has no finite value is None with a `reason`."""
        document = {"schema": SCHEMA, **{f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}}
        for estimate in document["estimates"]:
            if estimate["value"] is None:
                estimate["reason"] = estimate["details"].get("reason", NOT_FINITE)
        if self.dimensionwise_kl is None:
            document["dimensionwise_kl_reason"] = self.total_correlation.reason
        return document

    def to_json(self) -> str:
        """`to_dict` as strict JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_pandas(self) -> pd.DataFrame:
        """One row per estimate: method, quantity, target, bound, value, std_error, nats_per_dim, num_samples, seconds."""
        import pandas as pd

        columns = ["method", "quantity", "target", "bound", "value", "std_error", "num_samples", "seconds"]
        table = pd.DataFrame([{c: getattr(e, c) for c in columns} for e in self.estimates], columns=columns)
        table.insert(6, "nats_per_dim", table["value"] / self.latent_dim)
        return table

    def _repr_html_(self) -> str:
        from klprobe.report.html import fragment

        return fragment(self)


def _plain(value: Any) -> Any:
    """JSON types only: non-finite floats become None, records become dicts."""
    if isinstance(value, Quantity | Side) and value.reason is None:
        return {k: _plain(v) for k, v in dataclasses.asdict(value).items() if k != "reason"} | (
            {} if _finite(value.value) else {"reason": NOT_FINITE}
        )
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
