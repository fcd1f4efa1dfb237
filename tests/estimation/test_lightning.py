import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import klprobe
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import InputError

lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed: pip install 'klprobe[lightning]'")

from klprobe.estimation.lightning import TrackKL  # noqa: E402 (only where Lightning is there)

EPOCHS, EVERY = 3, 2


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Dropout(0.1), nn.Linear(5, 4))
        self.decoder = nn.Linear(2, 5)
        self.logged = []

    def encode(self, x):
        return self.encoder(x).chunk(2, -1)

    def training_step(self, batch, index):
        assert all(module.training for module in self.modules())
        mean, logvar = self.encode(batch[0])
        z = mean + torch.randn_like(mean) * (logvar / 2).exp()
        kl = 0.5 * (mean.square() + logvar.exp() - logvar - 1).sum(1)
        return ((self.decoder(z) - batch[0]).square().sum(1) + kl).mean()

    def on_train_epoch_start(self):
        self.logged.append(dict(self.trainer.callback_metrics))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def fitted(tmp_path, x, measure):
    """The module and its trainer after a real fit; the global random state as it was."""
    with torch.random.fork_rng():
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=EPOCHS,
            accelerator="cpu",
            default_root_dir=tmp_path,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            callbacks=[TrackKL(measure, every_n_epochs=EVERY)],
        )
        trainer.fit(module, DataLoader(TensorDataset(x), batch_size=50))
    return module, trainer


@pytest.fixture
def x(generator):
    return torch.randn(100, 5, generator=generator)


@pytest.mark.filterwarnings("ignore")
def test_a_fit_logs_every_number_of_track_every_k_epochs(tmp_path, x):
    measured = []

    def measure(module):
        measured.append(klprobe.track(module.encode, x, outputs="mean,logvar", methods=[MonteCarlo(num_samples=100)]))
        return measured[-1]

    module, trainer = fitted(tmp_path, x, measure)
    assert len(measured) == EPOCHS // EVERY
    assert "klprobe/average_kl" not in module.logged[1]
    for name, value in measured[-1].items():
        logged = float(trainer.callback_metrics[f"klprobe/{name}"])
        assert logged == pytest.approx(value, rel=1e-6) or (math.isnan(logged) and math.isnan(value))


def test_what_cannot_be_tracked_is_a_warning_and_the_fit_goes_on(tmp_path, x):
    with pytest.warns(UserWarning, match=r"epoch 1: not tracked.*needs data"):
        _, trainer = fitted(tmp_path, x, lambda module: klprobe.track(module.encode))
    assert trainer.current_epoch == EPOCHS


def test_every_zeroth_epoch_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        TrackKL(lambda module: {}, every_n_epochs=0)
