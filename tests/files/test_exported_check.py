"""A `torch.export` file says only what klprobe has a type for, and torch gets only what klprobe wrote."""

import contextlib
import copy
import importlib.util
import json
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from klprobe.files.exported_check import sanitised
from klprobe.files.exported_operators import ATEN, PYTHON, operator
from klprobe.files.exported_sizes import size
from klprobe.files.exported_values import Refused, weight_name
from klprobe.formats import Request, load
from klprobe.types import InputError

_spec = importlib.util.spec_from_file_location("exported_programs", Path(__file__).with_name("exported_programs.py"))
assert _spec is not None
assert _spec.loader is not None
exported_programs = importlib.util.module_from_spec(_spec)
sys.modules["exported_programs"] = exported_programs  # strict export imports it by name
_spec.loader.exec_module(exported_programs)

MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
DEFAULTDICT = {"default_factory_module": "payload", "default_factory_name": "x", "dict_context": ["mean"]}
NESTED = ("in_spec", "out_spec", "context")
"""Texts that hold JSON."""


class Small(torch.nn.Module):
    """A program with a varying size, arithmetic on it, a text argument, a buffer, and two outputs by name."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 4)
        self.register_buffer("scale", torch.ones(3), persistent=False)

    def forward(self, x):
        mean, logvar = self.first(x * self.scale).chunk(2, -1)
        return {"mean": torch.nn.functional.gelu(mean, approximate="tanh"), "logvar": logvar.reshape(x.shape[0] * 2)}


@pytest.fixture(scope="module")
def genuine(tmp_path_factory) -> dict[str, bytes]:
    """The entries of a genuine file."""
    path = tmp_path_factory.mktemp("genuine") / "small.pt2"
    with torch.random.fork_rng():
        program = torch.export.export(
            Small(), (torch.zeros(8, 3),), dynamic_shapes=({0: torch.export.Dim("n", min=2, max=99)},)
        )
    torch.export.save(program, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    document = json.loads(entries[MODEL])
    for node in document["graph_module"]["graph"]["nodes"][1:]:
        node["metadata"] = {}  # the first node's serve for all
    return {**entries, MODEL: json.dumps(document).encode()}


def packed(path, entries: dict[str, bytes]):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(f"small/{name}", content)
    return path


def opened(document):
    """The document with the JSON inside its texts read too."""
    if isinstance(document, dict):
        return {k: opened(json.loads(v) if k in NESTED and isinstance(v, str) else v) for k, v in document.items()}
    return [opened(v) for v in document] if isinstance(document, list) else document


def closed(document):
    if isinstance(document, dict):
        return {k: json.dumps(closed(v)) if k in NESTED and v is not None else closed(v) for k, v in document.items()}
    return [closed(v) for v in document] if isinstance(document, list) else document


def places(value, path=()):
    """Every position of a document, keys among them."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield (*path, ("key", key))
            yield from places(value[key], (*path, key))
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def at(value, path):
    for step in path:
        value = step[1] if isinstance(step, tuple) else value[step]
    return value


@contextlib.contextmanager
def changed(document, path, new):
    """The document with another value, or another key, at the path, for as long as the block runs."""
    if not path:
        yield new
        return
    inner, last = at(document, path[:-1]), path[-1]
    if isinstance(last, tuple):
        old = dict(inner)
        inner[new] = inner.pop(last[1])
        try:
            yield document
        finally:
            inner.clear()
            inner.update(old)
    else:
        old, inner[last] = inner[last], new
        try:
            yield document
        finally:
            inner[last] = old


def variants(genuine, choose):
    """Each document of the file and each chosen position in it."""
    for name in (MODEL, WEIGHTS, "data/constants/model_constants_config.json"):
        document = opened(json.loads(genuine[name]))
        for path in choose(document):
            yield name, document, path


def sanitised_with(genuine, path, name, document):
    """What klprobe makes of the file with another document in it."""
    return sanitised(packed(path, {**genuine, name: json.dumps(closed(document)).encode()}))


# ---- the two attacks that got through a filter of characters


