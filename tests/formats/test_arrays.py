"""Posteriors from plain arrays: what is read is what was written, and bad input is refused in words."""

import io
import json
import math
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from klprobe.cli import main
from klprobe.distributions.posteriors import DiagonalGaussian, SampleOnly
from klprobe.files import npy
from klprobe.formats import Request, _tensors, arrays, load
from klprobe.types import InputError

N, D = 7, 3
EVERYTHING = slice(None)


def values(seed: int = 0, low: float = -1.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(low, 1.0, (N, D))


def write(folder, container: str, **tensors: np.ndarray):
    """The same tensors as .npz, .safetensors or a folder of .npy."""
    if container == "npz":
        np.savez(folder / "q.npz", **tensors)
        return folder / "q.npz"
    if container == "safetensors":
        save_file({name: array.copy(order="C") for name, array in tensors.items()}, folder / "q.safetensors")
        return folder / "q.safetensors"
    (folder / "q").mkdir()
    for name, array in tensors.items():
        np.save(folder / "q" / f"{name}.npy", array)
    return folder / "q"


@pytest.fixture(params=["npz", "safetensors", "folder"])
def container(request) -> str:
    return request.param


def refused(path, *words: str, request: Request | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load(path, request)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message, message
    return message


@pytest.mark.parametrize("spread", ["logvar", "var", "std"])
def test_mean_with_one_spread_is_that_diagonal_gaussian(tmp_path, container, spread):
    mean, given = values(0), values(1, low=0.1)
    encoded = load(write(tmp_path, container, mean=mean, **{spread: given}))
    expected = {"logvar": np.exp(0.5 * given), "var": np.sqrt(given), "std": given}[spread]
    assert isinstance(encoded.posterior, DiagonalGaussian)
    got_mean, got_std = encoded.posterior.rows(EVERYTHING)
    np.testing.assert_allclose(got_mean.numpy(), mean, rtol=0)
    np.testing.assert_allclose(got_std.numpy(), expected, rtol=1e-15)
    assert (encoded.split, encoded.trained_on, encoded.prior) == ("unknown", "unknown", None)
    json.dumps(encoded.provenance, allow_nan=False)


def test_samples_alone_and_mean_alone_can_only_be_sampled(tmp_path, container):
    for name, deterministic in (("samples", False), ("mean", True)):
        folder = tmp_path / name
        folder.mkdir()
        posterior = load(write(folder, container, **{name: values()})).posterior
        assert isinstance(posterior, SampleOnly)
        assert posterior.deterministic is deterministic
        np.testing.assert_array_equal(posterior.samples.numpy(), values())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int64", "uint16", ">f4", ">i4", "longdouble"])
def test_every_real_dtype_gives_the_same_numbers(tmp_path, dtype):
    mean = np.arange(N * D).reshape(N, D).astype(dtype)
    posterior = load(write(tmp_path, "folder", mean=mean, std=mean + 1)).posterior
    for got, expected in zip(posterior.rows(EVERYTHING), (mean, mean + 1), strict=True):
        np.testing.assert_array_equal(got.numpy(), expected.astype(np.float64))


def test_bfloat16_in_safetensors_is_read(tmp_path):
    mean = torch.arange(N * D).reshape(N, D).bfloat16()
    save_torch({"mean": mean, "std": mean + 1}, tmp_path / "q.safetensors")
    assert torch.equal(load(tmp_path / "q.safetensors").posterior.rows(EVERYTHING)[0], mean.double())


def test_fortran_order_and_compression_do_not_change_the_numbers(tmp_path):
    mean = np.asfortranarray(values())
    np.savez_compressed(tmp_path / "q.npz", mean=mean, var=values(1, low=0.1), label=np.arange(N))
    for path in (tmp_path / "q.npz", write(tmp_path, "folder", mean=mean, var=values(1, low=0.1))):
        np.testing.assert_array_equal(load(path).posterior.mean.numpy(), mean)


def test_a_large_folder_stays_on_disk_and_is_never_written_to(tmp_path, monkeypatch):
    path = write(tmp_path, "folder", mean=np.zeros((100_000, 10)), logvar=np.zeros((100_000, 10)))
    before = (path / "mean.npy").read_bytes()
    monkeypatch.setattr(npy, "most_read", lambda: 1_000_000)
    monkeypatch.setattr(_tensors, "VALUES_AT_ONCE", 1000)
    tracemalloc.start()
    mean = load(path).posterior.mean
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6  # the arrays are 8 MB each
    with pytest.raises(TypeError):
        mean[0, 0] = 99.0
    assert (path / "mean.npy").read_bytes() == before


def test_a_file_that_is_cut_after_it_was_opened_changes_no_number(tmp_path):
    """A mapped file would end the process here, by SIGBUS and without a word."""
    mean = values()
    path = write(tmp_path, "folder", mean=mean, logvar=values(1))
    posterior = load(path).posterior
    for name in ("mean", "logvar"):
        with (path / f"{name}.npy").open("r+b") as stream:
            stream.truncate(64)
    np.testing.assert_array_equal(posterior.rows(slice(None))[0].numpy(), mean)


def test_values_are_looked_at_a_block_at_a_time(monkeypatch):
    monkeypatch.setattr(_tensors, "VALUES_AT_ONCE", 2 * D)
    sizes = []
    assert not _tensors._find(torch.zeros(N, D), lambda block: sizes.append(block.numel()) or block != 0)
    assert (max(sizes), sum(sizes)) == (2 * D, N * D)


def test_a_file_says_which_split_its_points_are(tmp_path):
    np.savez(tmp_path / "q.npz", mean=values(), std=values(1, low=0.1), split="test", trained_on="train")
    for request in (None, Request(split="test")):
        encoded = load(tmp_path / "q.npz", request)
        assert (encoded.split, encoded.trained_on) == ("test", "train")
    refused(tmp_path / "q.npz", "test split", "--split train", request=Request(split="train"))
    save_file({"samples": values()}, tmp_path / "q.safetensors", metadata={"klprobe.split": "train"})
    assert load(tmp_path / "q.safetensors").split == "train"
    np.savez(tmp_path / "odd.npz", mean=values(), split="monday")
    refused(tmp_path / "odd.npz", "monday", "train, test")


def test_posteriors_cannot_encode_another_data_set(tmp_path):
    refused(write(tmp_path, "npz", mean=values()), "--data", "digits", request=Request(data="digits"))


def test_the_header_of_safetensors_decides_before_the_names(tmp_path):
    path = tmp_path / "q.safetensors"
    for kind, mine in ((arrays.KIND, True), ("checkpoint", False), ("something-newer", False)):
        save_file({"mean": values()}, path, metadata={"klprobe.kind": kind})
        assert arrays.Arrays().matches(path) is mine
    refused(path, "something-newer", "update")
    save_file({"encoder.weight": values()}, path)
    refused(path, "encoder.weight", "logvar=")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"mean": values(), "logvar": values(), "std": values()}, ("logvar and std", "exactly one")),
        ({"mean": values(), "samples": values()}, ("'mean', 'samples'", "alone")),
        ({"logvar": values()}, ("'logvar'", "needs")),
        ({"mean": values(), "logvar": values()[:5]}, ("mean (7, 3)", "logvar (5, 3)", "disagree")),
        ({"mean": values()[:, 0]}, ("'mean'", "(7,)", "[:, None]")),
        ({"mean": np.array(0.5)}, ("'mean'", "()", "one row per data point")),
        ({"mean": np.zeros((4, 2, 3, 3))}, ("'mean'", "(4, 2, 3, 3)", "reshape(len(mean), -1)")),
        ({"samples": values()[:1]}, ("'samples'", "N = 1", "at least 2")),
        ({"samples": values()[:0]}, ("'samples'", "N = 0", "at least 2")),
        ({"samples": values()[:, :0]}, ("'samples'", "D = 0")),
        ({"mean": values(), "var": -values(1, low=0.1)}, ("'var'", "21 values", "[0, 0]", "negative", "logvar")),
        ({"mean": values(), "std": 0 * values()}, ("'std'", "21 values", "zero", "mean alone")),
        ({"mean": values(), "logvar": values() - 1500}, ("'logvar'", "21 values", "700", "clamp")),
        ({"mean": values() > 0}, ("'mean'", "bool", "float32")),
    ],
    ids=lambda case: "-".join(case) if isinstance(case, dict) else "",
)
def test_unusable_tensors_are_refused_by_name(tmp_path, container, tensors, words):
    refused(write(tmp_path, container, **tensors), *words)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(tmp_path, container, bad, monkeypatch):
    monkeypatch.setattr(_tensors, "VALUES_AT_ONCE", 2 * D)
    mean = values()
    mean[4, 1] = mean[6, 0] = mean[6, 2] = bad
    refused(write(tmp_path, container, mean=mean, logvar=values()), "'mean'", "3 values", "[4, 1]", "NaN or infinite")


