"""What a user's Python gives as data is read row by row as she means it, or refused in one line that says what to give."""

import dataclasses
import textwrap

import numpy as np
import pytest
import torch

from klprobe.datasets import dataset
from klprobe.formats import Request
from klprobe.formats._inputs import open_inputs
from klprobe.runtime.user_data import points_of
from klprobe.types import InputError

CODE = """
import collections, dataclasses, functools
import numpy as np, pandas as pd, scipy.sparse as sp, torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset

x = np.arange(12, dtype="f4").reshape(6, 2)
t, y = torch.from_numpy(x), np.array([0, 1, 0, 1, 2, 2])

class Items(Dataset):
    def __init__(self, give=lambda i: t[i], length=6):
        self.give, self.length = give, length
    def __len__(self):
        return self.length
    def __getitem__(self, i):
        return self.give(i)

class Stream(IterableDataset):
    def __iter__(self):
        return iter([(row, 0) for row in t])

class Plain:
    def __len__(self): return 6
    def __getitem__(self, i): return x[i]

class Fails(Plain):
    def __getitem__(self, i):
        if i == 4: raise FileNotFoundError("scan 4 is gone\\nsecond line")
        return x[i]

class FailsAtOnce(Plain):
    def __getitem__(self, i): raise KeyError("x")

class NoLength(Plain):
    def __len__(self): raise TypeError("no length")

class NeedsRoot(Plain):
    def __init__(self, root): pass

@dataclasses.dataclass
class Pair:
    x: object
    y: int

Named = collections.namedtuple("Named", "x y")

# numbers of other kinds
array, tensor, double = x, t, x.astype("f8")
big_endian, half, swapped_int, longdouble = x.astype(">f4"), x.astype("f2"), x.astype(">i4"), x.astype(np.longdouble)
u16, u32, u64, i8, booleans = x.astype("u2"), x.astype("u4"), x.astype("u8"), x.astype("i1"), x.astype(bool)
fortran, backwards, strided = np.asfortranarray(x), x[::-1], np.repeat(x, 2, 0)[::2]
matrix, masked_without = np.matrix(x), np.ma.masked_array(x, np.zeros_like(x))
grad = t.clone().requires_grad_()
bfloat = t.bfloat16()
objects, object_rows = x.astype(object), np.empty(6, object)
object_rows[:] = list(x)
read_only = x.copy(); read_only.flags.writeable = False

# tables and sparse matrices
frame, frame_text_index = pd.DataFrame(x), pd.DataFrame(x, index=list("abcdef"), columns=["a", "b"])
frame_nullable, frame_mixed = pd.DataFrame(x).convert_dtypes(), pd.DataFrame({"a": x[:, 0].astype("i8"), "b": x[:, 1]})
frame_objects = pd.DataFrame(x.astype(object))
frame_twice = pd.DataFrame(x, columns=["a", "a"])
csr, csc, coo, lil, csr_array = sp.csr_matrix(x), sp.csc_matrix(x), sp.coo_matrix(x), sp.lil_matrix(x), sp.csr_array(x)
torch_sparse, torch_csr = t.to_sparse(), t.to_sparse_csr()
sparse_items = Items(lambda i: sp.csr_matrix(x[i : i + 1]))

# data sets, items of all kinds
dataset, labelled, subset = TensorDataset(t), TensorDataset(t, torch.from_numpy(y)), Subset(TensorDataset(t), range(6))
plain, of_class, of_dataset_class = Plain(), Plain, Items
dicts = Items(lambda i: {"image": t[i], "label": int(y[i])})
dict_numpy, dict_odd = Items(lambda i: {"pixel_values": x[i], "id": i}), Items(lambda i: {"signal": x[i], "label": 3})
ordered = Items(lambda i: collections.OrderedDict(x=x[i], y=1))
pairs_of_lists, lists = [[row.tolist(), 1] for row in x], x.tolist()
tuples = [tuple(row.tolist()) for row in x]
named_tuples = [Named(row, 1) for row in t]
numpy_list, three_parts = list(x), Items(lambda i: (t[i], 1, "file.png"))
singles = Items(lambda i: (t[i],))
mixed_labels = Items(lambda i: (t[i], "cat"))
mapping, mapping_labels = {"x": x}, {"images": x, "labels": y}
with_labels, with_torch_labels = (x, y), (t, torch.from_numpy(y))
with_text_labels, with_object_labels, frame_labels = (x, np.array(list("abcdef"))), (x, y.astype(object)), (pd.DataFrame(x), y)
with_list_labels = (x, y.tolist())
zipped, concatenated = zip(x, y), ConcatDataset([TensorDataset(t[:2]), TensorDataset(t[2:])])
function, a_lambda, partial = (lambda: x), (lambda: TensorDataset(t)), functools.partial(lambda k: x, 3)
def defaults(split="train", **more): return x
def generator():
    for row in x: yield row

# loaders
loader = DataLoader(TensorDataset(t), batch_size=4)
loader_labels = DataLoader(TensorDataset(t, torch.from_numpy(y)), batch_size=4)
loader_dict = DataLoader(dicts, batch_size=5)
loader_stream, stream = DataLoader(Stream(), batch_size=4), Stream()
loader_function = lambda: loader

# what cannot be
fails, fails_at_once, no_length, needs_root = Fails(), FailsAtOnce(), NoLength(), NeedsRoot
loader_fails = DataLoader(Fails(), batch_size=2)
def needs(split, root): return x
def broken(): raise RuntimeError("disk is\\nfull")
number, text, nothing, flat, scalar = 3, "x.npy", None, x[:, 0], np.float32(3)
complex_array, complex_tensor, strings, dates = x * 1j, t * 1j, x.astype(str), x.astype("M8[s]")
ragged, ragged_lists = np.array([x[0], x[0, :1]], dtype=object), [[1.0, 2.0], [3.0]]
object_text = np.array([["a", 1.0]], dtype=object)
structured = np.zeros(6, dtype=[("a", "f4"), ("b", "f4")])
masked = np.ma.masked_array(x, x == 3)
frame_text, frame_dates = pd.DataFrame({"a": x[:, 0], "species": list("abcdef")}), pd.DataFrame({"a": pd.to_datetime(y)})
frame_missing, series = pd.DataFrame({"a": [1.0, None], "b": [1.0, 2.0]}), pd.DataFrame(x)[0]
frame_missing_objects = pd.DataFrame({"a": [1, None], "b": [1, 2]}, dtype=object)
train_and_test, three_arrays = (x[:3], x[3:]), (t, t, t)
random_split = [Subset(labelled, range(3)), Subset(labelled, range(3, 6))]
two_arrays, two_lists = (x[:4], x[4:]), {"train": x[:4], "test": x[4:]}
dict_two, dict_none = Items(lambda i: {"left": x[i], "right": x[i]}), Items(lambda i: {})
dict_both = Items(lambda i: {"x": x[i], "image": x[i]})
empty_list, empty_array, empty_set = [], x[:0], Items(length=0)
nans, infinite_item = np.where(x == 5, np.nan, x), Items(lambda i: t[i] / (0.0 if i == 3 else 1.0))
shapes, kinds = Items(lambda i: t[i, : 1 + i % 2]), Items(lambda i: t[i].double() if i else t[i])
one_number, words = Items(lambda i: t[i, 0]), Items(lambda i: "a.png")
one_image = Image.new("RGB", (4, 4))
own_items = Items(lambda i: Pair(x[i], 1))
meta, a_set = t.to("meta"), {1, 2}
huge = x.astype("u8") + 2**63
module = torch.nn.Identity()
"""

