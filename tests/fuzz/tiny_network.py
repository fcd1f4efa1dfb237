"""The network of the genuine files; the fuzzed run imports a copy of this file as the user's own module."""

import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.1))
        self.mean = nn.Linear(width, 2)
        self.logvar = nn.Linear(width, 2)
        nn.init.constant_(self.logvar.bias, -1.0)  # without training it might be positive for all points, as no logvar is

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.body(x)
        return self.mean(hidden), self.logvar(hidden)


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = nn.Linear(2, 6)

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder(x)


class Judge(nn.Module):
    """Logits of three classes: a feature net for `klprobe evaluate --net`."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x)
