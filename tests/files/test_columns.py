"""Groups and weights of rows from arrays and tables."""

import numpy as np
import pytest

from klprobe.files.columns import as_groups, as_weights, check_column, read_column
from klprobe.types import InputError


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "g.npy", np.array([4, 4, 7]))
    np.savez(tmp_path / "two.npz", groups=np.array(["a", "b", "b"]), weights=np.array([1.0, 2.0, 3.0]))
    (tmp_path / "table.csv").write_text("cell,donor,w\n1,x,0.5\n2,y,1\n3,x,2\n", encoding="utf-8")
    (tmp_path / "bare.txt").write_text("x\ny\nx\n", encoding="utf-8")
    (tmp_path / "headed.csv").write_text("donor\nx\ny\nx\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("g.npy", [0, 0, 1]),
        ("two.npz", [0, 1, 1]),
        ("two.npz:groups", [0, 1, 1]),
        ("table.csv:donor", [0, 1, 0]),
        ("bare.txt", [0, 1, 0]),
        ("headed.csv", [0, 1, 0]),
        ("headed.csv:donor", [0, 1, 0]),
    ],
)
def test_groups_are_read_from_arrays_and_columns(folder, spec, expected):
    assert as_groups(read_column(str(folder / spec), "--groups", 3), "g").tolist() == expected


@pytest.mark.parametrize(("spec", "expected"), [("two.npz:weights", [1.0, 2.0, 3.0]), ("table.csv:w", [0.5, 1.0, 2.0])])
def test_weights_are_read_from_arrays_and_columns(folder, spec, expected):
    assert as_weights(read_column(str(folder / spec), "--weights", 3), "w").tolist() == expected


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("none.csv", "no such file"),
        ("table.csv", "columns 'cell', 'donor', 'w', and not one called 'groups'"),
        ("table.csv:owner", "not one called 'owner'"),
        ("two.npz:owner", "holds no array 'owner', but 'groups', 'weights'"),
        (".", "no such file"),
    ],
)
def test_what_cannot_be_found_is_named_with_what_there_is(folder, spec, words):
    with pytest.raises(InputError, match=words):
        read_column(str(folder / spec), "--groups", 3)


@pytest.mark.parametrize("spec", ["g.npy", "table.csv:donor", "bare.txt"])
def test_another_number_of_rows_is_refused_with_both_numbers(folder, spec):
    with pytest.raises(InputError, match="N = 50 rows"):
        read_column(str(folder / spec), "--groups", 50)


def test_values_that_name_no_group_or_are_no_number_are_refused():
    with pytest.raises(InputError, match="names no group in 1 of 3 rows"):
        as_groups(np.array(["a", "", "b"]), "g")
    with pytest.raises(InputError, match="none missing"):
        as_groups(np.array([1.0, np.nan]), "g")
    with pytest.raises(InputError, match="no numbers, such as 'a'"):
        as_weights(np.array(["a", "b"]), "w")
    with pytest.raises(InputError, match="one value a row"):
        check_column(np.zeros((3, 2)), "g", 3)
    assert check_column(np.zeros((3, 1)), "g", 3).shape == (3,)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "o.npy", np.array(["a", "b"], dtype=object), allow_pickle=True)
    with pytest.raises(InputError):
        read_column(str(tmp_path / "o.npy"), "--groups", 2)
