"""The document klprobe.report/1: its keys, its types, and that every JSON reader can read it."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from klprobe.types import Bracket, Estimate, Quantity, Side

NUMBER = (int, float)
OPTIONAL_NUMBER = (int, float, type(None))
TOP = {
    "schema": str,
    "latent_dim": int,
    "num_points": int,
    "log_n": NUMBER,
    "average_kl": dict,
    "mutual_information": dict,
    "total_correlation": dict,
    "dimensionwise_kl": (list, type(None)),
    "active_units": (int, type(None)),
    "estimates": list,
    "brackets": dict,
    "verdict": str,
    "advice": str,
    "checks": list,
    "provenance": dict,
}
EXTRA = {
    "not_done": list,
    "parts": list,
    "prior_in_holes": dict,
    "prior_unlike_codes": dict,
    "radius": (dict, type(None)),
    "dimensionwise_kl_reason": str,
    "active_units_reason": str,
}
ESTIMATE = {
    "method": str,
    "quantity": str,
    "target": str,
    "bound": str,
    "value": OPTIONAL_NUMBER,
    "std_error": OPTIONAL_NUMBER,
    "num_samples": int,
    "seconds": NUMBER,
    "details": dict,
}
CHECK = {"name": str, "severity": str, "passed": bool, "message": str}


def parse(report):
    """The document as a strict reader sees it: NaN and Infinity are refused."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(report.to_json(), parse_constant=refuse)


def agrees(record, required, optional=()):
    assert required.keys() <= record.keys() <= required.keys() | dict(optional).keys()
    for key, kind in (required | {k: v for k, v in dict(optional).items() if k in record}).items():
        assert isinstance(record[key], kind), f"{key} is {record[key]!r}"


def explains_itself(record):
    missing = record["value"] is None or record["std_error"] is None
    assert not missing or record["reason"], record


def test_document_has_exactly_the_keys_and_types_of_the_schema(any_report):
    document = parse(any_report)
    agrees(document, TOP, EXTRA)
    assert document["schema"] == "klprobe.report/1"
    assert document["verdict"] in {"resolved", "floor-limited", "methods-disagree", "impossible"}
    for name in ("average_kl", "mutual_information", "total_correlation"):
        agrees(document[name], {"value": OPTIONAL_NUMBER, "std_error": OPTIONAL_NUMBER}, {"reason": str})
    for estimate in document["estimates"]:
        agrees(estimate, ESTIMATE, {"reason": str})
        assert estimate["target"] in {"empirical", "population"}
        assert estimate["bound"] in {"exact", "lower", "upper", "none"}
    assert document["brackets"].keys() == {"empirical", "population"}
    for bracket in document["brackets"].values():
        agrees(bracket, {"lower": dict, "upper": dict}, {"interval": list})
        for side in (bracket["lower"], bracket["upper"]):
            agrees(
                side,
                {"value": OPTIONAL_NUMBER, "std_error": OPTIONAL_NUMBER, "method": (str, type(None))},
                {"reason": str},
            )
    for check in document["checks"]:
        agrees(check, CHECK)
        assert check["severity"] in {"error", "warning"}
    for missing in document["not_done"]:
        agrees(missing, {"method": str, "reason": str})


def test_whatever_has_no_finite_value_is_null_with_a_reason(any_report):
    document = parse(any_report)
    for name in ("average_kl", "mutual_information", "total_correlation"):
        explains_itself(document[name])
    for record in document["estimates"]:
        explains_itself(record)
    for bracket in document["brackets"].values():
        explains_itself(bracket["lower"])
        explains_itself(bracket["upper"])
    values = document["dimensionwise_kl"]
    assert (values is None or None in values) == ("dimensionwise_kl_reason" in document)
    assert (document["active_units"] is None) == ("active_units_reason" in document)


