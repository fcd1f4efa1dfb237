import math
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import klprobe
from klprobe.distributions.posteriors import SampleOnly
from klprobe.distributions.problems import linear_gaussian_encoder
from klprobe.estimation.tracking import QUICK, VERDICTS, track
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.types import InputError, Verdict

EXACT = [MonteCarlo(num_samples=400)]


class Network(nn.Module):
    """An encoder in training: dropout on, batch statistics moving, one part frozen."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 4))
        self.frozen = nn.BatchNorm1d(4).eval()

    def encode(self, x):
        return self.frozen(self.body(x)).chunk(2, -1)

    def forward(self, x):
        mean, logvar = self.encode(x)
        return torch.distributions.Independent(torch.distributions.Normal(mean, (logvar / 2).exp()), 1)


@pytest.fixture
def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network()


@pytest.fixture
def x(generator):
    return torch.randn(200, 6, generator=generator)


def test_the_numbers_are_those_of_estimate():
    problem = linear_gaussian_encoder(3, 300, 0.5, generator=torch.Generator().manual_seed(0))
    report = klprobe.estimate(problem.posterior, methods=QUICK, seed=2)
    tracked = track(problem.posterior, seed=2)
    expected = {
        "average_kl": report.average_kl.value,
        "mutual_information": report.mutual_information.value,
        "log_n": math.log(300),
        "active_units": 3.0,
        "verdict": VERDICTS[report.verdict],
        "not_done": 0.0,
    }
    for target, bracket in report.brackets.items():
        for name, side in (("lower", bracket.lower), ("upper", bracket.upper)):
            expected |= {f"{target}_{name}": side.value, f"{target}_{name}_error": side.std_error}
    assert {name: value for name, value in tracked.items() if name != "seconds"} == expected
    assert all(type(value) is float for value in tracked.values())


def test_every_verdict_has_its_number():
    assert set(VERDICTS) == set(Verdict.__args__)


@pytest.mark.parametrize("how", ["network", "method", "function", "loader", "array", "named"])
def test_whatever_the_encoder_and_the_data_come_as_the_numbers_are_the_same(network, x, how):
    given = {
        "network": (network, x),
        "method": (network.encode, x),
        "function": (lambda batch: network.encode(batch), x),
        "loader": (network.encode, DataLoader(TensorDataset(x, torch.arange(200)), batch_size=7, shuffle=True)),
        "array": (network, x.double().numpy()),
        "named": (lambda batch: dict(zip(("mu", "log_var"), network.encode(batch), strict=True)), x),
    }
    encoder, data = given[how]
    outputs = "mean,logvar" if how in ("method", "function", "loader") else None
    tracked = track(encoder, data, outputs=outputs, methods=EXACT, batch_size=64)
    network.eval()
    report = klprobe.estimate(network(x), methods=EXACT)
    assert tracked["average_kl"] == pytest.approx(report.average_kl.value, rel=1e-5)  # float32 in other blockings
    assert tracked["empirical_lower"] == pytest.approx(report.brackets["empirical"].lower.value, rel=1e-3)


def test_the_network_and_all_random_states_come_back_as_they_were(network, x):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    assert True in modes
    assert False in modes
    python, numpy = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002

    def noisy(batch):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        return network(batch)

    track(noisy, x, methods=EXACT)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert random.getstate() == python
    assert (np.random.get_state()[1] == numpy).all()  # noqa: NPY002


def test_an_encoder_that_fails_comes_back_in_its_mode_too(network, x):
    modes = [module.training for module in network.modules()]
    with pytest.raises(InputError, match="cannot encode points of shape"):
        track(network, x[:, :5])
    assert [module.training for module in network.modules()] == modes


def test_the_same_points_are_taken_every_time(network, x):
    seen = []

    def encoder(batch):
        seen.append(batch)
        return network(batch)

    first, second = (track(encoder, x, num_points=50, methods=EXACT) for _ in range(2))
    half = len(seen) // 2
    assert all(torch.equal(a, b) for a, b in zip(seen[:half], seen[half:], strict=True))
    assert first["log_n"] == math.log(50)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    network.eval()
    posterior = network(x)
    assert track(posterior, num_points=50, methods=EXACT)["average_kl"] == pytest.approx(first["average_kl"], rel=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_runs_where_gradients_are_off_as_in_a_validation_epoch(network, x, mode):
    with mode():
        posterior = torch.distributions.Independent(torch.distributions.Normal(x.double(), torch.ones(200, 6).double()), 1)
        assert track(posterior)["not_done"] == 0
        assert track(network, x)["not_done"] == 0


def test_an_encoder_known_by_its_samples_has_the_same_keys_and_nan_where_nothing_is_known(network, x, generator):
    tracked = track(SampleOnly(torch.randn(300, 3, generator=generator)))
    assert tracked.keys() == track(network, x, methods=EXACT).keys()
    assert tracked["not_done"] == 0
    assert math.isnan(tracked["average_kl"])
    assert math.isnan(tracked["population_upper"])
    assert tracked["population_lower"] >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda n, x: (n, None), "needs data"),
        (lambda n, x: (n, [{"image": row} for row in x]), "points are dict"),
        (lambda n, x: (lambda batch: {"mean": nn.functional.dropout(batch), "std": batch}, x), "dropout"),
        (lambda n, x: (lambda batch: (batch, batch.abs() + 1), x), "--outputs mean,std"),
        (lambda n, x: (lambda batch: {"mean": batch, "logvar": batch}, x * math.nan), "NaN"),
    ],
)
def test_what_cannot_be_tracked_is_refused_with_the_remedy(network, x, arguments, message):
    with pytest.raises(InputError, match=message):
        track(*arguments(network, x))


def test_wrong_types_are_refused(x):
    with pytest.raises(TypeError, match="called"):
        track(x)


class Conditional(nn.Module):
    """N(x + shift[y], 1): the mean of its KL is half the mean of the squared norm of x + shift[y]."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Embedding.from_pretrained(torch.tensor([[0.0] * 6, [1.0] * 6, [-2.0] * 6]))

    def encode(self, x, y):
        mean = x + self.shift(y)
        return mean, torch.zeros_like(mean)


@pytest.mark.parametrize("kind", ["dictionary", "items", "pairs", "loader"])
def test_a_second_input_goes_to_its_argument(x, generator, kind):
    y = torch.randint(0, 3, (len(x),), generator=generator)
    network = Conditional()
    exact = float(0.5 * (x + network.shift(y)).double().square().sum(1).mean())
    data = {
        "dictionary": {"images": x.numpy(), "labels": y.to(torch.uint8), "names": ["a"] * len(x)},
        "items": [{"images": x[i], "labels": int(y[i]), "caption": "of a cat"} for i in range(len(x))],
        "pairs": TensorDataset(x, y),
        "loader": DataLoader(TensorDataset(x, y), batch_size=7),
    }[kind]
    inputs = "x=images,y=labels" if kind in ("dictionary", "items") else "x=0,y=1"
    found = track(network.encode, data, outputs="mean,logvar", inputs=inputs, methods=EXACT)
    assert found["average_kl"] == pytest.approx(exact, rel=1e-5)
    form = "x=images,y=labels" if kind in ("dictionary", "items") else "x=0,y=1"
    with pytest.raises(InputError, match=f"takes x, y, .*--inputs {form}"):
        track(network.encode, data, outputs="mean,logvar", methods=EXACT)


def test_a_dictionary_without_a_word_is_refused_with_what_to_type(network, x):
    with pytest.raises(InputError, match="inputs='x=images'"):
        track(network.encode, {"images": x}, outputs="mean,logvar", methods=EXACT)
