"""Tables hold the numbers that their writers meant: separators, names, row numbers, labels, and what is no table."""

import sys

import numpy as np
import pandas as pd
import pytest

from klprobe.files import tables
from klprobe.types import InputError

X = np.array([[1.0, 2.5], [3.0, -4.0], [5.0, 6e-3]])


def read(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return tables.read_table(path, path.name)


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("plain.csv", "1,2.5\n3,-4\n5,6e-3\n", ()),
        ("names.csv", "a,b\n1,2.5\n3,-4\n5,6e-3\n", ("a", "b")),
        ("crlf.csv", "a,b\r\n1,2.5\r\n3,-4\r\n5,6e-3\r\n", ("a", "b")),
        ("bom.csv", b"\xef\xbb\xbfa,b\n1,2.5\n3,-4\n5,6e-3", ("a", "b")),
        ("semicolons.csv", "a;b\n1;2.5\n3;-4\n5;6e-3\n", ("a", "b")),
        ("tabs.csv", "a\tb\n1\t2.5\n3\t-4\n5\t6e-3\n", ("a", "b")),
        ("tabs.tsv", "1\t2.5\n3\t-4\n5\t6e-3\n", ()),
        ("savetxt.csv", "1.000e+00 2.500e+00\n3.000e+00 -4.000e+00\n5.000e+00 6.000e-03\n", ()),
        ("comment.csv", "# a,b\n1,2.5\n3,-4\n5,6e-3\n", ("a", "b")),
        ("spaces.csv", "a, b\n1, 2.5\n3, -4\n5, 6e-3\n", ("a", "b")),
        ("quotes.csv", '"a","b"\n"1","2.5"\n"3","-4"\n"5","6e-3"\n', ("a", "b")),
        ("index.csv", ",a,b\n0,1,2.5\n1,3,-4\n2,5,6e-3\n", ("a", "b")),
        ("numbered.csv", "0,1\n1,2.5\n3,-4\n5,6e-3\n", ("0", "1")),
        ("index_numbered.csv", ",0,1\n0,1,2.5\n1,3,-4\n2,5,6e-3\n", ("0", "1")),
        ("label.csv", "label,a,b\n7,1,2.5\n8,3,-4\n9,5,6e-3\n", ("a", "b")),
        ("label_text.csv", "a,b,Label\n1,2.5,cat\n3,-4,dog\n5,6e-3,cat\n", ("a", "b")),
        ("blank_first.csv", "\n\na,b\n1,2.5\n3,-4\n5,6e-3\n", ("a", "b")),
        ("blank_between.csv", "a,b\n1,2.5\n\n3,-4\n5,6e-3\n\n", ("a", "b")),
        ("CAPITALS.CSV", "A,B\n1,2.5\n3,-4\n5,6e-3\n", ("A", "B")),
        ("coordinates.csv", "x,y\n1,2.5\n3,-4\n5,6e-3\n", ("x", "y")),
    ],
)
def test_numbers_are_read_whatever_separates_them_and_however_columns_are_named(tmp_path, name, content, names):
    table = read(tmp_path / name, content)
    assert np.array_equal(table.values, X)
    assert table.names == names


def test_what_pandas_and_numpy_write_comes_back(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3))
    pd.DataFrame(x).to_csv(tmp_path / "a.csv")
    pd.DataFrame(x, columns=list("abc")).to_csv(tmp_path / "b.csv", index=False)
    np.savetxt(tmp_path / "c.csv", x)
    np.savetxt(tmp_path / "d.csv", x, delimiter=",", header="a,b,c")
    for name in "abcd":
        assert np.allclose(tables.read_table(tmp_path / f"{name}.csv", name).values, x, rtol=1e-15), name


def test_one_column_is_points_of_one_number(tmp_path):
    assert read(tmp_path / "a.csv", "z\n1\n2\n3\n").values.tolist() == [[1], [2], [3]]
    assert read(tmp_path / "b.csv", "1\n2\n3\n").values.tolist() == [[1], [2], [3]]


