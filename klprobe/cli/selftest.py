"""`klprobe selftest`: whether this machine computes KLs that are known."""

from __future__ import annotations

import dataclasses

from klprobe import cli
from klprobe.cli.flags import parse
from klprobe.cli.output import answer, answer_json
from klprobe.cli.progress import bar
from klprobe.estimation.report import as_json, plain
from klprobe.estimation.selftest import Selftest, selftest
from klprobe.runtime.arithmetic import arithmetic
from klprobe.runtime.provenance import commit, versions

SCHEMA = "klprobe.selftest/1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """Hold this machine's kernels, threads and GPU against known KLs: right or wrong, in about 20 seconds.

    klprobe selftest

    The digest is that of the bits of all numbers found. It is the same for the same machine, number of threads and versions.
    """

    json: bool = False
    """Print the JSON document instead of the table."""


def run(arguments: list[str]) -> int:
    """Run the checks and print them; exit code 3 where one is wrong."""
    flags = parse(Flags, arguments, prog="klprobe selftest")
    with bar("selftest") as progress:
        found = selftest(progress=progress)
    if flags.json:
        answer_json(as_json(document(found)))
    else:
        answer(*lines(found))
    return cli.ANSWERED if found.right else cli.CHECK_FAILED


def document(found: Selftest) -> dict[str, object]:
    """Make the document `klprobe.selftest/1`."""
    about = {"arithmetic": arithmetic(), "versions": versions(), "commit": commit()}
    return {"schema": SCHEMA, "right": found.right, **plain(found), **plain(about)}


def lines(found: Selftest) -> list[str]:
    """One row a check, then the machine and the answer."""
    width = max(len(check.name) for check in found.checks)
    rows = [f"{'checked':<{width}}  {'error':>8}  {'allowed':>8}  of what"]
    for check in found.checks:
        if check.error is None or check.allowed is None:
            rows.append(f"{check.name:<{width}}  WRONG: {check.reason}")
        else:
            verdict = "right" if check.right else "WRONG"
            rows.append(f"{check.name:<{width}}  {check.error:>8.2g}  {check.allowed:>8.2g}  {check.unit}: {verdict}")
    about = arithmetic()
    wrong = sum(not check.right for check in found.checks)
    return [
        *rows,
        "",
        f"{about['processor']}, {about['cores']} cores; {'; '.join(about['blas'])}; torch {about['torch']}; "
        f"GPU: {about['gpu'] or 'not found, so not checked'}",
        f"digest {found.digest}, in reports {found.small_digest}",
        f"{wrong} of {len(found.checks)} checks {'is' if wrong == 1 else 'are'} wrong: don't trust numbers of this machine."
        if wrong
        else f"all {len(found.checks)} checks are right.",
    ]
