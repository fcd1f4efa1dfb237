from concurrent.futures import ThreadPoolExecutor

from klprobe.runtime.records import keep_record, read_records


def test_records_that_several_write_at_once_are_all_kept(tmp_path):
    """Locks belong to an open file, so that threads, which open their own, stand for processes."""
    path = tmp_path / "records.jsonl"
    written = [{"seed": seed, "padding": "x" * 2000} for seed in range(400)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda record: keep_record(path, record), written))
    assert sorted(record["seed"] for record in read_records(path)) == list(range(400))


def test_a_line_that_a_killed_run_cut_short_is_no_record_and_gives_way_to_the_next(tmp_path):
    path = tmp_path / "records.jsonl"
    keep_record(path, {"seed": 0})
    with path.open("a") as file:
        file.write('{"seed": 1, "val')
    assert read_records(path) == [{"seed": 0}]
    keep_record(path, {"seed": 2})
    assert read_records(path) == [{"seed": 0}, {"seed": 2}]
