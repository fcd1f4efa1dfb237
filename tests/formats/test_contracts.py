"""What every checkpoint format promises, on a genuine file of each; a format that gives other numbers is caught.

Every file holds a network of its own, so that the numbers of one file are never those of another.
"""

import copy
import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from klprobe import registry
from klprobe.cli import main
from klprobe.distributions.posteriors import DiagonalGaussian
from klprobe.formats import Request, load
from klprobe.types import InputError

NAMES = registry.names("formats")
FORMATS = {name: registry.load("formats", name)() for name in NAMES}
N = 120
"""Data points."""
FLAGS = {
    "data": "--data={}",
    "encoder": "--encoder={}",
    "value_range": "--range={0[0]},{0[1]}",
    "allow_pickle": "--allow-pickle",
}

WARNING = "klprobe: --allow-pickle: opening"
"""Said before the file is opened, whatever comes of it."""


@dataclasses.dataclass(frozen=True)
class Genuine:
    """A file or folder, what to ask for, and what the live encoder says of the data.

    Attributes:
        wrong_shape: A file of data, or another checkpoint, whose shapes do not fit.
        by_flag: Whether the user chooses the format by a flag, so that it recognises no file by itself.
    """

    path: Path
    request: Request
    mean: torch.Tensor
    std: torch.Tensor
    wrong_shape: Path
    by_flag: bool = False


