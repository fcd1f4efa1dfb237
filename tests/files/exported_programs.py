"""Encoders as users write them, for exporting: each with the shape of one data point."""

import torch
from torch import nn
from torch.nn import functional


class Mlp(nn.Module):
    point = (6,)

    def __init__(self):
        super().__init__()
        first = (nn.Linear(6, 16), nn.ReLU(inplace=True), nn.BatchNorm1d(16), nn.Dropout(0.1))
        self.body = nn.Sequential(*first, nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        return self.body(x).chunk(2, -1)


class Images(nn.Module):
    """Convolutions with a residual connection; returns a dict."""

    point = (1, 16, 16)

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.second, self.groups = nn.Conv2d(4, 4, 3, padding="same"), nn.GroupNorm(2, 4)
        self.last = nn.Linear(16, 6)

    def forward(self, x):
        hidden = functional.silu(self.norm(self.first(x)))
        hidden = hidden + functional.leaky_relu(self.groups(self.second(hidden)))
        hidden = functional.adaptive_avg_pool2d(functional.max_pool2d(hidden, 2), 2)
        hidden = functional.interpolate(functional.pad(hidden, (1, 1, 1, 1), mode="reflect"), scale_factor=2.0, mode="bilinear")
        mean, logvar = self.last(functional.avg_pool2d(hidden, 4).flatten(1)).chunk(2, 1)
        return {"mean": mean, "log variance": logvar.clamp(-10, 10)}


class Transformer(nn.Module):
    """Attention with a mask of infinities, by torch's layers and by hand; returns a list."""

    point = (5, 4)

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.first, self.body, self.last = nn.Linear(4, 8), nn.TransformerEncoder(layer, 2), nn.Linear(8, 6)
        self.places = nn.Parameter(torch.zeros(1, 5, 8))
        self.register_buffer("mask", torch.triu(torch.full((5, 5), -torch.inf), 1), persistent=False)

    def forward(self, x):
        hidden = self.body(self.first(x) + self.places, mask=self.mask, is_causal=True)
        later = torch.tril(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)).logical_not()
        weights = (hidden @ hidden.mT / 8**0.5).masked_fill(later, -torch.inf).softmax(-1)
        return list(self.last((weights @ hidden).mean(1)).split(3, 1))


class Vae(nn.Module):
    """Draws its latents; one weight serves twice."""

    point = (6,)

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(6, 8), nn.Linear(4, 6)
        self.same = self.encode

    def forward(self, x):
        mean, logvar = self.encode(x).chunk(2, 1)
        return self.decode(mean + torch.exp(0.5 * logvar) * torch.randn_like(logvar)), (mean, logvar)


class Words(nn.Module):
    """Embeds integers and reads them one after the other; returns one tensor."""

    point = (7,)

    def __init__(self):
        super().__init__()
        self.words, self.gru = nn.Embedding(20, 8), nn.GRU(8, 8, batch_first=True, bidirectional=True)
        self.lstm, self.last = nn.LSTM(16, 8, batch_first=True), nn.Linear(8, 6)

    def forward(self, x):
        hidden, _ = self.gru(self.words(x))
        return self.last(self.lstm(hidden)[1][0][-1])


class Arithmetic(nn.Module):
    """Whatever a distribution and plain tensor arithmetic come to; nested outputs."""

    point = (6,)

    def forward(self, x):
        pairs = torch.einsum("bi,bj->bij", x, x).softmax(-1)
        order = torch.arange(x.shape[0], device=x.device)
        wide = torch.cat([torch.where(x > 0, x, x * torch.tensor(0.5)), torch.zeros(x.shape[0], 2)], 1)
        wide = torch.stack([wide, wide**2], 0).mean(0) + wide.amax(1, keepdim=True) + wide[:, [1, 0, 2, 3, 4, 5, 6, 7]]
        normal = torch.distributions.Normal(wide[:, :4], functional.softplus(wide[:, 4:]) + 1e-6, validate_args=False)
        return {"draw": normal.rsample(), "rest": [pairs.sum((1, 2)), order, (torch.linalg.vector_norm(x, dim=1),)]}


class Counting(nn.Module):
    """Left in training mode: running statistics and a counter change with every call."""

    point = (6,)

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("steps", torch.zeros(()))

    def eval(self):
        return self

    def forward(self, x):
        self.steps.add_(1)
        return self.norm(x) + self.steps


PROGRAMS = (Mlp, Images, Transformer, Vae, Words, Arithmetic, Counting)
WAYS = {"plain": (False, True, False), "strict and decomposed": (True, False, True)}
"""Whether Python is traced strictly, whether the batch size may vary, whether operators are decomposed."""


def points(kind, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if kind is Words:
        return torch.randint(0, 20, (number, *kind.point), generator=generator)
    return torch.randn(number, *kind.point, generator=generator)


def exported(kind, way: str, path):
    """The live encoder, exported to the path."""
    strict, varies, decomposed = WAYS[way]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = kind().eval()
        shapes = ({0: torch.export.Dim("points", min=2, max=4096)},) if varies else None
        program = torch.export.export(encoder, (points(kind, 8),), strict=strict, dynamic_shapes=shapes)
        torch.export.save(program.run_decompositions() if decomposed else program, path)
    return encoder
