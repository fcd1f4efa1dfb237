"""Encoders with a second input: each of its arrays goes to its own argument, in every format, and none is left out in silence.

The encoder is N(x + shift[y], 0.5^2), so that its posterior and the mean of its KL are known.
"""

import math

import numpy as np
import pytest
import torch

from klprobe.cli import main
from klprobe.distributions.posteriors import as_posterior, conditional_kl, standard_normal
from klprobe.formats import Request, load
from klprobe.types import InputError

N, D, STD = 210, 3, 0.5
SHIFT = np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0], [0.0, -2.0, 1.0]])
RNG = np.random.default_rng(3)
X = RNG.normal(size=(N, D)).astype(np.float32)
Y = RNG.integers(0, 3, N)


class Conditional(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = torch.nn.Embedding.from_pretrained(torch.tensor(SHIFT, dtype=torch.float32))

    def forward(self, x, y):
        return x + self.shift(y), torch.full_like(x, -1.3862943611198906)  # 2 log(STD): a script reads no names around it


def closed_form(mean):
    return 0.5 * float((mean.astype(float) ** 2).sum(1).mean()) + 0.5 * D * (STD**2 - 1 - 2 * math.log(STD))


def agrees(encoded, y=Y):
    q = as_posterior(encoded.posterior)
    mean = X + SHIFT[y]
    assert np.abs(q.mean.numpy() - mean).max() < 1e-6
    exact = float(conditional_kl(q, standard_normal(D)).mean())
    assert abs(exact - closed_form(mean)) < 1e-5


@pytest.fixture
def arrays(tmp_path):
    np.savez(tmp_path / "data.npz", images=X, labels=Y, short=Y[:-1], part=X[:, :2])
    return str(tmp_path / "data.npz")


FACTORY = """
import math, torch
from torch import nn
class Conditional(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Embedding(3, 3)
    def forward(self, x, y):
        return x + self.shift(y), torch.full_like(x, {logvar})
class Optional(Conditional):
    def forward(self, x, y=None):
        return (x if y is None else x + self.shift(y)), torch.full_like(x, {logvar})
class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Embedding(3, 3)
    def encode(self, tokens, lengths):
        kept = (torch.arange(tokens.shape[1])[None] < lengths[:, None]).float()
        mean = (self.shift(tokens) * kept[..., None]).sum(1) / lengths[:, None]
        return mean, torch.full_like(mean, {logvar})
class OneHot(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Embedding(3, 3)
    def forward(self, x, y):
        return x + y @ self.shift.weight, torch.full_like(x, {logvar})
"""


@pytest.fixture
def of_a_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"second_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(FACTORY.replace("{logvar}", repr(2 * math.log(STD))))
    torch.save(Conditional().state_dict(), tmp_path / "weights.pt")
    return name


def saved(kind, path):
    """The conditional encoder in one of the formats, and the names of its inputs."""
    module, some = Conditional().eval(), (torch.from_numpy(X[:7]), torch.from_numpy(Y[:7]))
    if kind == "script":
        torch.jit.script(module).save(path / "encoder.pt")
        return path / "encoder.pt"
    if kind == "trace":
        torch.jit.trace(module, some).save(path / "encoder.pt")
        return path / "encoder.pt"
    if kind == "frozen":
        torch.jit.freeze(torch.jit.trace(module, some)).save(path / "encoder.pt")
        return path / "encoder.pt"
    if kind in ("export", "export by name"):
        n = torch.export.Dim("n")
        given = (some, {}) if kind == "export" else (some[:1], {"y": some[1]})
        program = torch.export.export(module, *given, dynamic_shapes={"x": {0: n}, "y": {0: n}})
        torch.export.save(program, path / "encoder.pt2")
        return path / "encoder.pt2"
    if kind == "export of seven":
        torch.export.save(torch.export.export(module, some), path / "encoder.pt2")
        return path / "encoder.pt2"
    pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
    pytest.importorskip("onnx", reason="torch's exporter needs onnx to write the models of these tests")
    names = {"input_names": ["x", "y"], "dynamic_axes": {"x": {0: "n"}, "y": {0: "n"}}}
    torch.onnx.export(module, some, path / "encoder.onnx", dynamo=False, **names)
    return path / "encoder.onnx"


KINDS = ["script", "trace", "frozen", "export", "export by name", "export of seven", "onnx"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_each_array_goes_to_its_argument_in_every_format(kind, tmp_path, arrays):
    path = saved(kind, tmp_path)
    encoded = load(path, Request(data=arrays, inputs="x=images,y=labels"))
    agrees(encoded)
    agrees(load(path, Request(data=arrays, inputs="images,labels")))
    assert any("x = images, y = labels; left aside: short, part" in note for note in encoded.notes)
    assert encoded.provenance["inputs"] == "x=images,y=labels"
    with pytest.raises(InputError, match=r"takes x, y, and gets the data alone: .*--inputs x=images,y=labels"):
        load(path, Request(data=arrays))


def test_weights_and_their_network_take_a_second_input(of_a_user, tmp_path, arrays):
    request = Request(data=arrays, inputs="x=images,y=labels", encoder=f"{of_a_user}:Conditional")
    agrees(load(tmp_path / "weights.pt", request))
    with pytest.raises(InputError, match=r"takes x, y.*--inputs x=images,y=labels"):
        load(tmp_path / "weights.pt", Request(data=arrays, encoder=f"{of_a_user}:Conditional"))


def test_an_optional_input_is_given_by_its_name(of_a_user, tmp_path, arrays):
    weights, encoder = tmp_path / "weights.pt", f"{of_a_user}:Optional"
    agrees(load(weights, Request(data=arrays, inputs="x=images,y=labels", encoder=encoder)))
    alone = load(weights, Request(data=arrays, inputs="images", encoder=encoder))
    agrees(alone, np.zeros(N, int))
    assert any("y is not given" in note for note in alone.notes)


def test_one_hot_labels_of_whole_numbers_become_floats_where_the_network_needs_it(of_a_user, tmp_path):
    np.savez(tmp_path / "data.npz", x=X, y=np.eye(3, dtype=np.int64)[Y])
    request = Request(data=str(tmp_path / "data.npz"), inputs="x,y", encoder=f"{of_a_user}:OneHot")
    found = load(tmp_path / "weights.pt", request)
    agrees(found)
    assert any("whole numbers of y are given to the encoder as float32" in note for note in found.notes)


def test_padded_tokens_with_their_lengths_stay_whole(of_a_user, tmp_path):
    tokens = np.random.default_rng(4).integers(0, 3, (N, 5))
    lengths = np.random.default_rng(5).integers(1, 6, N).astype(np.uint8)
    np.savez(tmp_path / "data.npz", tokens=tokens, lengths=lengths)
    request = Request(data=str(tmp_path / "data.npz"), inputs="tokens=tokens,lengths=lengths", encoder=f"{of_a_user}:Lengths")
    found = load(tmp_path / "weights.pt", request)
    expected = np.stack([SHIFT[row[:n]].mean(0) for row, n in zip(tokens, lengths, strict=True)])
    assert np.abs(as_posterior(found.posterior).mean.numpy() - expected).max() < 1e-6


GIVEN = """
import numpy, torch
held = numpy.load("data.npz")
x, y = torch.from_numpy(held["images"]), torch.from_numpy(held["labels"])
def arrays():
    return {"images": x, "labels": y.tolist(), "names": ["a"] * len(y)}
class Items(torch.utils.data.Dataset):
    def __len__(self):
        return len(x)
    def __getitem__(self, i):
        return {"images": x[i], "labels": int(y[i]), "caption": "of a cat"}
pairs = torch.utils.data.TensorDataset(x, y)
batches = torch.utils.data.DataLoader(Items(), batch_size=32)
ragged = [(x[i][: 2 + i % 2], y[i]) for i in range(len(x))]
"""


@pytest.mark.parametrize(
    ("name", "inputs"),
    [("arrays", "x=images,y=labels"), ("Items", "x=images,y=labels"), ("batches", "x=images,y=labels"), ("pairs", "x=0,y=1")],
)
def test_python_gives_several_arrays(of_a_user, tmp_path, arrays, name, inputs):
    (tmp_path / f"{of_a_user}_data.py").write_text(GIVEN)
    encoder = f"{of_a_user}:Conditional"
    agrees(load(tmp_path / "weights.pt", Request(data=f"{of_a_user}_data:{name}", inputs=inputs, encoder=encoder)))


def test_the_labels_of_a_data_set_of_klprobes_are_one_of_its_arrays(tmp_path):
    class Shifted(torch.nn.Module):
        def forward(self, x, y):
            mean = x.flatten(1)[:, :2] + y[:, None]
            return mean, torch.zeros_like(mean)

    torch.jit.trace(Shifted(), (torch.zeros(4, 1, 8, 8), torch.arange(4))).save(tmp_path / "encoder.pt")
    asked = {"data": "digits", "split": "test"}
    found = load(tmp_path / "encoder.pt", Request(inputs="x=x,y=labels", **asked))
    from klprobe.datasets import dataset

    data = dataset("digits").load("test", None)
    expected = data.floats(slice(None)).flatten(1)[:, :2] + data.labels[:, None]
    assert (as_posterior(found.posterior).mean - expected).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("x=images", r"needs y too.*--inputs x=images,y=labels"),
        ("x=images,y=label", r"has no label \(did you mean labels\?\); it holds images, labels"),
        ("x=images,z=labels", r"takes x, y, and no z"),
        ("x=images,x=labels", r"gives x twice"),
        ("x=images,labels", r"name the argument of labels too"),
        ("images,labels,part", r"takes x, y"),
        ("x=images,y=short", r"one number of rows, a row a point, and 'images' has 210, 'short' has 209"),
        ("labels,images", r"labels has one number a point: name the data"),
        ("x=part,y=labels", r"shape x \(2,\), y \(\)"),
        ("", r"takes x, y, and gets the data alone"),
    ],
)
def test_what_does_not_fit_is_one_line_and_exit_2(inputs, said, tmp_path, arrays, capsys):
    import re

    path = saved("script", tmp_path)
    flags = ["--inputs", inputs] * bool(inputs)
    assert main(["estimate", "--checkpoint", str(path), "--data", arrays, "--methods", "closed-form", *flags]) == 2
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if "error" in line.lower() or re.search(said, line)]
    assert re.search(said, line), err