def test_argument_names_that_are_code_never_reach_torch(genuine, tmp_path):
    """An annotation with a comprehension and two subscripts calls a function without any parenthesis of a call."""
    mark = tmp_path / "mark"
    document = json.loads(genuine[MODEL])
    code = f'y: [[0 for torch.nn.Linear.__class_getitem__ in [torch.os.system]], torch.nn.Linear["touch {mark}"]]'
    document["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = ["x", code]
    buffer = sanitised(packed(tmp_path / "bad.pt2", {**genuine, MODEL: json.dumps(document).encode()}))
    torch.export.load(buffer).module()(torch.zeros(5, 3))
    assert not mark.exists()
    assert b"class_getitem" not in buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        (
            "collections.defaultdict",
            {"default_factory_module": "payload", "default_factory_name": "x", "dict_context": ["mean"]},
        ),
        ("collections.namedtuple", '"payload.Names"'),
        ("collections.OrderedDict", '["mean"]'),
        ("torch.Size", "null"),
        ("builtins.dict", '[{"__enum__": true, "fqn": "payload:Names", "name": "x"}]'),
        ("builtins.tuple", '{"__enum__": true, "fqn": "payload:Names", "name": "x"}'),
    ],
)
def test_an_output_structure_imports_nothing(genuine, tmp_path, monkeypatch, kind, context):
    mark = tmp_path / "mark"
    (tmp_path / "payload.py").write_text(f"open({str(mark)!r}, 'w').write('x')\nx = dict\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    document = json.loads(genuine[MODEL])
    leaf = {"type": None, "context": None, "children_spec": []}
    signature = document["graph_module"]["module_call_graph"][0]["signature"]
    signature["out_spec"] = json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])
    path = packed(tmp_path / "bad.pt2", {**genuine, MODEL: json.dumps(document).encode()})
    if kind != "builtins.tuple":
        with pytest.raises(InputError, match="could run code"):
            sanitised(path)
    else:
        assert b"__enum__" not in sanitised(path).getvalue(), "what a tuple says of itself is written anew"
    assert not mark.exists()


# ---- every position


def payloads(mark):
    touch = f"touch {mark}"
    return {
        "annotation": f'y: [[0 for torch.nn.Linear.__class_getitem__ in [torch.os.system]], torch.nn.Linear["{touch}"]]',
        "call": f"__import__('os').system('{touch}')",
        "import": "os.system",
        "operator": "torch.ops.aten.save",
        "statement": f"x\n    __import__('os').system('{touch}')",
        "look-alike": "\uff45\uff56\uff41\uff4c",
        "surrogate": "\ud800",
        "dunder": "__class__",
        "keyword": "lambda",
        "long": "a" * 10**5,
        "empty": "",
    }


SHORT = ("surrogate", "dunder", "keyword", "empty")
"""Forms that are tried once for each kind of position; the others, everywhere."""
NAMES_OF_KEYS = ("import", "operator", "keyword", "empty")
"""Forms that are plain keys of a dict, or names of weights that the file does not hold: torch may refuse them."""


def texts(document):
    return [path for path in places(document) if isinstance(at(document, path), str)]


def kinds_of_text(document):
    return [path for path in kinds_of_place(document) if isinstance(at(document, path), str)]


def kinds_of_place(document):
    """One position for each chain of keys: what stands at the first index stands for the others."""
    seen = {}
    for path in places(document):
        seen.setdefault(tuple("*" if isinstance(step, int) else step for step in path), path)
    return list(seen.values())


def values(document):
    return [path for path in kinds_of_place(document) if not (path and isinstance(path[-1], tuple))]


@pytest.mark.parametrize("form", payloads(""))
def test_a_payload_in_any_text_is_refused_or_does_nothing(genuine, tmp_path, form):
    """Either InputError, or torch loads what was written anew and the payload has not run; no third outcome."""
    mark = tmp_path / "mark"
    payload = payloads(mark)[form]
    accepted, refused, path = {}, [], tmp_path / "bad.pt2"
    for name, document, place in variants(genuine, kinds_of_text if form in SHORT else texts):
        try:
            with changed(document, place, payload) as bad:
                buffer = sanitised_with(genuine, path, name, bad)
        except InputError as error:
            refused.append(str(error))
        else:
            with zipfile.ZipFile(buffer) as archive:
                written = tuple(archive.read(f"archive/{inner}") for inner in (MODEL, WEIGHTS))
            accepted.setdefault(written, buffer)
    assert len(refused) > (70 if form in SHORT else 200)
    assert all("could run code" in said and len(said) < 1000 and said.isascii() for said in refused)
    assert len(accepted) < 10, "few places take a text at all"
    for buffer in accepted.values():
        buffer.seek(0)
        may_fail = (
            contextlib.suppress(Exception) if form in ("import", "operator", "keyword", "empty") else contextlib.nullcontext()
        )
        with may_fail:
            torch.export.load(buffer).module()(torch.zeros(5, 3))
    assert not mark.exists()


WRONG = [None, True, 7, -1, 10**30, 1.5, "x", "", [], [[]], {}, {"x": 1}, {"as_int": 10**30}, {"as_name": {}}]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: json.dumps(value)[:12])
def test_a_wrong_type_in_any_position_is_refused_or_loads(genuine, tmp_path, wrong):
    refused = 0
    for name, document, place in variants(genuine, values):
        try:
            with changed(document, place, wrong) as bad:
                sanitised_with(genuine, tmp_path / "bad.pt2", name, bad)
        except InputError:
            refused += 1
    assert refused > 50


