"""Files that say that part of them lies in another file: ONNX's are followed within their own folder, HDF5's nowhere."""

import pathlib

import numpy as np
import pytest
import torch

from klprobe.files.hdf5 import check_links
from klprobe.files.onnx_check import check_external_data
from klprobe.types import InputError

h5py = pytest.importorskip("h5py", reason="the extra [scvi] is not installed")
onnx = pytest.importorskip("onnx", reason="onnx is not installed")
from onnx import TensorProto, helper  # noqa: E402


def external(location):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 2], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="length", value="16")
    return tensor


def in_initializer(tensor):
    return helper.make_graph([], "g", [], [], initializer=[tensor])


def in_attribute(tensor):
    return helper.make_graph([helper.make_node("Constant", [], ["w"], value=tensor)], "g", [], [])


def in_list(tensor):
    node = helper.make_node("Odd", [], ["w"])
    node.attribute.append(onnx.AttributeProto(name="a", type=onnx.AttributeProto.TENSORS, tensors=[tensor]))
    return helper.make_graph([node], "g", [], [])


def in_branch(tensor):
    return helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=in_initializer(tensor))], "g", [], [])


def in_sparse(tensor):
    graph = helper.make_graph([], "g", [], [])
    graph.sparse_initializer.append(onnx.SparseTensorProto(values=tensor, dims=[2, 2]))
    return graph


PLACES = (in_initializer, in_attribute, in_list, in_branch, in_sparse)


def written(folder, graph, function=None):
    model = helper.make_model(graph)
    if function is not None:
        model.functions.append(function)
    (folder / "inner").mkdir(exist_ok=True)
    path = folder / "inner" / "net.onnx"
    path.write_bytes(model.SerializeToString())
    (folder / "outside.bin").write_bytes(bytes(16))
    (path.parent / "beside.bin").write_bytes(bytes(16))
    return path


@pytest.mark.parametrize("place", PLACES)
def test_weights_of_onnx_may_lie_beside_it(tmp_path, place):
    check_external_data(written(tmp_path, place(external("beside.bin"))))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location", ["../outside.bin", "/etc/hostname", "inner/../../outside.bin", "C:\\x", "nowhere.bin", "."]
)
def test_weights_of_onnx_outside_its_folder_are_refused_wherever_they_are_named(tmp_path, place, location):
    with pytest.raises(InputError, match="from its own folder only"):
        check_external_data(written(tmp_path, place(external(location))))


def test_weights_named_in_a_function_are_seen_too(tmp_path):
    node = helper.make_node("Constant", [], ["w"], value=external("../outside.bin"))
    function = helper.make_function("d", "f", [], ["w"], [node], [helper.make_opsetid("", 18)])
    with pytest.raises(InputError, match=r"outside\.bin"):
        check_external_data(written(tmp_path, helper.make_graph([], "g", [], []), function))


def test_a_link_out_of_the_folder_is_no_way_out(tmp_path):
    path = written(tmp_path, in_initializer(external("link.bin")))
    (path.parent / "link.bin").symlink_to(tmp_path / "outside.bin")
    with pytest.raises(InputError, match="from its own folder only"):
        check_external_data(path)


def varint(number):
    return b"" if number < 0 else bytes([number & 127 | (number > 127) << 7]) + varint((number >> 7) or -1)


def test_a_field_is_known_by_its_number_however_it_is_written(tmp_path):
    """Protobuf drops the bits of a key above 32: field 7 + 2^29 is the graph, and was passed over."""
    path = written(tmp_path, helper.make_graph([], "g", [], []))
    graph = in_initializer(external("../outside.bin")).SerializeToString()
    rest = helper.make_model(helper.make_graph([], "g", [], []))
    rest.ClearField("graph")
    for key in (7 << 3 | 2 | 1 << 32, 7 << 3 | 2 | 1 << 40, 7 << 3 | 2 | 1 << 63, 2):
        path.write_bytes(rest.SerializeToString() + varint(key) + varint(len(graph)) + graph)
        with pytest.raises(InputError, match="not an ONNX model"):
            check_external_data(path)
    path.write_bytes(rest.SerializeToString() + b"\xba\x80\x80\x00" + varint(len(graph)) + graph)  # in more bytes than needed
    with pytest.raises(InputError, match=r"outside\.bin"):
        check_external_data(path)


@pytest.mark.parametrize(
    "content", [b"", b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x0b\x00", b"\xff" * 40, b"not a model at all"]
)
def test_what_is_no_onnx_file_is_refused(tmp_path, content):
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(InputError, match="not an ONNX model"):
        check_external_data(tmp_path / "net.onnx")


def test_every_cut_of_a_model_is_refused_or_whole(tmp_path):
    whole = written(tmp_path, in_branch(external("../outside.bin"))).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        try:
            check_external_data(tmp_path / "cut.onnx")
        except InputError:
            continue
        assert length < whole.index(b"../outside.bin"), "let through with the name of the file in it"


def test_a_large_model_is_looked_through_at_once(tmp_path):
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1000, 1000], np.zeros((1000, 1000), "f4").tobytes(), raw=True)
    nodes = [helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(2000)]
    path = written(tmp_path, helper.make_graph(nodes, "g", [], [], initializer=[weights]))
    check_external_data(path)


def links(path, kind):
    for other in (path.parents[1] / "other.h5", path.parent / "beside.h5"):
        with h5py.File(other, "w") as file:
            file["x"] = np.arange(3.0)
    with h5py.File(path, "w") as file:
        file["X"] = np.arange(3.0)
        if kind == "link":
            file.create_group("a/b")["c"] = h5py.ExternalLink("../other.h5", "x")
        if kind == "absolute link":
            file["c"] = h5py.ExternalLink("/etc/passwd", "x")
        if kind == "storage":
            file.create_dataset("c", (3,), "f8", external=[("../other.h5", 0, 24)])
        if kind == "virtual":
            layout = h5py.VirtualLayout((3,), "f8")
            layout[:] = h5py.VirtualSource("../other.h5", "x", shape=(3,))
            file.create_virtual_dataset("c", layout)
        if kind == "circle":
            file.create_group("a")["back"] = file["/"]
        if kind == "soft":
            file["c"] = h5py.SoftLink("/X")
        if kind == "beside":
            file["c"] = h5py.ExternalLink("beside.h5", "x")


@pytest.mark.parametrize("kind", ["link", "absolute link", "storage", "virtual", "beside"])
def test_cells_from_another_file_are_refused(tmp_path, kind):
    (tmp_path / "inner").mkdir()
    links(tmp_path / "inner" / "cells.h5ad", kind)
    with pytest.raises(InputError, match="another file, which klprobe does not follow"):
        check_links(tmp_path / "inner" / "cells.h5ad")


@pytest.mark.parametrize("kind", ["none", "circle", "soft"])
def test_cells_of_one_file_are_let_through(tmp_path, kind):
    (tmp_path / "inner").mkdir()
    links(tmp_path / "inner" / "cells.h5ad", kind)
    check_links(tmp_path / "inner" / "cells.h5ad")


def test_torch_has_what_weights_only_promises():
    """torch.load(weights_only=True) ran code before 2.6 (CVE-2025-32434) and before 2.10 (CVE-2026-24747)."""
    requirement = next(
        line
        for line in pathlib.Path(__file__).parents[2].joinpath("pyproject.toml").read_text().splitlines()
        if '"torch>=' in line
    )
    assert tuple(map(int, requirement.split(">=")[1].strip('",').split("."))) >= (2, 10)
    assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)