@pytest.mark.parametrize(
    ("array", "word"),
    [(values() + 1j, "complex128"), (values().astype(str), "<U32"), (np.zeros((N, D), [("a", "f4")]), "[('a', '<f4')]")],
)
def test_what_is_no_real_number_is_refused(tmp_path, array, word):
    for container in ("npz", "folder"):
        refused(write(tmp_path, container, mean=array), "mean", word, "real numbers")


class Trap:
    """A pickle that shouts when it is opened."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was opened",))


def test_pickles_are_never_opened(tmp_path):
    trap = np.array([[Trap(), Trap()]] * N, dtype=object)
    for container in ("npz", "folder"):
        refused(write(tmp_path, container, mean=trap), "mean", "never unpickles")
    torch.save({"mean": torch.zeros(2, 2)}, tmp_path / "model.pt")
    (tmp_path / "model.pt").rename(tmp_path / "disguised.model")
    torch.save({"mean": torch.zeros(2, 2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "codes").write_bytes(pickle.dumps(Trap()))
    for name in ("disguised.model", "old.pth", "codes"):
        refused(tmp_path / name, "pickle", "numpy.savez")


def test_every_truncation_is_refused_without_a_crash(tmp_path, container):
    path = write(tmp_path, container, mean=values(), logvar=values(1))
    file = path / "logvar.npy" if container == "folder" else path
    whole = file.read_bytes()
    for size in range(0, len(whole), 7):
        file.write_bytes(whole[:size])
        refused(path)


def test_a_flipped_bit_in_a_zip_is_found(tmp_path):
    path = write(tmp_path, "npz", mean=values())
    damaged = bytearray(path.read_bytes())
    damaged[200] ^= 1
    path.write_bytes(damaged)
    refused(path, "damaged")


def npy_bytes(shape: tuple[int, ...], data: bytes, version: bytes = b"\x01\x00") -> bytes:
    header = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version[0] == 1 else "<I", len(header)) + header + data


@pytest.mark.parametrize("shape", [(10**6, 10**6), (10**12,), (2**40, 2**40), (-2, -12), (2, -3)])
def test_a_header_that_lies_about_its_shape_takes_no_memory(tmp_path, shape):
    lie = npy_bytes(shape, bytes(24))
    with zipfile.ZipFile(tmp_path / "q.npz", "w") as archive:
        archive.writestr("mean.npy", lie)
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "mean.npy").write_bytes(lie)
    tracemalloc.start()
    for path in (tmp_path / "q.npz", tmp_path / "q"):
        refused(path, "mean", str(shape))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_safetensors_that_lie_about_their_shape_are_refused(tmp_path):
    header = json.dumps({"mean": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 24]}}).encode()
    for size in (len(header), 2**60):
        (tmp_path / "q.safetensors").write_bytes(struct.pack("<Q", size) + header + bytes(24))
        refused(tmp_path / "q.safetensors", "damaged")


def test_a_zip_bomb_is_refused_before_it_goes_off(tmp_path, monkeypatch):
    monkeypatch.setattr(npy, "INFLATE_FREE", 1 << 20)
    np.savez_compressed(tmp_path / "q.npz", mean=np.zeros((10_000, 200), "float32"))
    tracemalloc.start()
    refused(tmp_path / "q.npz", "zip bomb", "8,000,000 bytes")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4",
        "(" * 9000,
        "[" * 60_000,
        '"""',
        "{'descr': '<f4', 'fortran_order': False, 'shape': (7, 3), 'shape': (1,)}",
    ]
    + [
        "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + "}"
        for shape in ("(7,", "7", "(7 3)", "(1.5, 2)", "(True, 3)")
    ]
    + [
        "{'descr': " + kind + ", 'fortran_order': False, 'shape': (7, 3)}"
        for kind in ("'<f3'", "''", "3", "'f4,f4'", "'<U99999999999'")
    ],
)
def test_a_header_that_is_none_is_refused_and_never_evaluated(tmp_path, header):
    """numpy evaluates it as Python, and raises what Python's tokenizer does."""
    content = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header.encode() + bytes(84)
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "mean.npy").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "q.npz", "w") as archive:
        archive.writestr("mean.npy", content)
    for path in (tmp_path / "q", tmp_path / "q.npz"):
        refused(path, "mean", "save")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (7, 3), }",
        '{"shape":(7,3),"descr":"<f4","fortran_order":False}',
        "{ 'fortran_order' : False , 'descr' : 'f4' , 'shape' : ( 7L , 3L ) }",
    ],
)
def test_a_header_in_any_order_and_spacing_is_read(tmp_path, header):
    (tmp_path / "q").mkdir()
    length = struct.pack("<H", len(header) + 1)
    (tmp_path / "q" / "mean.npy").write_bytes(b"\x93NUMPY\x01\x00" + length + header.encode() + b"\n" + bytes(84))
    assert load(tmp_path / "q").posterior.samples.shape == (7, 3)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_a_name_twice_or_an_unusual_packing_is_refused(tmp_path):
    whole = io.BytesIO()
    np.save(whole, values())
    for name, method in (("mean.npy", zipfile.ZIP_STORED), ("x.npy", zipfile.ZIP_BZIP2), ("x.npy", zipfile.ZIP_LZMA)):
        with zipfile.ZipFile(tmp_path / "q.npz", "w") as archive:
            archive.writestr("mean.npy", whole.getvalue())
            archive.writestr(name, whole.getvalue(), method)
        refused(tmp_path / "q.npz", "twice" if name == "mean.npy" else "packed")