def test_labels_are_whole_numbers_or_none_and_said(tmp_path):
    table = read(tmp_path / "a.csv", "label,a\n7,1\n8,2\n")
    assert table.labels.tolist() == [7, 8]
    assert "'label' is taken for labels" in table.notes[0]
    assert read(tmp_path / "b.csv", "label,a\ncat,1\ndog,2\n").labels is None
    assert read(tmp_path / "c.csv", "target,a\n0.5,1\n1.5,2\n").labels is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.csv", "", "is empty"),
        ("blank.csv", "\n\n", "is empty"),
        ("header_only.csv", "a,b\n", "holds text"),
        ("text.csv", "a,species\n1,setosa\n2,virginica\n", "column 'species' holds text, 'setosa'"),
        ("text_later.csv", "a,b\n1,2\n3,x\n", "could not convert string 'x'"),
        ("missing.csv", "a,b\n1,2\n3,\n", "no table of numbers"),
        ("nan.csv", "a,b\n1,2\n3,nan\n", "1 missing or infinite numbers, first in row 2, column 'b'"),
        ("infinite.csv", "1,2\n3,-inf\n", "first in row 2, column 2"),
        ("ragged.csv", "a,b\n1,2\n3\n", "no table of numbers"),
        ("wide_row.csv", "a,b\n1,2,3\n", "2 names of columns but 3 cells"),
        ("decimal.csv", "a;b\n1,5;2,5\n3,5;4,5\n", "decimal commas"),
        ("excel.csv", b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xff\xfe", "no text"),
        ("utf16.csv", "a,b\n1,2\n".encode("utf-16"), "no text"),
        ("zeros.csv", b"1,2\0\n3,4\n", "no text"),
        ("ids.csv", ",a\n10,1\n17,2\n", "first column has no name"),
        ("two_labels.csv", "label,class,a\n1,2,3\n", "several columns of labels"),
        ("labels_only.csv", "label\n1\n2\n", "no column of numbers"),
        ("lists.csv", 'a\n"[1, 2]"\n"[3, 4]"\n', "holds text"),
        ("underscores.csv", "a,b\n1_000,2\n", "holds text"),
        ("html.csv", "<html>\n<body>404</body>\n", "text"),
    ],
)
def test_what_is_no_table_of_numbers_is_one_line(tmp_path, name, content, words):
    with pytest.raises(InputError, match=words) as caught:
        read(tmp_path / name, content)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        read(tmp_path / "a.parquet", b"PAR1")


def test_parquet_gives_the_numbers_of_its_columns_and_of_lists_in_them(tmp_path):
    pytest.importorskip("pyarrow")
    x = np.random.default_rng(0).normal(size=(6, 3))
    wide = pd.DataFrame(x, columns=list("abc"))
    wide.to_parquet(tmp_path / "wide.parquet")
    wide.assign(label=list("aabbcc")).to_parquet(tmp_path / "label.parquet")
    wide.set_index(np.array([*"uvwxyz"])).astype("f4").to_parquet(tmp_path / "index.parquet")
    pd.DataFrame({"mean": [*x], "logvar": [*-x]}).to_parquet(tmp_path / "lists.parquet")
    found = {name: tables.read_table(tmp_path / f"{name}.parquet", name) for name in ("wide", "label", "index", "lists")}
    assert np.array_equal(found["wide"].values, x)
    assert np.array_equal(found["label"].values, x)
    assert found["lists"].names == ("mean_0", "mean_1", "mean_2", "logvar_0", "logvar_1", "logvar_2")
    assert np.array_equal(found["lists"].values, np.concatenate([x, -x], 1))
    assert np.array_equal(found["index"].values, x.astype("f4"))
    assert "index of its rows is left aside" in found["index"].notes[0]


@pytest.mark.parametrize("harm", ["text", "nulls", "lengths", "cut", "no"])
def test_parquet_that_is_no_table_of_numbers_is_one_line(tmp_path, harm):
    pytest.importorskip("pyarrow")
    frame = {
        "text": pd.DataFrame({"a": [1.0, 2.0], "name": ["x", "y"]}),
        "nulls": pd.DataFrame({"a": [1.0, None]}),
        "lengths": pd.DataFrame({"a": [[1.0], [1.0, 2.0]]}),
    }.get(harm, pd.DataFrame({"a": np.ones(1000)}))
    path = tmp_path / "a.parquet"
    frame.to_parquet(path)
    if harm in ("cut", "no"):
        path.write_bytes(path.read_bytes()[:300] if harm == "cut" else b"no parquet at all")
    with pytest.raises(InputError, match=r"a\.parquet") as caught:
        tables.read_table(path, "a.parquet")
    assert "\n" not in str(caught.value)