def test_an_unknown_key_in_any_record_is_refused(genuine, tmp_path):
    tables = {"config", "tensor_values", "sym_int_values", "range_constraints", "metadata", "treespec_namedtuple_fields"}

    def records(document):
        for path in values(document):
            emptied = {"metadata", "inputs", "outputs"} & set(path) and "signature" in path
            if isinstance(at(document, path), dict) and not emptied and (not path or path[-1] not in tables):
                yield path

    count = 0
    for name, document, place in variants(genuine, records):
        inner = copy.deepcopy(at(document, place))
        inner["new"] = "x"
        with pytest.raises(InputError, match="could run code"), changed(document, place, inner) as bad:
            sanitised_with(genuine, tmp_path / "bad.pt2", name, bad)
        count += 1
    assert count > 30


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10**5, b"\xff", b"1" * 5000, b'{"a": NaN}', b"null"])
@pytest.mark.parametrize("name", [MODEL, WEIGHTS])
def test_a_document_that_is_none_is_refused(genuine, tmp_path, name, content):
    with pytest.raises(InputError):
        sanitised(packed(tmp_path / "bad.pt2", {**genuine, name: content}))


# ---- the parts


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "torch.load", "torch.hub.load", "torch.ops.load_library", "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default", "torch.ops.aten.save", "torch.ops.aten.relu", "torch.ops.aten.relu.overloads",
        "torch.ops.aten.relu.__class__", "torch.ops.aten.__class__.default", "torch.ops.aten.relu.default.redispatch",
        "torch.ops.higher_order.cond", "torch.ops.profiler._record_function_enter.default",
        "_operator.attrgetter", "_operator.methodcaller", "_operator.lshift", "math.factorial", "torch.sym_", "#call", "relu",
        "torch.ops.aten.relu.default\n", "torch.ops.aten.\uff52elu.default", "torch.ops.aten.set_.source_Storage",
        "torch.ops.aten.resize_.default", "torch.ops.aten._print.default", None, 3, ["torch.ops.aten.relu.default"],
    ],
)  # fmt: skip
def test_an_operator_that_is_not_listed_is_refused(target):
    with pytest.raises(Refused):
        operator(target)


def test_every_listed_operator_exists_and_none_handles_files():
    missing = [name for name in ATEN if not hasattr(torch.ops.aten, name)]
    assert not missing
    assert not ATEN & {"from_file", "save", "set_data", "set", "resize", "record_stream", "_print", "warn", "manual_seed"}
    assert operator("torch.ops.aten.relu_.default") == "torch.ops.aten.relu_.default"
    assert all(operator(name) == name for name in PYTHON)


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s0', positive=True, integer=True)",
        "Integer(-3)",
        "Max(Integer(1), Add(FloorDiv(Symbol('s39', integer=True), Integer(2)), Integer(-1)))",
        "Pow(Add(Symbol('s0', integer=True), Integer(1)), Integer(2))",
        "Equality(Mod(Symbol('u12', integer=True), Rational(1, 2)), Float('0.5', precision=53))",
        "true",
    ],
)
def test_a_symbolic_size_is_written_as_sympy_writes_it(text):
    assert size(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "(", "s0", "1", "s0 + 1", "Symbol('s0').name", "Symbol('os')", "Symbol('s0', commutative=True)", "Symbol('s0'",
        "Symbol('s0', integer=True))", "Symbol(s0)", "Symbol('s0', integer=__import__('os'))", "eval('1')",
        "Integer(10**9)", "Integer(99999999999999999999)", "Integer(\u0663)", "Integer(True)", "Pow(Integer(9), Integer(8))",
        "Pow(Symbol('s0'), Integer(99))", "Pow(Pow(Symbol('s0'), Integer(8)), Integer(8))", "Pow(Symbol('s0'), Symbol('s1'))",
        f"Mul({', '.join(['Symbol(s0)'.replace('s0', repr('s0'))] * 20)})", "Not(" * 60 + "true" + ")" * 60,
        "Float('__import__', precision=53)", "Float('0.5', precision=999)", "Add()", "Add(Integer(1),)", "true true",
        "Symbol('u99999999')", "a" * 10**5, None, 3, ["Integer(1)"],
    ],
)  # fmt: skip
def test_what_is_no_symbolic_size_is_refused(text):
    with pytest.raises(Refused):
        size(text)


@pytest.mark.parametrize(
    "name", ["forward", "a.forward", "__class__", "a..b", "", ".", "a.__dict__.b", "lambda", "a-b", "\uff46", "a b"]
)
def test_a_weight_that_would_hide_an_attribute_is_refused(name):
    with pytest.raises(Refused):
        weight_name(name)