@pytest.mark.parametrize("number", ["9" * 5000, "٣", "00", "-1"])
def test_a_level_whose_number_is_none_is_no_level(tmp_path, number):
    save_torch({"mean": torch.zeros(7, 2), f"mean_{number}": torch.zeros(7, 3)}, tmp_path / "q.safetensors")
    assert load(tmp_path / "q.safetensors").posterior.event_shape == (2,)


def test_a_header_longer_than_any_plain_array_needs_is_not_read(tmp_path):
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mean.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 50_000_000) + b" " * 50_000_000)
    (tmp_path / "q.npz").write_bytes(bomb.getvalue())
    tracemalloc.start()
    refused(tmp_path / "q.npz", "header is damaged")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_files_that_are_no_checkpoint_are_named_for_what_they_are(tmp_path):
    (tmp_path / "empty.npz").touch()
    (tmp_path / "noise.npz").write_bytes(b"garbage" * 10)
    (tmp_path / "table.txt").write_text("a,b\n1,2\n")
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "mean.npy", values())
    refused(tmp_path / "empty.npz", "empty (0 bytes)")
    refused(tmp_path / "noise.npz", "no .npz file")
    refused(tmp_path / "table.txt", "no checkpoint that klprobe knows", ".npz", ".safetensors")
    refused(tmp_path / "folder", "without mean.npy")
    refused(tmp_path / "mean.npy", "single array", "folder")
    refused(tmp_path / "tabel.txt", "does not exist", "did you mean", "table.txt")
    refused(tmp_path / "no" / "such.npz", "does not exist")