@dataclasses.dataclass(frozen=True)
class Bench:
    """What files are made of: a folder, the user's own module, digits as vectors and as images, on disk and in memory."""

    folder: Path
    network: object
    x: torch.Tensor

    def save(self, name: str, points: torch.Tensor) -> Path:
        np.save(self.folder / name, points.numpy())
        return self.folder / name

    @property
    def images(self) -> torch.Tensor:
        return self.x.reshape(-1, 1, 8, 8)

    def fresh(self, seed: int) -> torch.nn.Module:
        """An encoder of digits with weights of its own, in eval mode."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return self.network.Encoder().eval()

    def said_by(self, encoder: Callable) -> dict:
        """Request, expected numbers and data of the wrong shape, of an encoder of vectors."""
        with torch.no_grad():
            mean, logvar = encoder(self.x)
        wide = torch.zeros(N, 65)
        return {
            "request": Request(data=str(self.save("x.npy", self.x))),
            "mean": mean,
            "std": (0.5 * logvar).exp(),
            "wrong_shape": self.save("wide.npy", wide),
        }


# ---- a genuine file of each format


def _arrays(bench: Bench, seed: int, write: Callable) -> Genuine:
    said = bench.said_by(bench.fresh(seed))
    mean, std = said["mean"], said["std"]
    path = write(bench.folder / "posterior", {"mean": mean, "logvar": 2 * std.log()})
    wrong = write(bench.folder / "wrong", {"mean": mean, "logvar": 2 * std.log()[:, :2]})
    return Genuine(path, Request(), mean, std, wrong)


def _npz(path: Path, arrays: dict) -> Path:
    np.savez(path.with_suffix(".npz"), **{name: value.numpy() for name, value in arrays.items()})
    return path.with_suffix(".npz")


def _safetensors(path: Path, arrays: dict) -> Path:
    save_file({name: value.contiguous() for name, value in arrays.items()}, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def _npy_folder(path: Path, arrays: dict) -> Path:
    path.mkdir()
    for name, value in arrays.items():
        np.save(path / f"{name}.npy", value.numpy())
    return path


def _torchscript(bench: Bench) -> Genuine:
    encoder = bench.fresh(4)
    torch.jit.script(encoder).save(bench.folder / "encoder.pt")
    return Genuine(bench.folder / "encoder.pt", **bench.said_by(encoder))


def _exported(bench: Bench) -> Genuine:
    encoder = bench.fresh(5)
    program = torch.export.export(encoder, (bench.x[:8],), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(program, bench.folder / "encoder.pt2")
    return Genuine(bench.folder / "encoder.pt2", **bench.said_by(encoder))


def _onnx(bench: Bench) -> Genuine:
    for needed in ("onnx", "onnxruntime"):
        pytest.importorskip(needed, reason="the extra [onnx] is not installed")
    encoder, path = bench.fresh(6), bench.folder / "encoder.onnx"
    with torch.random.fork_rng():
        torch.onnx.export(encoder, (bench.x[:8],), path, dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    return Genuine(path, **bench.said_by(encoder))


def _pickled(bench: Bench) -> Genuine:
    encoder = bench.fresh(7)
    torch.save(encoder, bench.folder / "encoder.pth")
    said = bench.said_by(encoder)
    said["request"] = dataclasses.replace(said["request"], allow_pickle=True)
    return Genuine(bench.folder / "encoder.pth", **said, by_flag=True)


def _state_dict(bench: Bench) -> Genuine:
    encoder = bench.fresh(8)
    torch.save(encoder.state_dict(), bench.folder / "weights.ckpt")
    said = bench.said_by(encoder)
    said["request"] = dataclasses.replace(said["request"], encoder="tiny_network:Encoder")
    return Genuine(bench.folder / "weights.ckpt", **said, by_flag=True)


def _klprobe(bench: Bench) -> Genuine:
    from klprobe.training.loop import train

    system = registry.load("trainers", "vae")(latent_dim=3, batch_size=16, width=8, layers=1)
    seen = []
    path = train(
        system,
        registry.load("datasets", "digits")().load("train"),
        steps=2,
        out=bench.folder / "run",
        watch=lambda step, networks: seen.append(copy.deepcopy(networks["encoder"])),
        watch_every=2,
    )
    return Genuine(path, **bench.said_by(lambda x: seen[0](x).chunk(2, dim=1)))


def _pythae(bench: Bench) -> Genuine:
    models = pytest.importorskip("pythae.models", reason="the extra [pythae] is not installed")
    with torch.random.fork_rng():
        torch.manual_seed(10)
        model = models.VAE(models.VAEConfig(input_dim=(1, 8, 8), latent_dim=3)).eval()
    model.save(str(bench.folder / "pythae"))
    with torch.no_grad():
        said = model.encoder(bench.images)
    request = Request(data=str(bench.save("images.npy", bench.images)))
    wrong = bench.save("wide.npy", torch.zeros(N, 1, 9, 9))
    return Genuine(bench.folder / "pythae", request, said.embedding, (0.5 * said.log_covariance).exp(), wrong)


def _diffusers(bench: Bench) -> Genuine:
    diffusers = pytest.importorskip("diffusers", reason="the extra [diffusers] is not installed")
    with torch.random.fork_rng():
        torch.manual_seed(11)
        sizes = {"block_out_channels": (8,), "norm_num_groups": 4, "latent_channels": 2, "sample_size": 8}
        model = diffusers.AutoencoderKL(in_channels=1, out_channels=1, **sizes).eval()
    model.save_pretrained(bench.folder / "vae", safe_serialization=True)
    with torch.no_grad():
        q = model.encode(2 * bench.images - 1).latent_dist
    request = Request(data=str(bench.save("images.npy", bench.images)), value_range=(-1, 1))
    wrong = bench.save("colour.npy", torch.zeros(N, 3, 8, 8))
    return Genuine(bench.folder / "vae", request, q.mean.flatten(1), q.std.flatten(1), wrong)


def _scvi(bench: Bench) -> Genuine:
    pytest.importorskip("scvi", reason="the extra [scvi] is not installed")
    import anndata
    import scvi

    draw = np.random.default_rng(0)
    cells, fewer = (anndata.AnnData(draw.poisson(draw.gamma(2, 1, size=(N, genes))).astype("f4")) for genes in (20, 7))
    before, strings = np.random.get_state(), anndata.settings.allow_write_nullable_strings  # noqa: NPY002
    with torch.random.fork_rng():
        torch.manual_seed(12)
        scvi.model.SCVI.setup_anndata(cells)
        model = scvi.model.SCVI(cells, n_latent=3, n_hidden=8)
        model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False)
        mean, var = (torch.as_tensor(part) for part in model.get_latent_representation(return_dist=True))
        anndata.settings.allow_write_nullable_strings = True  # pandas 3 has no other strings
        model.save(str(bench.folder / "scvi"), save_anndata=True)
        fewer.write_h5ad(bench.folder / "fewer.h5ad")
    anndata.settings.allow_write_nullable_strings = strings
    np.random.set_state(before)  # noqa: NPY002
    request = Request(data=str(bench.folder / "scvi" / "adata.h5ad"))
    return Genuine(bench.folder / "scvi", request, mean, var.sqrt(), bench.folder / "fewer.h5ad")


TABLE = {
    "arrays in .npz": ("arrays", lambda bench: _arrays(bench, 1, _npz)),
    "arrays in .safetensors": ("arrays", lambda bench: _arrays(bench, 2, _safetensors)),
    "arrays in a folder": ("arrays", lambda bench: _arrays(bench, 3, _npy_folder)),
    "torchscript": ("torchscript", _torchscript),
    "exported-program": ("exported-program", _exported),
    "onnx": ("onnx", _onnx),
    "pickled-module": ("pickled-module", _pickled),
    "state-dict": ("state-dict", _state_dict),
    "klprobe-checkpoint": ("klprobe-checkpoint", _klprobe),
    "pythae": ("pythae", _pythae),
    "diffusers": ("diffusers", _diffusers),
    "scvi": ("scvi", _scvi),
}
"""Complete: `test_the_table_has_a_genuine_file_of_every_format` says what to add for a new one."""


@pytest.fixture(scope="session")
def genuine(network, x, tmp_path_factory):
    """From a row of the table to its file, made once."""
    made = {}

    def make(row: str) -> Genuine:
        if row not in made:
            made[row] = TABLE[row][1](Bench(tmp_path_factory.mktemp("genuine"), network, x[:N]))
        return made[row]

    return make


# ---- the contract


def gives_the_numbers(read: Callable, file: Genuine) -> None:
    """Raise AssertionError unless mean and std of every point are what the live encoder says."""
    encoded = read(file.path, file.request)
    assert isinstance(encoded.posterior, DiagonalGaussian)
    mean, std = encoded.posterior.rows(slice(None))
    torch.testing.assert_close(mean.float(), file.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(std.float(), file.std, rtol=1e-3, atol=1e-4)


def is_recognised_by_no_other(formats: dict, file: Genuine, name: str) -> None:
    """Raise AssertionError unless the format of that name alone takes the file; none where a flag chooses it."""
    assert [each for each in formats if formats[each].matches(file.path)] == ([] if file.by_flag else [name])


def is_refused(file: Genuine, capsys, *, path: Path | None = None, **changes) -> str:
    """Raise AssertionError unless library and command line refuse it, in one line; returns what is said."""
    path, request = path or file.path, dataclasses.replace(file.request, **changes)
    with pytest.raises(InputError) as caught:
        load(path, request)
    assert "\n" not in str(caught.value)
    capsys.readouterr()
    flags = [form.format(getattr(request, name)) for name, form in FLAGS.items() if getattr(request, name)]
    assert main(["estimate", "--checkpoint", str(path), "--methods", "closed-form", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = [line for line in err.splitlines() if line.strip() and not line.startswith(WARNING)]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def copy_of(file: Genuine, folder: Path) -> Path:
    target = folder / file.path.name
    (shutil.copytree if file.path.is_dir() else shutil.copyfile)(file.path, target)
    return target


def parts_of(path: Path) -> list[Path]:
    """The files that make up a checkpoint; not what stands beside it to be looked at by people."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return [file for file in files if file.name != "environment.json"]


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_a_genuine_file_of_every_format(name):
    assert name in {kind for kind, _ in TABLE.values()}, (
        f"{name} has no row in TABLE: add a function that writes a genuine file of it, by the code of those whose format it "
        "is, and says what the live encoder gives."
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE)
def test_a_format_gives_what_the_live_encoder_says_of_every_point(row, genuine):
    file = genuine(row)
    gives_the_numbers(load, file)
    gives_the_numbers(FORMATS[TABLE[row][0]].load, file)
    assert load(file.path, file.request).provenance["format"] == TABLE[row][0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE)