def test_a_weight_has_the_bytes_that_it_claims(genuine, tmp_path):
    """Torch makes up zeros for a tensor without bytes, of any size that the file says."""
    for size_now, stride, offset in ((10**12, 0, 0), (5, 3, 0), (4, 3, 1), (10**18, 1, 0)):
        document = json.loads(genuine[WEIGHTS])
        meta = document["config"]["first.weight"]["tensor_meta"]
        meta["sizes"][0], meta["strides"][0] = {"as_int": size_now}, {"as_int": stride}
        meta["storage_offset"] = {"as_int": offset}
        with pytest.raises(InputError, match="stored elements"):
            sanitised_with(genuine, tmp_path / "bad.pt2", WEIGHTS, document)
    stored = json.loads(genuine[WEIGHTS])["config"]["first.weight"]["path_name"]
    with pytest.raises(InputError, match="stored elements"):
        sanitised(packed(tmp_path / "bad.pt2", {**genuine, f"data/weights/{stored}": b""}))


@pytest.mark.parametrize(
    "name",
    [
        "models/other.json", "data/weights/model.pt", "data/constants/custom_obj_0", "data/constants/opaque_obj_0",
        "data/weights/weight_\u0663", "data/aotinductor/model/a.so", "models/model.json/", "data/weights/../x", "version\n",
    ],
)  # fmt: skip
def test_an_entry_that_is_not_listed_is_refused(genuine, tmp_path, name):
    with pytest.raises(InputError, match="could run code"):
        sanitised(packed(tmp_path / "bad.pt2", {**genuine, name: b"x"}))


# ---- genuine programs


@pytest.mark.parametrize("way", exported_programs.WAYS)
@pytest.mark.parametrize("kind", exported_programs.PROGRAMS, ids=lambda kind: kind.__name__)
def test_a_genuine_program_gives_what_its_network_gives(tmp_path, kind, way):
    path = tmp_path / "encoder.pt2"
    encoder = exported_programs.exported(kind, way, path)
    program = torch.export.load(sanitised(path)).module()
    x = exported_programs.points(kind, 8)
    answers = []
    for network in (encoder, program):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(3)
            answers.append(network(x))
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-6, atol=1e-6)


def test_sizes_that_are_multiples_of_one_another_keep_their_bounds(tmp_path):
    height = torch.export.Dim("height", min=4, max=64)
    with torch.random.fork_rng():
        convolution = torch.nn.Conv2d(1, 2, 3, stride=2)
    program = torch.export.export(
        convolution, (torch.zeros(8, 1, 16, 16),), dynamic_shapes=({0: torch.export.Dim.AUTO, 2: 2 * height},)
    )
    torch.export.save(program, tmp_path / "encoder.pt2")
    loaded = torch.export.load(sanitised(tmp_path / "encoder.pt2")).module()
    x = torch.rand(5, 1, 20, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded(x), convolution(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(RuntimeError, match="2\\*s"):
        loaded(x[:, :, 1:])


def test_a_program_with_a_program_inside_is_refused_with_what_to_do(tmp_path):
    class NoGrad(torch.nn.Module):
        def forward(self, x):
            with torch.no_grad():
                inner = x * 2
            return inner + 1

    program = torch.export.export(NoGrad(), (torch.zeros(5, 2),))
    torch.export.save(program, tmp_path / "encoder.pt2")
    with pytest.raises(InputError, match="run_decompositions"):
        sanitised(tmp_path / "encoder.pt2")
    torch.export.save(program.run_decompositions(), tmp_path / "encoder.pt2")
    assert torch.equal(
        torch.export.load(sanitised(tmp_path / "encoder.pt2")).module()(torch.ones(5, 2)), torch.full((5, 2), 3.0)
    )


def test_a_file_of_hundreds_of_nodes_takes_less_than_a_second(tmp_path):
    class Long(torch.nn.Module):
        def forward(self, x):
            for _ in range(150):
                x = torch.tanh(x) * 2
            return x

    torch.export.save(torch.export.export(Long(), (torch.zeros(8, 3),)), tmp_path / "long.pt2")
    taken = []
    for _ in range(3):
        start = time.process_time()
        sanitised(tmp_path / "long.pt2")
        taken.append(time.process_time() - start)
    assert min(taken) < 0.5


def test_the_program_answers_through_the_front_door(tmp_path):
    import numpy as np

    path = tmp_path / "encoder.pt2"
    encoder = exported_programs.exported(exported_programs.Mlp, "plain", path)
    x = exported_programs.points(exported_programs.Mlp, 50)
    np.save(tmp_path / "x.npy", x.numpy())
    encoded = load(path, Request(data=str(tmp_path / "x.npy"), outputs="mean,logvar"))
    with torch.no_grad():
        mean, _ = encoder(x)
    torch.testing.assert_close(encoded.posterior.mean.float(), mean, rtol=1e-5, atol=1e-6)