def test_the_posteriors_beside_the_checkout_are_read(shared_posteriors):
    posterior = load(shared_posteriors / "beta-vae-mnist.npz").posterior
    assert (posterior.num_points, posterior.dim) == (60000, 10)


def test_flags_for_an_encoder_are_refused_not_ignored(tmp_path):
    np.savez(tmp_path / "q.npz", mean=np.zeros((3, 2)), std=np.ones((3, 2)))
    with pytest.raises(InputError, match="no encoder to run: do not give --resize, --gray"):
        load(tmp_path / "q.npz", Request(resize=(8, 8), gray=True))


@pytest.mark.parametrize("container", ["npz", "safetensors", "folder"])
def test_groups_and_weights_of_rows_come_with_the_posterior(tmp_path, container):
    weights = np.arange(1.0, N + 1)
    path = write(tmp_path, container, mean=values(), logvar=values(1), groups=np.array([5, 5, 2, 2, 2, 9, 9]), weights=weights)
    encoded = load(path)
    assert encoded.posterior.groups.tolist() == [1, 1, 0, 0, 0, 2, 2]
    np.testing.assert_allclose(encoded.posterior.weights, weights / weights.mean())
    assert "3 groups of points" in encoded.notes[-1]
    assert "weights that leave 6 points" in encoded.notes[-1]


