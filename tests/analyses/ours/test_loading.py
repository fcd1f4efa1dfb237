"""The benchmark of loading, in its quick mode."""

import json

import torch

from analyses.ours import loading


def test_the_quick_mode_measures_what_is_here_and_writes_no_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loading, "RECORDS", tmp_path / "loading.jsonl")
    monkeypatch.setattr(loading, "NAMES", ("ring", "mnist"))
    monkeypatch.setattr(loading, "FACES", (64, 3, 8, 8))
    monkeypatch.setattr("sys.argv", ["loading", "--quick", "--data-root", str(tmp_path)])
    with torch.random.fork_rng():
        loading.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| ring", "| memory-mapped 64 x 64"]
    assert "aligned JPEGs a second" in lines[-1]
    assert not list(tmp_path.iterdir())


def test_a_table_can_be_made_of_every_record():

    for line in loading.RECORDS.read_text().splitlines():
        assert "batches of 64 a second" in loading.table(json.loads(line))