def test_labels_with_a_dimension_too_many_are_not_broadcast_in_silence(tmp_path, of_a_user):
    np.savez(tmp_path / "data.npz", x=X, y=Y[:, None])
    asked = {"data": str(tmp_path / "data.npz"), "inputs": "x,y", "encoder": f"{of_a_user}:Conditional"}
    with pytest.raises(InputError, match=r"another shape than it takes \(x \(3,\), y \(1,\)\)"):
        load(tmp_path / "weights.pt", Request(outputs="mean,logvar", **asked))


def test_an_array_alone_is_told_what_to_give(tmp_path, of_a_user):
    np.save(tmp_path / "x.npy", X)
    encoder = f"{of_a_user}:Conditional"
    with pytest.raises(InputError, match=r"--inputs x=ARRAY,y=ARRAY, and --data an .npz"):
        load(tmp_path / "weights.pt", Request(data=str(tmp_path / "x.npy"), encoder=encoder))
    with pytest.raises(InputError, match=r"x.npy has no several"):
        load(tmp_path / "weights.pt", Request(data=str(tmp_path / "x.npy"), inputs="x=x,y=y", encoder=encoder))


def test_arrays_that_are_left_aside_are_said(tmp_path):
    np.savez(tmp_path / "data.npz", x=X, labels=Y)
    scripted = torch.jit.trace(torch.nn.Tanh(), torch.zeros(4, D))
    scripted.save(tmp_path / "encoder.pt")
    path, data = tmp_path / "encoder.pt", str(tmp_path / "data.npz")
    named = load(path, Request(data=data, outputs="mean", inputs="x"))
    found = load(path, Request(data=data, outputs="mean"))
    assert torch.equal(as_posterior(found.posterior).samples, as_posterior(named.posterior).samples)
    assert any("'x' is the data, and 'labels' left aside" in note for note in found.notes)
