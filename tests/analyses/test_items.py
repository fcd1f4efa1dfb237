"""Every table and figure of the papers: its whole way runs in a tiny mode, and its page is made of the records alone."""

import dataclasses
import importlib
import json
import pkgutil
import re
import sys

import pytest

import analyses
from analyses import overview
from analyses.dmvi import run_synthetic, synthetic_page
from analyses.machinery import cells, declared, models
from klprobe.synthetic.settings import is_cell

ITEMS = declared.items()


@pytest.mark.parametrize("name", ITEMS)
def test_an_item_goes_the_whole_way_from_training_to_its_page(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "RUNS", tmp_path / "runs")
    item = ITEMS[name]
    cells.main(item, ["--preset", "tiny", "--backend", "sequential", "--jobs", "1", "--out", str(tmp_path)])
    records = [json.loads(line) for line in (tmp_path / "records" / item.records).read_text().splitlines()]
    assert [record["failed"] for record in records] == [None] * len(item.cells("tiny"))
    pages = [path for path in tmp_path.iterdir() if path.is_file()]
    assert pages
    assert all(path.stat().st_size > 100 for path in pages)
    before = {path: path.read_bytes() for path in pages}
    cells.main(item, ["--out", str(tmp_path)])
    assert {path: path.read_bytes() for path in pages} == before


@pytest.mark.parametrize("name", ITEMS)
def test_a_committed_page_is_what_its_committed_records_say(name, tmp_path):
    item = ITEMS[name]
    records = cells.read_records(item.folder / "records" / item.records)
    if not records:
        pytest.skip("nothing is recorded yet")
    for page in item.write(records, tmp_path):
        if page.suffix == ".md":
            assert page.read_text() == (item.folder / page.name).read_text()


def test_the_page_of_the_synthetic_figures_is_what_the_records_say():
    assert synthetic_page.page() == (synthetic_page.HERE / "synthetic.md").read_text()


def test_what_is_said_of_the_larger_synthetic_runs_is_what_they_did():
    learned = [record for record in cells.read_records(run_synthetic.RECORDS) if record["experiment"] == "minimize"]
    assert not any(record["diverged"] for record in learned)
    cell = ("minimize", 100, 0, run_synthetic.settings_of(2, 100, "quick"))
    (quick,) = [record["curve"]["true_kl"][-1] for record in learned if is_cell(record, *cell)]
    larger = [r for larger in run_synthetic.larger_cells() for r in learned if is_cell(r, *larger)]
    ends = [record["curve"]["true_kl"][-1] for record in larger if record["dim"] == 100]
    assert len(ends) == 2
    assert max(ends) < quick


def test_the_overview_is_what_the_records_say_and_has_no_empty_cell():
    said = overview.page()
    assert said == (overview.HERE / "README.md").read_text()
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| ")]
    assert all(len(row) == len(overview.HEAD) and all(cell.strip("| ") for cell in row) for row in rows)


def test_every_folder_of_items_is_walked():
    """`machinery` is what items share."""
    there = {folder.name for folder in pkgutil.iter_modules(analyses.__path__) if folder.ispkg} - {"machinery"}
    assert set(declared.FOLDERS) == there


def test_an_item_has_a_place_of_its_own_in_its_folder():
    places = [(name.split(".")[0], item.order) for name, item in declared.declared().items()]
    assert len(set(places)) == len(places)
    assert places == sorted(places, key=lambda place: (declared.FOLDERS.index(place[0]), place[1]))


@pytest.mark.parametrize("folder", declared.FOLDERS)
def test_a_folder_says_at_its_head_which_files_are_items_and_names_all_others(folder):
    package = importlib.import_module(f"analyses.{folder}")
    _, items, beside = re.split(r"^(?:Items|Beside them): ", package.__doc__, flags=re.MULTILINE)
    said = re.findall(r"\w+", items)
    assert said == [name.split(".")[1] for name in declared.declared() if name.startswith(f"{folder}.")]
    others = {module.name for module in pkgutil.iter_modules(package.__path__)} - set(said)
    assert set(re.findall(r"\w+", re.sub(r"\(.*?\)", "", beside, flags=re.DOTALL))) == others


def test_an_item_that_is_put_into_a_folder_stands_in_the_overview(monkeypatch):
    """Nothing else names it: a copy of one, under another name, is one row more."""
    module = importlib.import_module("analyses.dmvi.settings")
    monkeypatch.setattr(module, "ITEM", dataclasses.replace(ITEMS["dmvi.figure_7"], order=0, title="A new one"), raising=False)
    rows = [line.split(" | ")[:2] for line in overview.page().splitlines()]
    assert ["| A new one", "`dmvi.settings`"] in rows
    assert rows.index(["| A new one", "`dmvi.settings`"]) < rows.index(["| DMVI Table 1", "`dmvi.table_1`"])


def square(cell):
    if cell["number"] == 2:
        raise ValueError("two is odd here")
    return {"square": cell["number"] ** 2, "deep": [{"nan": float("nan") if cell["number"] == 3 else 0.0}]}


ITEM = cells.Item(
    order=1,
    title="Squares",
    paper=cells.NO_PAPER,
    headline=lambda records: f"{len(records)} squares",
    folder=None,
    records="squares.jsonl",
    cells=lambda _: [{"number": n} for n in range(4)],
    work=square,
    write=lambda *_: [],
)


def test_failed_and_non_finite_cells_are_recorded_and_the_rest_goes_on(tmp_path):
    path = tmp_path / "squares.jsonl"
    cells.run(ITEM, ITEM.cells("tiny"), path, jobs=1)
    records = cells.read_records(path)
    assert [record["failed"] for record in records] == [None, None, "ValueError: two is odd here", "not finite: deep[0].nan"]
    assert records[3]["result"] == {"square": 9, "deep": [{"nan": None}]}


def test_a_second_run_runs_only_what_has_no_record_and_failed_cells_when_told_to(tmp_path):
    path = tmp_path / "squares.jsonl"
    cells.run(ITEM, ITEM.cells("tiny")[:3], path, jobs=1)
    assert cells.missing(ITEM.cells("tiny"), cells.read_records(path)) == [{"number": 3}]
    assert cells.missing(ITEM.cells("tiny"), cells.read_records(path), retry=True) == [{"number": 2}, {"number": 3}]


def test_a_cluster_whose_package_is_missing_is_an_error_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray.util.joblib", None)
    with pytest.raises(SystemExit) as stop:
        cells.main(ITEM, ["--preset", "tiny", "--backend", "ray", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "pip install ray" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--preset", "tiny", "--jobs", "0"], "--jobs must be at least 1"),
        (["--preset", "tiny", "--first", "-1"], "--first at least 1"),
        ([], "nothing is recorded in"),
        (["--out", __file__], "Not a directory"),
    ],
)
def test_an_item_that_cannot_run_says_why_in_a_line(flags, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cells.main(ITEM, ["--out", str(tmp_path), *flags])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_records_file_that_is_none_is_said_to_be(tmp_path, capsys):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / ITEM.records).write_text('{"broken": \n{}\n')
    with pytest.raises(SystemExit):
        cells.main(ITEM, ["--out", str(tmp_path)])
    assert "is not a file of klprobe's records" in capsys.readouterr().err


def test_cells_run_in_several_processes_too(tmp_path):
    path = tmp_path / "squares.jsonl"
    with cells.backend("loky", None):
        cells.run(ITEM, ITEM.cells("tiny"), path, jobs=2)
    assert sorted(record["cell"]["number"] for record in cells.read_records(path)) == [0, 1, 2, 3]
