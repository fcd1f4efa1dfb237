"""Small genuine files of every format, varied by a seed, with the commands that read them.

A maker writes into a folder, which is the working folder of the commands. Nothing here is tuned to pass: klprobe's own code,
or the format's own library, writes every file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file

from tests.fuzz import tiny_network

POINTS = 48
"""Points in a file of data or posteriors: few, so that a run takes a tenth of a second."""
ESTIMATE = ("estimate", "--methods", "monte-carlo", "--num-samples", "50", "--json", "--device", "cpu")
HOLES = ("holes", "--num-samples", "100", "--json", "--device", "cpu")
EVALUATE = ("evaluate", "--json", "--device", "cpu", "--metrics")
DATA = ("--data", "x.npy")


class Made(NamedTuple):
    """The files that may be harmed, and the commands of which each reads all of them."""

    harmed: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]


class Format(NamedTuple):
    """A maker, and the modules that a run needs: they are imported once, before the first run."""

    make: Callable[[Path, int], Made]
    needs: tuple[str, ...] = ()


def _draw(seed: int) -> tuple[np.random.Generator, dict[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    dtype = ("float32", "float64")[seed % 2]
    mean, logvar = (draw.normal(size=(POINTS, 2 + seed % 3)).astype(dtype) for _ in range(2))
    spread = (("logvar", logvar), ("std", np.exp(logvar / 2)), ("var", np.exp(logvar)))[seed % 3]
    return draw, {"mean": mean, spread[0]: spread[1]}


def _points(folder: Path, draw: np.random.Generator, shape: tuple[int, ...] = (6,)) -> np.ndarray:
    x = draw.normal(size=(POINTS, *shape)).astype("float32")
    np.save(folder / "x.npy", x)
    return x


def _labelled(folder: Path, draw: np.random.Generator) -> None:
    """Data of three classes, as many for testing as for training."""
    x, labels = draw.normal(size=(2, POINTS, 6)).astype("float32"), np.arange(POINTS) % 3
    np.savez(folder / "d.npz", x_train=x[0], y_train=labels, x_test=x[1], y_test=labels)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Fresh weights by this seed, and both global random states as they were."""
    numpys = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        yield
    np.random.set_state(numpys)  # noqa: NPY002


def _encoder(seed: int) -> tiny_network.Encoder:
    with _seeded(seed):
        return tiny_network.Encoder(3 + seed % 3).eval()


# ---- arrays


def npy(folder: Path, seed: int) -> Made:
    _, arrays = _draw(seed)
    (folder / "q").mkdir()
    for name, array in arrays.items():
        np.save(folder / "q" / f"{name}.npy", np.asfortranarray(array) if seed % 5 == 4 else array)
    q = ("--checkpoint", "q")
    return Made(
        tuple(f"q/{name}.npy" for name in arrays), ((*ESTIMATE, *q), (*ESTIMATE, *q, "--prior", "mixture:q"), (*HOLES, *q))
    )


def npz(folder: Path, seed: int) -> Made:
    draw, arrays = _draw(seed)
    if seed % 4 == 3:
        arrays["split"] = np.array("test")
    if seed % 4 == 2:
        arrays["weights"] = draw.dirichlet(np.ones(POINTS))
    (np.savez_compressed if seed % 2 else np.savez)(folder / "q.npz", **arrays)
    np.savez(folder / "plain.npz", mean=arrays["mean"], logvar=np.zeros_like(arrays["mean"]))
    q = ("--checkpoint", "q.npz")
    mixture = (*ESTIMATE, "--checkpoint", "plain.npz", "--prior", "mixture:q.npz")
    return Made(("q.npz",), ((*ESTIMATE, *q), (*HOLES, *q), mixture))


