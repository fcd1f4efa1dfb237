"""The same command gives the same report, number by number; with other threads exact methods agree to 1e-12."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

FITTED = ["classifier", "gaussianized", "gmm", "maf", "lstm", "telescoping", "denoising"]
METHODS = ["closed-form", "monte-carlo", "knn", "least-squares", *FITTED]
SHORT = [f"--{name}.steps=8" for name in FITTED]
EXACT = ("closed-form", "monte-carlo", "knn")
MAY_DIFFER = ("seconds", "fit_seconds")


@pytest.fixture(scope="module")
def posterior(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("bits") / "q.npz"
    mean, std = rng.normal(size=(400, 3)).astype("f4"), rng.uniform(0.1, 0.6, (400, 3)).astype("f4")
    np.savez(path, mean=mean, logvar=2 * np.log(std))
    return path


def report(posterior, methods, *, threads, hashes):
    """The report of a process of its own, with so many threads, whose sets are ordered by other hashes."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(hashes)}
    command = [sys.executable, "-m", "klprobe", "estimate", "--checkpoint", str(posterior), "--json", "--num-samples=600"]
    flags = [flag for flag in SHORT if flag[2:].split(".")[0] in methods]
    command += ["--methods", *methods, "--maf.width=32", *flags]
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode in (0, 3), shown.stderr
    return json.loads(shown.stdout)


def leaves(content, place=""):
    """Every value of a document that no clock gives, by its place."""
    if isinstance(content, dict):
        found = {}
        for key, value in content.items():
            if key not in MAY_DIFFER:
                found |= leaves(value, f"{place}/{key}")
        return found
    if isinstance(content, list):
        return {k: v for i, value in enumerate(content) for k, v in leaves(value, f"{place}/{i}").items()}
    return {place: content}


def differing(one, other):
    ours, theirs = leaves(one), leaves(other)
    return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


def test_the_same_command_gives_the_same_bits_in_another_process(posterior):
    methods = ["monte-carlo", "classifier", "gmm", "least-squares"]
    first, again = (report(posterior, methods, threads=2, hashes=hashes) for hashes in (1, 2))
    assert {e["method"] for e in first["estimates"]} == {"closed-form", *methods}
    assert differing(first, again) == []


@pytest.mark.slow
def test_every_method_gives_the_same_bits_in_another_process(posterior):
    first, again = (report(posterior, METHODS, threads=2, hashes=hashes) for hashes in (1, 2))
    assert {e["method"] for e in first["estimates"]} == set(METHODS)
    assert differing(first, again) == []


@pytest.mark.slow
def test_other_threads_change_exact_methods_by_less_than_1e_12_and_learned_ones_by_a_tenth_of_their_error(posterior):
    one, two = (report(posterior, METHODS, threads=threads, hashes=1) for threads in (1, 2))
    for ours, theirs in zip(one["estimates"], two["estimates"], strict=True):
        if ours["value"] is None:
            assert theirs["value"] is None
            continue
        difference = abs(ours["value"] - theirs["value"])
        allowed = 1e-12 * max(1.0, abs(ours["value"])) if ours["method"] in EXACT else 0.1 * (ours["std_error"] or math.inf)
        assert difference <= allowed, (ours["method"], ours["quantity"], difference)


def test_a_difference_in_the_last_bit_is_found_and_one_in_seconds_is_not():
    document = {"estimates": [{"value": 1.0, "seconds": 2.0}], "reason": None}
    other = {"estimates": [{"value": math.nextafter(1.0, 2.0), "seconds": 3.0}], "reason": None}
    assert differing(document, other) == ["/estimates/0/value"]
    assert differing(document, {**document, "more": 1}) == ["/more"]