GOOD = (
    "array",
    "tensor",
    "double",
    "big_endian",
    "half",
    "swapped_int",
    "longdouble",
    "u16",
    "u32",
    "u64",
    "i8",
    "fortran",
    "strided",
    "matrix",
    "masked_without",
    "grad",
    "bfloat",
    "objects",
    "object_rows",
    "read_only",
    "frame",
    "frame_text_index",
    "frame_nullable",
    "frame_mixed",
    "frame_objects",
    "frame_twice",
    "csr",
    "csc",
    "coo",
    "lil",
    "csr_array",
    "torch_sparse",
    "torch_csr",
    "sparse_items",
    "dataset",
    "labelled",
    "subset",
    "plain",
    "of_class",
    "of_dataset_class",
    "dicts",
    "dict_numpy",
    "dict_odd",
    "ordered",
    "pairs_of_lists",
    "lists",
    "tuples",
    "named_tuples",
    "numpy_list",
    "three_parts",
    "singles",
    "mixed_labels",
    "mapping",
    "mapping_labels",
    "with_labels",
    "with_torch_labels",
    "with_text_labels",
    "with_list_labels",
    "with_object_labels",
    "frame_labels",
    "concatenated",
    "function",
    "a_lambda",
    "partial",
    "defaults",
    "generator",
    "loader",
    "loader_labels",
    "loader_dict",
    "loader_stream",
    "stream",
    "loader_function",
)
LABELLED = (
    "labelled",
    "dicts",
    "mapping_labels",
    "with_labels",
    "with_torch_labels",
    "frame_labels",
    "with_list_labels",
    "loader_labels",
    "loader_dict",
)
BAD = {
    "fails": r"failed at item 4 \(FileNotFoundError: scan 4 is gone\): repair it",
    "fails_at_once": "failed at item 0 .KeyError",
    "no_length": "no length",
    "needs_root": r"needs arguments \(root\)",
    "loader_fails": "failed while it dealt out its batches .FileNotFoundError",
    "needs": r"needs arguments \(split, root\)",
    "broken": r"failed when it was called \(RuntimeError: disk is\)",
    "number": "is a int, which cannot",
    "text": "is a str, which cannot",
    "nothing": "is a NoneType, which cannot",
    "flat": r"of shape \(6,\), but data have shape .*write x\[:, None\]",
    "scalar": "data have shape",
    "complex_array": "complex",
    "complex_tensor": "is complex, and no data",
    "strings": "<U",
    "dates": "datetime64",
    "ragged": "objects of shapes",
    "ragged_lists": "different shapes",
    "object_text": "objects, 'a'",
    "structured": "a.*b",
    "masked": "masked numbers",
    "frame_text": "column 'species' holds .*, 'a', and no numbers",
    "frame_dates": "column 'a' holds datetime64",
    "frame_missing": "NaN or infinite numbers, first at point 1",
    "frame_missing_objects": "column 'a' has missing numbers",
    "series": "data have shape",
    "two_arrays": r"2 arrays, of shapes \(4, 2\) and \(2, 2\)",
    "train_and_test": r"2 arrays, of shapes \(3, 2\) and \(3, 2\)",
    "three_arrays": "3 arrays, of shapes",
    "random_split": "item 0 is itself a data set",
    "two_lists": "dictionaries of 'train', 'test', and which",
    "dict_two": "dictionaries of 'left', 'right', and which",
    "dict_none": "dictionaries of nothing",
    "dict_both": "dictionaries of 'x', 'image', and which",
    "empty_list": "is empty",
    "empty_array": "data have shape",
    "empty_set": "is empty",
    "nans": "NaN or infinite numbers, first at point 2",
    "infinite_item": "NaN or infinite numbers, first at point 3",
    "shapes": "different shapes",
    "kinds": "different types: torch.float32, torch.float64",
    "one_number": "item 0 is one number",
    "words": "item 0 is a str, 'a.png', and no numbers",
    "one_image": "is one image",
    "own_items": "item 0 is a Pair",
    "meta": "without values",
    "a_set": "is a set",
    "huge": "beyond 2.63",
    "module": "failed when it was called|needs arguments",
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("user")
    (folder / "of_a_user.py").write_text(textwrap.dedent(CODE))
    return folder


@pytest.fixture
def inputs(here, monkeypatch):
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(here))
    return lambda name, **asked: open_inputs(Request(data=f"of_a_user:{name}", **asked), "encoder.pt")


