"""The folder of a report: complete, atomic, and refused by name where it cannot be."""

import csv
import dataclasses
import json
import os

import pytest

from klprobe.rendering import files
from klprobe.rendering.files import save
from klprobe.types import InputError


def test_every_file_is_written_and_named(report_of, tmp_path):
    written = save(report_of("floor_limited"), tmp_path / "deep" / "out")
    names = {"report.json", "report.csv", "report.html"}
    names |= {
        f"report-{figure}.{kind}" for figure in ("estimates", "dimensions", "radius", "losses") for kind in ("png", "svg")
    }
    assert {path.name for path in written} == names == {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert all(path.stat().st_size > 0 for path in written)


def test_the_smallest_report_is_written_too(report_of, tmp_path):
    assert [path.name for path in save(report_of("empty"), tmp_path)] == ["report.json", "report.csv", "report.html"]


def test_the_json_file_is_the_document_and_the_csv_the_table(report_of, tmp_path):
    report = report_of("interrupted")
    save(report, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()
    with (tmp_path / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["value"]) for row in rows] == [e.value for e in report.estimates]
    assert [row["bound"] for row in rows] == [e.bound for e in report.estimates]


def test_an_older_report_is_replaced_and_other_files_are_kept(report_of, tmp_path):
    (tmp_path / "report.json").write_text("old")
    (tmp_path / "mine.txt").write_text("mine")
    save(report_of("empty"), tmp_path)
    assert (tmp_path / "report.json").read_text() != "old"
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_figure_of_an_older_report_does_not_pass_for_the_new_ones(report_of, tmp_path):
    (tmp_path / "losses.png").write_text("mine")
    (tmp_path / "report-losses.png").write_text("old")
    written = save(report_of("interrupted"), tmp_path)
    assert {*written, tmp_path / "losses.png"} == set(tmp_path.iterdir())


def test_a_name_that_is_no_text_does_not_stop_the_page(report_of, tmp_path):
    report = dataclasses.replace(report_of("empty"), provenance={"input": "vae\udcff.npz"})
    save(report, tmp_path)
    assert "vae\\xff.npz" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_files_get_the_permissions_of_any_new_file(report_of, tmp_path):
    (tmp_path / "ordinary").touch()
    save(report_of("empty"), tmp_path)
    assert (tmp_path / "report.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_in_the_way_is_an_input_error_that_names_it(report_of, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file"):
        save(report_of("empty"), tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_an_input_error_that_names_it(report_of, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=str(tmp_path)):
        save(report_of("empty"), tmp_path)


def test_a_full_disk_leaves_the_old_file_whole_and_no_scraps(report_of, tmp_path, monkeypatch):
    (tmp_path / "report.json").write_text("old")

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:10])
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left on device"):
        save(report_of("empty"), tmp_path)
    assert (tmp_path / "report.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
