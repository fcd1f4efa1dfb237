"""What the source of a TorchScript file may name, and that ordinary networks are let through with their numbers."""

import zipfile
from typing import NamedTuple

import pytest
import torch
from torch import nn

from klprobe.files.child import Limits
from klprobe.files.programs import open_torchscript, start
from klprobe.files.script_check import LANGUAGE, check_classes, check_source, forbidden
from klprobe.types import InputError

pytestmark = pytest.mark.filterwarnings("ignore")


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        body = (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 16))
        self.body = nn.Sequential(*body, nn.LayerNorm(16), nn.Dropout(0.1))
        self.mean, self.logvar = nn.Linear(16, 2), nn.Linear(16, 2)

    def forward(self, x):
        h = self.body(x)
        return self.mean(h), self.logvar(h)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.gru = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True, bidirectional=True)
        self.lstm, self.out = nn.LSTM(16, 8, 2, batch_first=True), nn.Linear(8, 4)

    def forward(self, x):
        h, _ = self.gru(self.embed(x.long()))
        h, _ = self.lstm(h)
        return self.out(h[:, -1]).chunk(2, 1)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, x):
        return self.body(x).mean(1).split(4, 1)


class Pair(NamedTuple):
    mean: torch.Tensor
    logvar: torch.Tensor


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])

    def forward(self, x):
        found: list[torch.Tensor] = []
        for i, step in enumerate(self.steps):
            x = torch.relu(step(x))
            if x.dim() != 2:
                raise ValueError(f"a 'bad' shape {x.shape} at \"{i}\" # and set_")
            found.append(x)
        with torch.no_grad():
            h = nn.functional.normalize(nn.functional.pad(torch.stack(found).sum(0), [0, 1]), dim=1)
        return Pair(h[:, :2], nn.functional.softplus(h[:, 2:4]).log().clamp(-5.0, 5.0))


NETWORKS = {
    "convolutions": (Convolutions, (3, 1, 8, 8)),
    "words": (Words, (3, 5)),
    "attention": (Attention, (3, 5, 8)),
    "steps": (Steps, (3, 4)),
}


@pytest.mark.parametrize("how", ["script", "trace", "frozen"])
@pytest.mark.parametrize("name", NETWORKS)
def test_ordinary_networks_give_what_they_gave(tmp_path, name, how):
    kind, shape = NETWORKS[name]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network, x = kind().eval(), torch.rand(shape)
        script = torch.jit.trace(network, x, strict=False, check_trace=False) if how == "trace" else torch.jit.script(network)
        (torch.jit.freeze(script) if how == "frozen" else script).save(tmp_path / "net.pt")
        found = open_torchscript(str(tmp_path / "net.pt"), "cpu", "encode").run(x)
        for one, other in zip(found, network(x), strict=True):
            torch.testing.assert_close(one, other)


def test_the_operators_that_trust_what_they_are_told_are_not_let_through(tmp_path):
    class Reads(nn.Module):
        def forward(self, x):
            offsets = torch.arange(-500, -490)
            return x + torch.segment_reduce(x, "max", offsets=offsets, axis=0, unsafe=True)

    class Writes(nn.Module):
        def forward(self, x):
            where = torch.zeros((1, 1), dtype=torch.int64)
            return x.add_(torch.ops.aten._sparse_coo_tensor_unsafe(where, torch.ones(1), [3], dtype=torch.float32))

    for network, word in ((Reads(), "segment_reduce"), (Writes(), "_sparse_coo_tensor_unsafe")):
        torch.jit.script(network).save(tmp_path / "net.pt")
        with pytest.raises(InputError, match="could do more than compute"):
            start("torchscript", tmp_path / "net.pt", Limits())
        assert word in forbidden()


GOOD = b'class A(Module):\n  def forward(self, x: Tensor) -> Tensor:\n    return getattr(self, "0").forward(torch.relu(x), )\n'


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"torch.relu(x)", b"torch.segment_reduce(x)"),
        (b"torch.relu(x)", b"x.segment_reduce()"),
        (b"torch.relu(x)", b"ops.aten.from_file(x)"),
        (b"torch.relu(x)", b"ops.quantized.relu(x)"),
        (b"torch.relu(x)", b"ops . inductor . relu(x)"),
        (b"torch.relu(x)", b'getattr(x, "segment_reduce")()'),
        (b"torch.relu(x)", b'getattr(x, "segment_" "reduce")()'),
        (b"torch.relu(x)", b'getattr(x, "\\x73egment_reduce")()'),
        (b"torch.relu(x)", b"getattr(x, 'segment_reduce')()"),
        (b"torch.relu(x)", b'getattr(getattr(x, "a"), "set_")(x)'),
        (b"torch.relu(x)", b'torch.relu("""\n""" + x.set_(x))'),
        (b"torch.relu(x)", b"torch.relu(x) # \n"),
        (b"torch.relu(x)", b"torch.re\\\nlu(x)"),
        (b"torch.relu(x)", "torch.relu(\N{GREEK SMALL LETTER ALPHA})".encode()),
        (b"torch.relu(x)", b"__torch__.torch.classes.quantized.LinearPackedParamsBase(x)"),
        (b"torch.relu(x)", b"fork(self, x)"),
        (b"x: Tensor", b"set_: Tensor"),
    ],
)
def test_a_forbidden_word_is_found_however_it_is_written(before, after):
    check_source("net.pt", "code/a.py", GOOD)
    with pytest.raises(InputError, match=r"^net\.pt: its program \(code/a\.py\)"):
        check_source("net.pt", "code/a.py", GOOD.replace(before, after))


def test_words_in_texts_are_no_operators():
    check_source("net.pt", "code/a.py", GOOD.replace(b"torch.relu(x)", b'torch.format("set_ \\" # segment_reduce {}", x)'))


def test_classes_written_in_cpp_are_found_in_the_constants_too(tmp_path):
    with pytest.raises(InputError, match="quantised"):
        check_classes("net.pt", "constants.pkl", b"\x80\x02c__torch__.torch.classes.quantized\nX\n")
    torch.jit.script(nn.ReLU()).save(tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "net.pt") as good, zipfile.ZipFile(tmp_path / "evil.pt", "w") as evil:
        for entry in good.infolist():
            more = b"__torch__.torch.classes.a.B" if entry.filename.endswith("data.pkl") else b""
            evil.writestr(entry.filename, good.read(entry) + more)
    with pytest.raises(InputError, match="quantised"):
        open_torchscript(str(tmp_path / "evil.pt"), "cpu", "forward")


def test_no_word_of_the_language_is_one_that_takes_a_place_of_memory_at_its_word():
    assert not {"set_", "set", "resize_", "data_ptr", "from_file", "save", "as_strided_scatter", "put_"} & LANGUAGE