X = torch.arange(12.0).reshape(6, 2)


@pytest.mark.parametrize("name", GOOD)
def test_points_are_the_rows_whatever_they_come_in(inputs, name):
    found = inputs(name)
    assert len(found) == 6
    assert torch.equal(found.batch(0, 6), X)
    assert torch.equal(torch.cat([found.batch(0, 4), found.batch(4, 6)]), X), "block by block as well"


@pytest.mark.parametrize("name", GOOD)
def test_a_data_set_to_train_on_reads_the_same_and_its_labels(inputs, name, here):
    inputs("array")  # puts the module within reach
    data = dataset(f"of_a_user:{name}").load("all")
    assert torch.equal(data.floats(), X)
    assert (data.labels.tolist() if data.labels is not None else None) == {
        "pairs_of_lists": [1] * 6,
        "dict_odd": [3] * 6,
        "ordered": [1] * 6,
        "named_tuples": [1] * 6,
        "three_parts": [1] * 6,
        "loader_stream": [0] * 6,
        "stream": [0] * 6,
        **{key: [0, 1, 0, 1, 2, 2] for key in LABELLED},
    }.get(name)


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_data_is_one_line(inputs, name):
    with pytest.raises(InputError, match=BAD[name]) as caught:
        inputs(name).batch(0, 6)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_booleans_and_rows_in_reverse(inputs):
    assert torch.equal(inputs("booleans").batch(0, 6), (X != 0).float())
    assert torch.equal(inputs("backwards").batch(0, 6), X.flip(0))


