"""No number and no choice depends on a clock: every file that reads one stands here, with what it does with it."""

import ast
import pathlib

import klprobe

ROOT = pathlib.Path(klprobe.__file__).parent
CLOCKS = {"time", "datetime", "timeit"}
READS = {
    "distributions/aggregate.py": "how long a run will take, said on stderr",
    "estimation/selftest.py": "seconds of each check",
    "evaluation/run.py": "seconds of each metric",
    "files/child.py": "limits of time of a program in a file, at which it is refused",
    "files/messages.py": "the same limits, while an answer is waited for",
    "runtime/heartbeat.py": "whether the other processes are alive",
    "runtime/parallel.py": "short waits for the other processes",
    "runtime/partial.py": "when draws are kept on disk",
    "synthetic/kept.py": "when a run is kept on disk",
    "synthetic/run.py": "the date of a record",
    "training/log.py": "seconds of each row of metrics.csv",
    "training/loop.py": "when a checkpoint is written, and progress is shown",
}
"""Files that read a clock for more than the seconds that an estimate or a report took."""
SECONDS = {"estimation/run.py", "estimation/conditional.py", "estimation/tracking.py", "distributions/categorical.py"}


def reads(path: pathlib.Path) -> list[str]:
    """Names of a clock's functions that a file calls."""
    tree = ast.parse(path.read_text())
    imported = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in CLOCKS
    }
    calls = [
        ast.unparse(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and ast.unparse(node.func.value).split(".")[0] in imported
    ]
    named = [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module in CLOCKS]
    return [*calls, *named]


def test_every_file_that_reads_a_clock_is_declared():
    found = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if reads(path)}
    estimators = {name for name in found if name.startswith("estimators/")}
    assert found - estimators - SECONDS == set(READS)


def test_estimators_read_it_only_for_the_seconds_that_they_took():
    for path in sorted((ROOT / "estimators").glob("*.py")):
        lines = [line.strip() for line in path.read_text().splitlines()]
        assert set(reads(path)) <= {"time.perf_counter"}, path.name
        assert all("started" in line for line in lines if "perf_counter()" in line), path.name
