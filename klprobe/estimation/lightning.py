"""A Lightning callback that logs `klprobe.track` every few epochs; comes with the extra `[lightning]`."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from klprobe.types import InputError

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    try:
        from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    except ImportError as error:
        raise ImportError("klprobe.lightning needs Lightning: pip install 'klprobe[lightning]'.") from error

__all__ = ["TrackKL"]


class TrackKL(Callback):
    """Log the bracket of KL[q(z)||p(z)] through the module's own logger, at the end of every k-th training epoch.

    Where the KL cannot be tracked, for instance because the encoder has diverged, a warning is given and training goes on.
    With several devices the first one tracks, for all points.

    Args:
        measure: Function from the module to a flat dict of floats, which says what to encode, and every setting.
        every_n_epochs: Number of epochs k between two measurements.
        prefix: Prefix of the names that are logged.

    Example:
        >>> Trainer(callbacks=[TrackKL(lambda module: klprobe.track(module.encode, validation_set), every_n_epochs=5)])
    """

    def __init__(
        self, measure: Callable[[LightningModule], dict[str, float]], *, every_n_epochs: int = 1, prefix: str = "klprobe/"
    ) -> None:
        if every_n_epochs < 1:
            raise InputError(f"every_n_epochs is a number of epochs of at least 1; got {every_n_epochs}.")
        super().__init__()
        self.measure, self.every_n_epochs, self.prefix = measure, every_n_epochs, prefix

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the numbers in Lightning's hook, for its loggers and for callbacks such as ModelCheckpoint."""
        if (trainer.current_epoch + 1) % self.every_n_epochs or not trainer.is_global_zero:
            return
        try:
            numbers = self.measure(pl_module)
        except InputError as error:
            warnings.warn(f"epoch {trainer.current_epoch}: not tracked. {error}", stacklevel=2)
            return
        pl_module.log_dict({self.prefix + name: value for name, value in numbers.items()}, rank_zero_only=True)