def test_what_is_left_aside_is_said(inputs):
    assert "the first of the 3 parts of each item is the data" in inputs("three_parts").notes[0]
    assert "'pixel_values' of each item is the data; 'id' left aside" in inputs("dict_numpy").notes[0]
    assert "'images' is the data; 'labels' left aside" in inputs("mapping_labels").notes[0]
    assert "in the order in which it deals them out" in inputs("loader").notes[0]
    assert not any(inputs(name).notes for name in ("labelled", "array", "mixed_labels", "lists"))


def test_what_a_loader_drops_is_counted():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(10, 2)), batch_size=4, drop_last=True)
    found = points_of(loader, "loader")
    assert found.length == 8
    assert found.notes[-1] == "loader deals out 8 of the 10 points of its data set."


def test_a_zip_can_be_gone_through_once(inputs):
    assert torch.equal(inputs("zipped").batch(0, 6), X)


def test_two_views_of_a_point_are_not_taken_for_a_point_and_its_label():
    found = points_of([(torch.ones(3), torch.zeros(3))] * 4, "views")
    assert "first of the 2 parts" in found.notes[0]
    assert found.fetch(0, 4)[1] is None


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("L", (1, 3, 4)), ("1", (1, 3, 4)), ("LA", (1, 3, 4)), ("RGB", (3, 3, 4)), ("RGBA", (3, 3, 4)), ("P", (3, 3, 4))],
)
def test_images_of_pillow_are_points_with_their_channels_first(mode, shape):
    from PIL import Image

    picture = Image.new("RGB", (4, 3), (255, 255, 255)).convert(mode)
    x, labels = points_of([(picture, i) for i in range(2)], "pictures").fetch(0, 2)
    assert (tuple(x.shape[1:]), x.dtype, labels.tolist()) == (shape, torch.uint8, [0, 1])
    assert bool((x == 255).all())


def test_a_shuffled_loader_gives_the_same_points_each_time_and_leaves_the_global_generator_alone():
    x = torch.arange(40.0).reshape(20, 2)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=3, shuffle=True)
    before = torch.get_rng_state()
    first, second = (points_of(loader, "loader").fetch(0, 20)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[first[:, 0].argsort()], x)
    assert torch.equal(torch.get_rng_state(), before)


def test_more_points_than_memory_holds_end_an_endless_generator(monkeypatch):
    monkeypatch.setattr("klprobe.runtime.user_data.machine_bytes", lambda: 1e6)

    def endless():
        while True:
            yield np.zeros(100)

    with pytest.raises(InputError, match="half of this machine's memory"):
        points_of(endless(), "endless")


def test_fields_of_points_are_what_their_words_say():
    assert [field.name for field in dataclasses.fields(type(points_of(np.ones((2, 2)), "x")))] == ["length", "fetch", "notes"]