def test_groups_may_be_text_and_have_one_value_a_row(tmp_path):
    np.savez(tmp_path / "q.npz", mean=values(), logvar=values(1), groups=np.array(list("aabbbcc")))
    assert load(tmp_path / "q.npz").posterior.groups.tolist() == [0, 0, 1, 1, 1, 2, 2]
    for wrong, words in ((np.zeros(3), "N = 7 rows"), (np.zeros(7), "one group")):
        np.savez(tmp_path / "q.npz", mean=values(), logvar=values(1), groups=wrong)
        with pytest.raises(InputError, match=words):
            load(tmp_path / "q.npz")


def test_a_weight_of_zero_is_refused_for_points_and_taken_for_a_mixture(tmp_path):
    np.savez(tmp_path / "q.npz", mean=values(), logvar=values(1), weights=np.arange(N))
    with pytest.raises(InputError, match="1 of 7 weights are zero"):
        load(tmp_path / "q.npz")
    assert load(tmp_path / "q.npz", Request(of_rows=False)).posterior.weights is None


def test_one_array_alone_is_samples_and_said(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(">f4")
    np.save(tmp_path / "codes.npy", x)
    encoded = load(tmp_path / "codes.npy")
    assert isinstance(encoded.posterior, SampleOnly)
    assert torch.equal(encoded.posterior.samples.float(), torch.from_numpy(x.astype("f4")))
    assert "taken for samples of q(z|x)" in encoded.notes[0]
    np.save(tmp_path / "flat.npy", x[:, 0])
    refused(tmp_path / "flat.npy", "shape")
    np.save(tmp_path / "images.npy", np.zeros((5, 1, 8, 8)))
    refused(tmp_path / "images.npy", "no array of shape (N, D)")


MEAN = np.random.default_rng(1).normal(size=(12, 11))
LOGVAR = np.random.default_rng(2).normal(size=(12, 11))


@pytest.mark.parametrize(
    ("mean", "logvar", "start"),
    [
        ("mean_{}", "logvar_{}", 0),
        ("mean_{}", "logvar_{}", 1),
        ("mean{}", "logvar{}", 0),
        ("mean.{}", "logvar.{}", 0),
        ("mean[{}]", "logvar[{}]", 0),
        ("mean {}", "logvar {}", 1),
        ("mean_{:02d}", "logvar_{:02d}", 0),
    ],
)
def test_columns_of_a_table_make_the_arrays_of_their_names_in_the_order_of_their_numbers(tmp_path, mean, logvar, start):
    names = [mean.format(i + start) for i in range(11)] + [logvar.format(i + start) for i in range(11)]
    table = pd.DataFrame(np.concatenate([MEAN, LOGVAR], 1), columns=names).assign(label=3, extra=0.0)
    table = table[sorted(table.columns)]  # mean_10 before mean_2
    table.to_csv(tmp_path / "q.csv")
    posterior = load(tmp_path / "q.csv").posterior
    assert isinstance(posterior, DiagonalGaussian)
    assert np.allclose(posterior.mean, MEAN, rtol=1e-15)
    assert np.allclose(posterior.spread, LOGVAR, rtol=1e-15)


def test_one_latent_needs_no_number_and_columns_without_a_known_name_are_samples(tmp_path):
    pd.DataFrame({"mean": MEAN[:, 0], "std": np.exp(LOGVAR[:, 0])}).to_csv(tmp_path / "one.csv", index=False)
    posterior = load(tmp_path / "one.csv").posterior
    assert (posterior.batch_shape, posterior.event_shape, posterior.parametrization) == ((12,), (1,), "std")
    for names in ([f"z{i}" for i in range(11)], list("abcdefghijk"), None):
        pd.DataFrame(MEAN, columns=names).to_csv(tmp_path / "z.csv", index=False)
        encoded = load(tmp_path / "z.csv")
        assert isinstance(encoded.posterior, SampleOnly)
        assert np.allclose(encoded.posterior.samples, MEAN)
        assert any("taken for samples" in note for note in encoded.notes)


def test_a_table_that_may_be_mean_and_spread_by_other_names_is_refused(tmp_path):
    def table(**columns):
        pd.DataFrame(columns).to_csv(tmp_path / "q.csv", index=False)
        return tmp_path / "q.csv"

    two = {f"m{i}": MEAN[:, i] for i in range(2)} | {f"s{i}": MEAN[:, i] for i in range(2)}
    refused(table(**two), "columns of several kinds, 'm' (2), 's' (2)", "mean_0")
    unread = {f"mean_{i}": MEAN[:, i] for i in range(2)} | {f"blah_{i}": MEAN[:, i] for i in range(2)}
    refused(table(**unread), "blah")
    gap = {f"mean_{i}": MEAN[:, i] for i in (0, 2)} | {f"logvar_{i}": MEAN[:, i] for i in (0, 2)}
    refused(table(**gap), "numbered [0, 2]")
    refused(table(logvar_0=MEAN[:, 0], logvar_1=MEAN[:, 1]), "klprobe needs")
    refused(table(mean_0=MEAN[:, 0], mean_1=MEAN[:, 1], std_0=MEAN[:, 0] ** 2), "std", "shape")
    np.save(tmp_path / "logvar.npy", LOGVAR)
    refused(tmp_path / "logvar.npy", "single array called logvar")


def test_entries_of_a_codebook_are_held_against_uniform_use(tmp_path, capsys):
    codes = np.array([[0, 1], [0, 1], [0, 3], [0, 1]], dtype=np.int32)
    np.savez(tmp_path / "codes.npz", codes=codes.reshape(4, 2, 1), codebook_size=8, split="test")
    encoded = load(tmp_path / "codes.npz")
    usage = encoded.provenance["codebook"]
    entropy = 0.5 * math.log(2) + 3 / 8 * math.log(8 / 3) + 1 / 8 * math.log(8)
    assert (usage["used"], usage["dead"], usage["places"]) == (3, 5, 2)
    assert usage["kl_to_uniform"] == pytest.approx(math.log(8) - entropy, rel=1e-12)
    assert encoded.split == "test"
    command = ["estimate", "--checkpoint", str(tmp_path / "codes.npz"), "--methods", "monte-carlo", "--num-samples", "100"]
    assert main(command) == 0
    assert "3 are used and 5 are dead" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"codes": np.zeros((4, 2), int)}, "needs its size"),
        ({"codes": np.zeros((4, 2), int), "codebook_size": 1.5}, "needs its size"),
        ({"codes": np.full((4, 2), 0.5), "codebook_size": 8}, "whole numbers"),
        ({"codes": np.full((4, 2), 8), "codebook_size": 8}, "numbered 0 to 7, but codes reach from 8 to 8"),
    ],
)
def test_codes_that_say_too_little_are_refused(arrays, words, tmp_path):
    np.savez(tmp_path / "codes.npz", **arrays)
    with pytest.raises(InputError, match=words):
        load(tmp_path / "codes.npz")


def test_codes_beside_a_posterior_are_other_arrays_and_left_alone(tmp_path):
    np.savez(tmp_path / "q.npz", mean=np.zeros((4, 2)), std=np.ones((4, 2)), codes=np.zeros((4, 2), int))
    assert "codebook" not in load(tmp_path / "q.npz").provenance


def test_columns_of_groups_and_weights_are_no_latents(tmp_path):
    z = pd.DataFrame(MEAN[:, :2], columns=["z0", "z1"]).assign(weights=2.0, groups=np.arange(12) // 2)
    z.to_csv(tmp_path / "z.csv", index=False)
    assert load(tmp_path / "z.csv").posterior.event_shape == (2,)
    q = pd.DataFrame({"mean": MEAN[:, 0], "std": np.ones(12), "groups": np.arange(12) // 2})
    q.to_csv(tmp_path / "q.csv", index=False)
    assert any("groups" in note for note in load(tmp_path / "q.csv").notes)