def test_a_reason_says_which_number_is_missing_and_how(report_of):
    document = parse(report_of("infinite"))
    assert [e["reason"] for e in document["estimates"]] == [
        "the network diverged",
        "the value is not a number; the standard error is not a number",
        "the value is infinite; the standard error is infinite",
        "the standard error is infinite",
    ]
    assert document["average_kl"] == {
        "value": None,
        "std_error": None,
        "reason": "the value is infinite; the standard error is not known",
    }
    assert document["dimensionwise_kl_reason"] == "not finite in 1 latents, the first of them latent 1"


def test_numbers_survive_the_document_to_the_last_bit(report_of):
    report = report_of("floor_limited")
    document = parse(report)
    assert document["dimensionwise_kl"] == list(report.dimensionwise_kl)
    assert [e["value"] for e in document["estimates"]] == [e.value for e in report.estimates]
    assert document["brackets"]["population"]["interval"] == list(report.brackets["population"].interval)


def test_arrays_and_library_scalars_become_plain_json(report_of, tmp_path):
    odd = {"array": np.arange(3), "scalar": np.float32(0.5), "count": np.int64(7), "tensor": torch.ones(2), "nan": float("nan"),
           "path": tmp_path, 3: (1, 2), "true": np.bool_(True)}  # fmt: skip
    report = dataclasses.replace(
        report_of("easy"),
        provenance=odd,
        estimates=(Estimate("gmm", "population", "lower", np.float64(1.5), np.float32(0.25), details=odd),),
        average_kl=Quantity(np.float32(2.0), 0.0),
    )
    document = parse(report)
    plain = {"array": [0, 1, 2], "scalar": 0.5, "count": 7, "tensor": [1.0, 1.0], "nan": None, "path": str(tmp_path),
             "3": [1, 2], "true": True}  # fmt: skip
    assert document["provenance"] == plain
    assert document["estimates"][0] | {"details": None} == {
        "method": "gmm", "target": "population", "bound": "lower", "value": 1.5, "std_error": 0.25, "quantity": "kl",
        "num_samples": 0, "seconds": 0.0, "details": None,
    }  # fmt: skip
    assert document["average_kl"] == {"value": 2.0, "std_error": 0.0}


def test_a_bracket_without_an_interval_has_no_such_key(report_of):
    side = Side(1.0, 0.1, "gmm")
    report = dataclasses.replace(
        report_of("easy"), brackets={"empirical": Bracket(side, side), "population": Bracket(side, side)}
    )
    assert parse(report)["brackets"]["empirical"] == {
        "lower": {"value": 1.0, "std_error": 0.1, "method": "gmm"},
        "upper": {"value": 1.0, "std_error": 0.1, "method": "gmm"},
    }


def test_the_table_has_one_row_an_estimate_and_nats_per_dimension(any_report):
    table = any_report.to_pandas()
    assert list(table.columns) == [
        "method", "quantity", "target", "bound", "value", "std_error", "nats_per_dim", "num_samples", "seconds",
    ]  # fmt: skip
    assert len(table) == len(any_report.estimates)
    for row, estimate in zip(table.itertuples(), any_report.estimates, strict=True):
        expected = estimate.value / any_report.latent_dim
        assert row.nats_per_dim == pytest.approx(expected, rel=1e-15, nan_ok=True)


def test_the_table_is_numeric_and_ready_for_arithmetic(report_of):
    table = report_of("easy").to_pandas()
    assert pd.api.types.is_float_dtype(table["value"])
    assert table.query("target == 'population' and bound == 'lower'")["value"].max() == pytest.approx(0.219)


def test_the_report_room_imports_nothing_heavy_before_it_is_needed():
    code = "import sys, klprobe.rendering.files, klprobe.rendering.terminal; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "matplotlib", "pandas", "jinja2", "scipy"} & set(loaded)


def test_a_notebook_shows_the_report_itself(report_of):
    assert "between 0.693 and 8.21 nats" in report_of("floor_limited")._repr_html_()
