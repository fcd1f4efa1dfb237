"""pythae's VAE and adversarial auto-encoder with klprobe's networks inside, and the times of their trainers' steps."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Run:
    """A system of klprobe's, its networks, and float data for one epoch, shape (n, *shape)."""

    kind: str
    system: Any
    networks: nn.ModuleDict
    x: torch.Tensor


def versions() -> dict[str, str]:
    """Of what is compared with."""
    return {"pythae": version("pythae")}


def loader(x: torch.Tensor, batch_size: int) -> Any:
    """The loader that pythae's trainers make."""
    from pythae.data.datasets import BaseDataset, collate_dataset_output

    data = BaseDataset(x, torch.zeros(len(x)))
    return torch.utils.data.DataLoader(data, batch_size, shuffle=True, collate_fn=collate_dataset_output)


def steps(run: Run, *, fused: bool) -> list[tuple[float, float]]:
    """CPU and wall seconds of each step of an epoch of pythae's trainer, between its own callbacks."""
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import AdversarialTrainer, AdversarialTrainerConfig, BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    times: list[tuple[float, float]] = []

    class Clock(TrainingCallback):
        def on_train_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.append((time.process_time(), time.perf_counter()))

    betas = (run.system.adam_beta1, run.system.adam_beta2)
    optimizer: dict[str, Any] = {"betas": betas} | ({"fused": True} if fused else {})
    seeded = random.getstate(), np.random.get_state()  # noqa: NPY002 (pythae seeds the global ones)
    logging.disable(logging.CRITICAL)
    try:
        with (
            tempfile.TemporaryDirectory() as out,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            torch.random.fork_rng(),
        ):
            common = {"output_dir": out, "num_epochs": 1, "per_device_train_batch_size": run.system.batch_size, "no_cuda": True}
            data = BaseDataset(run.x, torch.zeros(len(run.x)))
            if run.kind == "vae":
                config = BaseTrainerConfig(**common, learning_rate=run.system.lr, optimizer_params=optimizer)
                trainer = BaseTrainer(_vae(run), data, training_config=config, callbacks=[Clock()])
            else:
                config = AdversarialTrainerConfig(
                    **common,
                    autoencoder_learning_rate=run.system.lr,
                    discriminator_learning_rate=run.system.code_lr,
                    autoencoder_optimizer_params=optimizer,
                    discriminator_optimizer_params=optimizer,
                )
                trainer = AdversarialTrainer(_adversarial(run), data, training_config=config, callbacks=[Clock()])
            trainer.prepare_training()
            trainer.train_step(epoch=1)
    finally:
        logging.disable(logging.NOTSET)
        random.setstate(seeded[0])
        np.random.set_state(seeded[1])  # noqa: NPY002
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(times)]


def _vae(run: Run) -> Any:
    from pythae.models import VAE, VAEConfig

    config = VAEConfig(tuple(run.x.shape[1:]), run.system.latent_dim, reconstruction_loss="bce")
    return VAE(config, _encoder(run), _decoder(run))


def _adversarial(run: Run) -> Any:
    from pythae.models import Adversarial_AE, Adversarial_AE_Config
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDiscriminator

    class Judge(BaseDiscriminator):
        def __init__(self) -> None:
            super().__init__()
            self.judge = nn.Sequential(run.networks["code_discriminator"], nn.Sigmoid())

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(embedding=self.judge(z))

    config = Adversarial_AE_Config(tuple(run.x.shape[1:]), run.system.latent_dim, reconstruction_loss="mse")
    return Adversarial_AE(config, _encoder(run), _decoder(run), Judge())


def _encoder(run: Run) -> Any:
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = run.networks["encoder"]

        def forward(self, x: torch.Tensor) -> Any:
            mean, logvar = self.encoder(x).chunk(2, dim=-1)
            return ModelOutput(embedding=mean, log_covariance=logvar)

    return Encoder()


def _decoder(run: Run) -> Any:
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            ends = [nn.Sigmoid()] if run.kind == "vae" else []
            self.generator = nn.Sequential(run.networks["generator"], *ends)

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=self.generator(z))

    return Decoder()
