"""CIFAR-10 in both official layouts, unpacked and in archives, at four images a batch."""

import gzip
import io
import pickle
import re
import struct
import tarfile
import tracemalloc

import numpy as np
import pytest
import torch

from klprobe import registry
from klprobe.datasets import cifar_10
from klprobe.files.python2_pickle import read_pickle
from klprobe.types import InputError

FEW = 4
NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
LAYOUTS = ["cifar-10-batches-bin", "cifar-10-batches-py", "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"]


def string2(value: bytes) -> bytes:
    """A string as Python 2 pickles it."""
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def python2_batch(images: np.ndarray, labels) -> bytes:
    """{'batch_label': ..., 'labels': [...], 'data': array, 'filenames': [...]}, as NumPy under Python 2 pickles it."""
    shape = b"K" + bytes([len(images)]) + b"M" + struct.pack("<H", 3072) + b"\x86"
    kind = (
        b"cnumpy\ndtype\n"
        + string2(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + string2(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string2(b"b") + b"\x87R"
    array += b"(K\x01" + shape + kind + b"\x89" + string2(images.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    pairs = string2(b"batch_label") + string2(b"training batch") + string2(b"labels") + numbers
    pairs += string2(b"data") + array + string2(b"filenames") + b"](" + b"".join(string2(b"a.png") for _ in labels) + b"e"
    return b"\x80\x02}(" + pairs + b"u."


@pytest.fixture(autouse=True)
def four_images_a_batch(monkeypatch):
    monkeypatch.setattr(cifar_10, "PER_BATCH", FEW)


@pytest.fixture
def truth():
    draw = np.random.default_rng(0)
    return {name: (draw.integers(0, 256, (FEW, 3072), dtype=np.uint8), draw.integers(0, 10, FEW)) for name in NAMES}


def contents(truth, layout):
    """Name and content of the files of a layout."""
    if "bin" in layout:
        return {f"{n}.bin": np.concatenate([y[:, None].astype(np.uint8), x], 1).tobytes() for n, (x, y) in truth.items()}
    return {n: python2_batch(x, y) for n, (x, y) in truth.items()}


def write(folder, layout, files):
    folder.mkdir(exist_ok=True)
    if not layout.endswith(".gz"):
        (folder / layout).mkdir()
        for name, content in files.items():
            (folder / layout / name).write_bytes(content)
        return
    with tarfile.open(folder / layout, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def load(root, split="all", **settings):
    return cifar_10.Cifar10(**settings).load(split, root)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("below", ["cifar-10", ""])
def test_every_layout_gives_the_images_as_written(tmp_path, truth, layout, below):
    write(tmp_path / below, layout, contents(truth, layout) | {"readme.html": b"no batch"})
    for split, names in (("train", NAMES[:5]), ("test", NAMES[5:]), ("all", NAMES)):
        data = load(tmp_path, split)
        x = np.concatenate([truth[name][0] for name in names]).reshape(-1, 3, 32, 32)
        assert torch.equal(data.x, torch.from_numpy(x))
        assert data.labels.tolist() == np.concatenate([truth[name][1] for name in names]).tolist()
        assert (data.name, data.split, data.notes) == ("cifar-10", split, ())


def test_pickles_of_todays_numpy_are_read_too(truth):
    x, y = truth["test_batch"]
    found = read_pickle(pickle.dumps({b"data": x, b"labels": y.tolist()}, protocol=4), "test_batch")
    assert np.array_equal(found[b"data"], x)
    assert found[b"labels"] == y.tolist()


@pytest.mark.parametrize(
    "content", [b"cos\nsystem\n(S'touch pwned'\ntR.", b"cnumpy\nload\n(S'a'\ntR.", b"cbuiltins\neval\n(S'1'\ntR."]
)
def test_a_pickle_that_asks_for_anything_else_is_refused_and_nothing_runs(tmp_path, truth, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "cifar-10-batches-py", contents(truth, "py") | {"data_batch_2": content})
    with pytest.raises(InputError, match=r"data_batch_2 is damaged, or is not a pickle of arrays .*which no array is made of"):
        load(tmp_path)
    assert not (tmp_path / "pwned").exists()


def test_no_object_of_numpy_is_made_from_a_pickle():
    """An object array, whose content would be pointers, is refused like any array that is not of bytes."""
    for array in (np.array([1, "a", None], dtype=object), np.zeros(3), np.zeros((2, 3), np.uint8, order="F")):
        with pytest.raises(InputError, match="not of bytes in C order"):
            read_pickle(pickle.dumps({b"data": array}, protocol=4), "test_batch")


@pytest.mark.parametrize("keep", [0, 1, 50, 2000, -1])
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_a_truncated_batch_is_named(tmp_path, truth, layout, keep):
    files = contents(truth, layout)
    name = next(iter(files))
    write(tmp_path, layout, files | {name: files[name][:keep]})
    with pytest.raises(InputError, match=name):
        load(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS[2:])
@pytest.mark.parametrize("keep", [0, 10, 300, -9])
def test_a_truncated_archive_is_named(tmp_path, truth, layout, keep):
    write(tmp_path, layout, contents(truth, layout))
    path = tmp_path / layout
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"{layout} is damaged"):
        load(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS[2:])
def test_a_flipped_bit_in_an_archive_is_found(tmp_path, truth, layout):
    write(tmp_path, layout, contents(truth, layout))
    path = tmp_path / layout
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{layout} is damaged"):
        load(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_labels_beyond_nine_and_batches_of_another_size_are_refused(tmp_path, truth, layout):
    x, y = truth["data_batch_3"]
    write(tmp_path / "labels", layout, contents(truth | {"data_batch_3": (x, np.full(FEW, 10))}, layout))
    with pytest.raises(InputError, match=r"data_batch_3.*labels beyond 0 to 9"):
        load(tmp_path / "labels")
    write(tmp_path / "few", layout, contents(truth | {"data_batch_3": (x[:3], y[:3])}, layout))
    with pytest.raises(InputError, match=r"data_batch_3.* holds 3 images, not 4"):
        load(tmp_path / "few")
    data = load(tmp_path / "few", "train", partial=True)
    assert len(data) == 19
    assert data.notes == ("cifar-10 (train) is not whole: 19 of 20 images are here.",)


def test_missing_batches_are_named_and_left_out_only_when_told_to(tmp_path, truth):
    files = contents(truth, "bin")
    files["test_batch_first_1000.bin"] = files.pop("test_batch.bin")
    write(tmp_path, LAYOUTS[0], {name: content for name, content in files.items() if name[-5] not in "45"})
    with pytest.raises(InputError, match=r"lacks data_batch_4\.bin, data_batch_5\.bin\..*cifar-10:partial"):
        load(tmp_path, "train")
    with pytest.raises(InputError, match=r"lacks test_batch\.bin"):
        load(tmp_path, "test")
    data = registry.create("datasets", "cifar-10:partial").load("train", tmp_path)
    assert (len(data), data.name) == (12, "cifar-10:partial")
    assert data.notes == ("cifar-10 (train) is not whole: 12 of 20 images are here.",)
    assert len(load(tmp_path, "test", partial=True)) == FEW


def test_a_whole_layout_is_preferred_to_one_that_lacks_batches(tmp_path, truth):
    write(tmp_path / "cifar-10", LAYOUTS[0], {"data_batch_1.bin": contents(truth, "bin")["data_batch_1.bin"]})
    write(tmp_path, LAYOUTS[3], contents(truth, "py"))
    assert cifar_10.Cifar10().locate(tmp_path) == tmp_path / LAYOUTS[3]


def test_the_real_files_have_their_sizes_and_the_published_means(shared_data, monkeypatch):
    """Channel means over all of CIFAR-10's training images: 0.4914, 0.4822, 0.4465; 30,000 of them come near."""
    monkeypatch.setattr(cifar_10, "PER_BATCH", 10_000)
    data = load(shared_data, "train", partial=True)
    assert data.x.shape == (30_000, 3, 32, 32)
    means = torch.stack([data.floats(slice(i, i + 5000)).mean((0, 2, 3)) for i in range(0, 30_000, 5000)]).mean(0)
    spread = 0.13  # of one image's mean, so 0.13 / sqrt(30000) = 0.00075
    assert (means - torch.tensor([0.4914, 0.4822, 0.4465])).abs().max() < 5 * spread / 30_000**0.5


def test_a_damaged_memo_costs_no_memory():
    """A byte that is flipped can number a memo entry 2^32 - 1, for which pickle's own reader takes 64 GB."""
    assert read_pickle(b"\x80\x02}r\xff\xff\xff\xff.", "test_batch") == {}


def peak_bytes(run):
    """Most memory that Python takes while it runs, beyond what it held before; an InputError is part of it."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught:
            run()
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 30) + b".",  # bytearrays
        b"\x80\x05\x8e" + struct.pack("<Q", 1 << 30) + b".",  # bytes
        b"\x80\x05\x8d" + struct.pack("<Q", 1 << 30) + b".",  # text
        b"\x80\x05\x8b" + struct.pack("<i", 1 << 30) + b".",  # a whole number
        b"\x80\x05\x95" + struct.pack("<Q", 1 << 30) + b".",  # a frame
        b"\x80\x02" + b"]" * 5_000_000,  # lists
        b"\x80\x02" + b"(" * 5_000_000,  # marks
    ],
)
def test_a_pickle_takes_memory_by_what_it_holds_and_not_by_what_it_claims(content):
    peak, said = peak_bytes(lambda: read_pickle(content, "test_batch"))
    assert peak < 250e6
    assert "test_batch is damaged" in said


def test_labels_that_are_lists_in_lists_are_not_unfolded(tmp_path, truth):
    """Thirty lists, each twice in the next, are 2^30 labels to NumPy."""
    nested = [0]
    for _ in range(30):
        nested = [nested, nested]
    batch = pickle.dumps({b"data": truth["test_batch"][0], b"labels": nested}, protocol=4)
    write(tmp_path, "cifar-10-batches-py", contents(truth, "py") | {"test_batch": batch})
    with pytest.raises(InputError, match="as many labels"):
        load(tmp_path, "test")


def long_name(size):
    head = tarfile.TarInfo("././@LongLink")
    head.type, head.size = tarfile.GNUTYPE_LONGNAME, size
    return head.tobuf(tarfile.GNU_FORMAT)[:512]


def empty(kind=tarfile.REGTYPE, size=0):
    head = tarfile.TarInfo("a")
    head.type, head.size = kind, size
    return head.tobuf(tarfile.GNU_FORMAT)[:512]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (long_name(1 << 27) + bytes(1 << 27), "a name of"),
        (empty(tarfile.XHDTYPE, 1 << 27) + bytes(1 << 27), "a name of"),
        (empty() * 1001, "more than 1,000 members"),
        (empty(size=1 << 33), "impossible size"),
        (empty(size=-1024), "impossible size|negative|invalid|offset"),
        (long_name(512) * 3000, "recursion|damaged"),
    ],
)
def test_an_archive_takes_memory_by_its_batches_alone(tmp_path, content, why):
    (tmp_path / "cifar-10").mkdir()
    with gzip.open(tmp_path / "cifar-10" / "cifar-10-binary.tar.gz", "wb", 1) as packed:
        packed.write(content)
    peak, said = peak_bytes(lambda: load(tmp_path))
    assert peak < 50e6
    assert re.search(rf"is damaged or cut short \(.*({why})", said)


def test_an_archive_that_never_ends_is_left(tmp_path, truth, monkeypatch):
    write(tmp_path, "cifar-10-binary.tar.gz", contents(truth, "bin"))
    monkeypatch.setattr(cifar_10, "LARGEST_WHOLE", 100_000)
    with gzip.open(tmp_path / "cifar-10-binary.tar.gz", "ab") as packed:
        packed.write(bytes(2 << 20))
    with pytest.raises(InputError, match="unpacks to more than 100,000 bytes"):
        load(tmp_path)


def test_links_to_devices_and_batches_beyond_the_limit_are_refused(tmp_path, truth, monkeypatch):
    write(tmp_path, LAYOUTS[0], contents(truth, "bin"))
    monkeypatch.setattr(cifar_10, "LARGEST", 100)
    with pytest.raises(InputError, match=r"data_batch_1\.bin has more than 100 bytes"):
        load(tmp_path)
    monkeypatch.setattr(cifar_10, "LARGEST", 1 << 20)
    (tmp_path / LAYOUTS[0] / "data_batch_3.bin").unlink()
    (tmp_path / LAYOUTS[0] / "data_batch_3.bin").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"data_batch_3\.bin is no plain file"):
        load(tmp_path)