def npz_data(folder: Path, seed: int) -> Made:
    """Data to encode, and to train on: one array, or several with labels."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(POINTS, 6)).astype("float32")
    labels = {"labels": np.arange(POINTS) % 3} if seed % 2 else {}
    np.savez(folder / "x.npz", x=x, **labels)
    torch.jit.script(_encoder(seed)).save(str(folder / "encoder.pt"))
    encode = (*ESTIMATE, "--checkpoint", "encoder.pt", "--data", "x.npz")
    train = (*_train("x.npz", visible="laplace"), "--steps", "1", "--out", "new")
    return Made(("x.npz",), (encode, train))


def safetensors(folder: Path, seed: int) -> Made:
    _, arrays = _draw(seed)
    metadata = {"klprobe.kind": "posterior", "klprobe.split": "test"} if seed % 2 else None
    save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / "q.safetensors", metadata)
    q = ("--checkpoint", "q.safetensors")
    return Made(("q.safetensors",), ((*ESTIMATE, *q), (*HOLES, *q), (*ESTIMATE, *q, "--prior", "mixture:q.safetensors")))


# ---- klprobe's own


def _train(dataset: str, system: str = "vae", **settings: Any) -> tuple[str, ...]:
    sizes = {"latent_dim": 2, "width": 4, "layers": 1, "batch_size": 8, **settings}
    flags = [text for name, value in sizes.items() for text in (f"--{name}", str(value))]
    fixed = ("--device", "cpu", "--log-every", "1", "--pictures-every", "0")
    return ("train", system, "--dataset", dataset, *fixed, *flags)


def _run(folder: Path, *commands: tuple[str, ...]) -> None:
    """Run klprobe itself in the folder."""
    from klprobe.cli import main

    before = os.getcwd(), signal.getsignal(signal.SIGINT)
    os.chdir(folder)
    try:
        for command in commands:
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                code = main(command)
            assert code == 0, command
    finally:
        os.chdir(before[0])
        signal.signal(signal.SIGINT, before[1])


def checkpoint(folder: Path, seed: int) -> Made:
    system = ("vae", "vae", "classifier", "wae")[seed % 4]
    _labelled(folder, np.random.default_rng(seed))
    path = "run/checkpoint.safetensors"
    if system == "classifier":
        _run(folder, (*_train("d.npz", visible="laplace"), "--steps", "1", "--out", "vae"))
        train = ("train", "classifier", "--dataset", "d.npz", "--device", "cpu", "--classes", "3", "--batch_size", "8")
        _run(folder, (*train, "--steps", "1", "--out", "run", "--pictures-every", "0"))
        return Made((path,), ((*EVALUATE, "prdc", "--checkpoint", "vae/checkpoint.safetensors", "--net", path),))
    dataset = "d.npz" if seed % 3 else "digits"
    train = (
        *_train(dataset, system, **({"visible": "laplace"} if system == "vae" else {})),
        "--seed",
        str(seed),
        "--out",
        "run",
    )
    _run(folder, (*train, "--steps", "1"))
    read = ("--checkpoint", path)
    resume = (*train, "--steps", "2", "--resume")
    if system == "wae":  # an encoder that gives samples alone, which neither monte-carlo nor holes can use
        return Made((path,), (resume, (*EVALUATE, "prdc", *read, "--net", "values")))
    return Made((path,), ((*ESTIMATE, *read), (*HOLES, *read), (*EVALUATE, "prdc", *read, "--net", "values"), resume))


def metrics(folder: Path, seed: int) -> Made:
    _points(folder, np.random.default_rng(seed))
    train = (*_train("x.npy", visible="laplace"), "--seed", str(seed), "--out", "run")
    _run(folder, (*train, "--steps", str(1 + seed % 5)))
    return Made(("run/metrics.csv",), ((*train, "--steps", "7", "--resume"),))


def partial(folder: Path, seed: int) -> Made:
    """What monte-carlo leaves of a run that was stopped between two batches."""
    from klprobe.estimators import monte_carlo
    from klprobe.runtime.partial import Keeper

    _, arrays = _draw(seed)
    np.savez(folder / "q.npz", **arrays)
    estimate = ("estimate", "--checkpoint", "q.npz", "--methods", "monte-carlo", "--num-samples", "60", "--device", "cpu")
    estimate += ("--out", "out", "--json", "--seed", str(seed))
    kept = monte_carlo.BATCH, Keeper.discard, Keeper.save_now_and_then
    monte_carlo.BATCH, Keeper.discard = 20, lambda self: None  # type: ignore[method-assign]
    Keeper.save_now_and_then = Keeper.save  # type: ignore[method-assign]
    short = ("40" if text == "60" else text for text in estimate)
    try:
        _run(folder, tuple(short))
    finally:
        monte_carlo.BATCH, Keeper.discard, Keeper.save_now_and_then = kept  # type: ignore[method-assign]
    name = "out/monte-carlo.partial.npz"
    for file in (folder / "out").iterdir():
        if file.name != Path(name).name:
            file.unlink()
    return Made((name,), ((*estimate, "--resume"),))


def flow(folder: Path, seed: int) -> Made:
    from klprobe.distributions.flows import Flow, Mixture, save_flow
    from klprobe.distributions.whitening import Whitening

    draw = np.random.default_rng(seed)
    dim, parts = 2 + seed % 2, 1 + seed % 3
    np.savez(folder / "q.npz", mean=draw.normal(size=(POINTS, dim)), logvar=draw.normal(size=(POINTS, dim)))
    with _seeded(seed):
        base = Mixture(torch.ones(parts) / parts, torch.randn(parts, dim), torch.ones(parts, dim))
        made = Flow(base, dim, seed % 3, 4 + seed % 2, 1)
    whitening = Whitening(torch.zeros(dim).double(), torch.ones(dim).double(), torch.eye(dim).double(), 0.0, 0.0)
    save_flow(folder / "flow.safetensors", made.double(), whitening, {"seed": seed})
    use = ("--checkpoint", "q.npz", "--prior", "flow:flow.safetensors")
    return Made(("flow.safetensors",), ((*ESTIMATE, *use), (*HOLES, *use)))


# ---- torch's own


def _with_data(folder: Path, seed: int) -> torch.Tensor:
    shutil.copy(tiny_network.__file__, folder / "tiny_network.py")
    return torch.from_numpy(_points(folder, np.random.default_rng(seed)))


def torchscript(folder: Path, seed: int) -> Made:
    x = _with_data(folder, seed)
    if seed % 4 == 3:
        _labelled(folder, np.random.default_rng(seed))
        _run(folder, (*_train("d.npz", visible="laplace"), "--steps", "1", "--out", "vae"))
        with _seeded(seed):
            torch.jit.script(tiny_network.Judge()).save(str(folder / "net.pt"))
        use = ("--checkpoint", "vae/checkpoint.safetensors", "--net", "net.pt", "--net-shape", "6")
        return Made(("net.pt",), ((*EVALUATE, "prdc", *use),))
    with _seeded(seed):
        module = _encoder(seed)
        (torch.jit.trace(module, x) if seed % 2 else torch.jit.script(module)).save(str(folder / "encoder.pt"))
    return Made(("encoder.pt",), ((*ESTIMATE, "--checkpoint", "encoder.pt", *DATA),))


def export(folder: Path, seed: int) -> Made:
    x = _with_data(folder, seed)
    shapes = {"x": {0: torch.export.Dim("n", min=2)}} if seed % 2 else None
    with _seeded(seed):
        program = torch.export.export(_encoder(seed), (x,), dynamic_shapes=shapes)
        torch.export.save(program, folder / "encoder.pt2")
    return Made(("encoder.pt2",), ((*ESTIMATE, "--checkpoint", "encoder.pt2", *DATA),))


def onnx(folder: Path, seed: int) -> Made:
    x = _with_data(folder, seed)
    free = {"dynamic_axes": {"x": {0: "n"}}, "input_names": ["x"]} if seed % 2 else {}
    with _seeded(seed):
        torch.onnx.export(_encoder(seed), (x,), folder / "encoder.onnx", dynamo=False, output_names=["mean", "logvar"], **free)
    return Made(("encoder.onnx",), ((*ESTIMATE, "--checkpoint", "encoder.onnx", *DATA),))


def state_dict(folder: Path, seed: int) -> Made:
    _with_data(folder, seed)
    with _seeded(seed):
        model = tiny_network.VAE() if seed % 2 else tiny_network.Encoder()
    held: Any = model.state_dict()
    if seed % 3 == 1:
        held = {"model": held, "epoch": seed}
    torch.save(held, folder / "weights.pt", _use_new_zipfile_serialization=seed % 4 != 3)
    factory = "tiny_network:VAE" if seed % 2 else "tiny_network:Encoder"
    return Made(("weights.pt",), ((*ESTIMATE, "--checkpoint", "weights.pt", "--encoder", factory, *DATA),))


def lightning(folder: Path, seed: int) -> Made:
    """A Lightning checkpoint as its Trainer writes it: weights, optimiser and loop states, hyper-parameters."""
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader

    x = _with_data(folder, seed)

    class Module(LightningModule):
        def __init__(self, width: int = 4, name: str = "vae") -> None:
            super().__init__()
            self.save_hyperparameters()
            self.encoder = tiny_network.Encoder(width)

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            mean, logvar = self.encoder(batch)
            return mean.square().mean() + logvar.square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-3)

    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with _seeded(seed):
        trainer = Trainer(max_steps=1, accelerator="cpu", default_root_dir=folder, **quiet)
        trainer.fit(Module(), DataLoader(x, batch_size=8))
        trainer.save_checkpoint(folder / "last.ckpt")
    return Made(("last.ckpt",), ((*ESTIMATE, "--checkpoint", "last.ckpt", "--encoder", "tiny_network:Encoder", *DATA),))


# ---- folders of other libraries


def pythae(folder: Path, seed: int) -> Made:
    from pythae import models

    _points(folder, np.random.default_rng(seed), (1, 4, 4))
    name = ("VAE", "BetaVAE", "BetaTCVAE")[seed % 3]
    with _seeded(seed):
        config = getattr(models, f"{name}Config")(input_dim=(1, 4, 4), latent_dim=2 + seed % 2)
        getattr(models, name)(config).save(str(folder / "model"))
    names = ("model/model_config.json", "model/model_config.json", "model/model.pt")
    return Made(names, ((*ESTIMATE, "--checkpoint", "model", *DATA),))


def diffusers(folder: Path, seed: int) -> Made:
    from diffusers import AutoencoderKL

    _points(folder, np.random.default_rng(seed), (1, 4, 4))
    with _seeded(seed):
        model = AutoencoderKL(
            in_channels=1,
            out_channels=1,
            block_out_channels=(4,),
            norm_num_groups=2,
            latent_channels=1 + seed % 2,
            sample_size=4,
        )
        model.save_pretrained(folder / "model", safe_serialization=True)
    names = ("model/config.json", "model/config.json", "model/diffusion_pytorch_model.safetensors")
    return Made(names, ((*ESTIMATE, "--checkpoint", "model", *DATA),))


def scvi(folder: Path, seed: int) -> Made:
    import anndata
    import scvi as tools

    draw = np.random.default_rng(seed)
    adata = anndata.AnnData(draw.poisson(draw.gamma(2, 1, size=(POINTS, 8))).astype("f4"))
    adata.obs["batch"] = np.array(["a", "b"])[np.arange(POINTS) % 2]
    strings = anndata.settings.allow_write_nullable_strings
    with _seeded(seed):
        kind = tools.model.LinearSCVI if seed % 2 else tools.model.SCVI
        kind.setup_anndata(adata, **({} if seed % 2 else {"batch_key": "batch"}))
        model = kind(adata, n_latent=2, n_hidden=4)
        model.is_trained_ = True  # with its first weights: training is not what is looked at here
        anndata.settings.allow_write_nullable_strings = True
        model.save(str(folder / "model"), save_anndata=True)
    anndata.settings.allow_write_nullable_strings = strings
    return Made(("model/model.pt", "model/adata.h5ad"), ((*ESTIMATE, "--checkpoint", "model"),))


FORMATS: dict[str, Format] = {
    "npy": Format(npy),
    "npz": Format(npz),
    "npz-data": Format(npz_data),
    "safetensors": Format(safetensors),
    "checkpoint": Format(checkpoint),
    "torchscript": Format(torchscript),
    "export": Format(export),
    "onnx": Format(onnx, ("onnxruntime", "onnx")),
    "state-dict": Format(state_dict),
    "lightning": Format(lightning, ("lightning.pytorch",)),
    "pythae": Format(pythae, ("pythae.models",)),
    "diffusers": Format(diffusers, ("diffusers",)),
    "scvi": Format(scvi, ("anndata", "scvi", "h5py")),
    "metrics": Format(metrics),
    "partial": Format(partial),
    "flow": Format(flow),
    "settings": Format(checkpoint),
}
"""`settings` harms the settings in the header of a checkpoint alone, `checkpoint` everything else as well."""


def variants(name: str, folder: Path, count: int) -> list[tuple[Path, Made]]:
    """Makes `count` genuine files of a format, each in a folder of its own."""
    found = []
    for seed in range(count):
        here = folder / f"{name}-{seed}"
        here.mkdir(parents=True)
        found.append((here, FORMATS[name].make(here, seed)))
    return found