def test_exactly_one_format_recognises_a_file_so_that_their_order_does_not_matter(row, genuine):
    is_recognised_by_no_other(FORMATS, genuine(row), TABLE[row][0])


def test_a_folder_that_two_formats_recognise_is_refused_by_both_names(tmp_path, genuine, capsys):
    """Which of them is meant only the user can know; the alphabet is no reason."""
    row = next(row for row, (kind, _) in TABLE.items() if kind == "pythae")
    path = copy_of(genuine(row), tmp_path)
    np.save(path / "mean.npy", np.zeros((5, 2)))
    np.save(path / "std.npy", np.ones((5, 2)))
    assert main(["estimate", "--checkpoint", str(path)]) == 2
    assert "can be read as arrays and as pythae" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE)
def test_no_format_recognises_a_file_that_is_empty_or_text(row, genuine, tmp_path):
    """By name alone .onnx is recognised, which has no mark of its own, and says then that it is none."""
    for content in (b"", b"Not a checkpoint.\n"):
        path = tmp_path / genuine(row).path.name
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        found = [name for name in NAMES if FORMATS[name].matches(path)]
        assert found == (["onnx"] if path.suffix == ".onnx" else [])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE)
def test_a_file_cut_short_is_refused_wherever_it_was_cut(row, genuine, tmp_path, capsys):
    file = genuine(row)
    for part, keep in itertools.product([p.name for p in parts_of(file.path)], (0.0, 0.5, 0.99)):
        folder = tmp_path / f"{part}-{keep}"
        folder.mkdir()
        path = copy_of(file, folder)
        cut = path / part if path.is_dir() else path
        cut.write_bytes(cut.read_bytes()[: int(keep * cut.stat().st_size)])
        data = str(path / part) if part.endswith(".h5ad") else file.request.data
        is_refused(file, capsys, path=path, data=data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE)
