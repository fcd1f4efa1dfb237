"""Untrusted JSON."""

import pytest

from klprobe.files import json_files
from klprobe.types import InputError


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "[-Infinity]", "1e999", "9" * 5000, "[" * 10**5 + "]" * 10**5, "[" * 40 + "]" * 40, '{"a": 1, "a": 2}'),
        *("{", "", '"\\ud800"', '{"\\ud800": 1}', '"\ud800"', " " * (json_files.LONGEST + 1)),
    ],
)
def test_what_json_should_not_hold_is_refused_by_its_label(text):
    with pytest.raises(InputError, match=r"^the settings "):
        json_files.parse(text, "the settings")


def test_what_json_holds_is_read():
    text = '{"a": [1, 2.5, null, true, "\u00e9"], "b": {"c": -3}}'
    assert json_files.parse(text, "x") == {"a": [1, 2.5, None, True, "é"], "b": {"c": -3}}


def test_bytes_that_are_no_text_and_files_of_any_size_are_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not text"):
        json_files.read(tmp_path / "a.json", "a.json")
    with (tmp_path / "b.json").open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(InputError, match="letters"):
        json_files.read(tmp_path / "b.json", "b.json")