def test_a_missing_file_or_missing_data_are_refused_by_name(row, genuine, tmp_path, capsys):
    file = genuine(row)
    assert "nowhere" in is_refused(file, capsys, path=tmp_path / "nowhere.pt")
    if file.request.data:
        assert "nowhere" in is_refused(file, capsys, data=str(tmp_path / "nowhere.npy"))
    for part in parts_of(file.path) if file.path.is_dir() else []:
        if part.name not in ("logvar.npy", "adata.h5ad"):  # a mean alone is a deterministic encoder; cells come by --data too
            folder = tmp_path / part.name
            folder.mkdir()
            (copy_of(file, folder) / part.name).unlink()
            is_refused(file, capsys, path=folder / file.path.name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE)
def test_shapes_that_do_not_fit_are_refused(row, genuine, capsys):
    file = genuine(row)
    if file.request.data:
        is_refused(file, capsys, data=str(file.wrong_shape))
    else:
        assert "shape" in is_refused(file, capsys, path=file.wrong_shape)


# ---- formats that are wrong


class Greedy:
    """Looks at the suffix, or at nothing but whether it is a folder."""

    def matches(self, path: Path) -> bool:
        return path.is_dir() or path.suffix in (".pt", ".pt2", ".pth", ".ckpt", ".npy", ".npz", ".onnx", ".safetensors")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE)
def test_a_format_that_takes_files_of_others_is_caught(row, genuine):
    with pytest.raises(AssertionError):
        is_recognised_by_no_other({**FORMATS, "greedy": Greedy()}, genuine(row), TABLE[row][0])


def _changed(encoded, change: Callable) -> object:
    mean, std = change(*encoded.posterior.rows(slice(None)))
    return dataclasses.replace(encoded, posterior=DiagonalGaussian(mean, std=std))


WRONG = {
    "takes the log-variance for the log of the std": lambda mean, std: (mean, std**2),
    "takes the std for the mean": lambda mean, std: (std, std),
    "gives the points in another order": lambda mean, std: (mean.flip(0), std.flip(0)),
    "gives the latents in another order": lambda mean, std: (mean.flip(1), std.flip(1)),
    "standardises the codes": lambda mean, std: ((mean - mean.mean(0)) / mean.std(0), std / mean.std(0)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_format_is_caught(wrong, row, genuine):
    with pytest.raises(AssertionError):
        gives_the_numbers(lambda path, request: _changed(load(path, request), WRONG[wrong]), genuine(row))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", TABLE)
def test_a_format_that_gives_another_files_numbers_is_caught(row, genuine):
    file = genuine(row)
    for other in (genuine(name) for name in ("arrays in .npz", "torchscript") if name != row):
        with pytest.raises(AssertionError):
            gives_the_numbers(lambda path, request, other=other: load(other.path, other.request), file)
