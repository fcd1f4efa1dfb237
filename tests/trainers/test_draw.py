import dataclasses
import math

import pytest
import torch
from torch.distributions import Normal

from klprobe.distributions.aggregate import AggregatePosterior
from klprobe.distributions.posteriors import standard_normal
from klprobe.estimators.monte_carlo import MonteCarlo
from klprobe.files.tensor_file import write
from klprobe.trainers.draw import DRAW, _Window
from klprobe.training.checkpoint import Checkpoint, load_checkpoint
from klprobe.training.data import Batch
from klprobe.training.trained import TrainedSystem
from klprobe.types import InputError

SMALL = DRAW(latent_dim=6, glances=3, memory=8)


def small(shape=(5,), system=SMALL):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = system.networks(shape)
        x = torch.rand(12, *shape)
        for parameter in networks.parameters():
            parameter.data.mul_(2)  # so that later codes depend on earlier ones enough to matter
    return networks.eval(), x


def test_the_density_of_a_code_is_the_product_of_its_steps_conditionals():
    """By hand, step by step, one data point at a time."""
    networks, x = small()
    q = SMALL.encode(networks, x)
    points = torch.tensor([3, 7, 3])
    z = q.sample_at(points, torch.Generator().manual_seed(0))
    expected = []
    with torch.no_grad():
        for code, point in zip(z, x[points], strict=True):
            state = memory = (torch.zeros(1, 8), torch.zeros(1, 8))
            canvas, total = torch.zeros(1, 5), 0.0
            for step in range(3):
                seen = torch.cat([point[None], point[None] - canvas.sigmoid(), memory[0]], 1)
                state = networks["encoder"]["cell"](seen, state)
                center, logvar = networks["encoder"]["code"](state[0]).double().chunk(2, 1)
                part = code[None, 2 * step : 2 * step + 2]
                total += float(Normal(center, torch.exp(0.5 * logvar)).log_prob(part).sum())
                memory = networks["decoder"]["cell"](part.float(), memory)
                canvas = canvas + networks["decoder"]["write"](memory[0])
            expected.append(total)
    torch.testing.assert_close(q.log_prob_at(z, points), torch.tensor(expected).double(), rtol=1e-5, atol=1e-5)


def test_the_density_of_a_point_integrates_to_one():
    """Importance sampling from a wider normal, 4 standard errors."""
    networks, x = small()
    q = SMALL.encode(networks, x)
    proposal = Normal(torch.zeros(6).double(), 2.5 * torch.ones(6).double())
    with torch.random.fork_rng():
        torch.manual_seed(1)
        z = proposal.sample((100_000,))
    weights = torch.exp(q.log_prob_at(z, torch.full((len(z),), 2)) - proposal.log_prob(z).sum(1))
    assert abs(float(weights.mean()) - 1) < 4 * float(weights.std()) / math.sqrt(len(z))


@pytest.mark.parametrize("settings", [{}, {"visible": "quantized_normal"}, {"attention": "both"}])
def test_the_matrix_of_densities_holds_what_each_pair_gives(settings):
    """Also where a tile is larger than the pairs that are taken together."""
    system = dataclasses.replace(SMALL, **settings)
    networks, x = small((1, 8, 8) if settings else (5,), system)
    q = system.encode(networks, x)
    points = torch.arange(700) % 12
    z = q.sample_at(points[:9], torch.Generator().manual_seed(0))
    each = torch.stack([q.log_prob_at(code.expand(700, 6), points) for code in z])
    torch.testing.assert_close(q.log_prob_matrix(z, points), each, rtol=1e-5, atol=1e-5)


def test_monte_carlo_takes_the_general_path_and_its_identity_holds():
    networks, x = small()
    q = SMALL.encode(networks, x)
    found = MonteCarlo(num_samples=400).estimate(q, standard_normal(6), generator=torch.Generator().manual_seed(0))
    values = {(e.quantity, e.target): e for e in found}
    kl, information = values["kl", "empirical"], values["mutual-information", "empirical"]
    assert kl.value + information.value == pytest.approx(kl.details["plain_average_kl"]["value"], rel=1e-6)
    assert information.value <= math.log(12) + 4 * information.std_error
    z = q.sample_at(torch.tensor([0, 1]), torch.Generator().manual_seed(1))
    brute = torch.stack([q.log_prob_at(row.expand(12, 6), torch.arange(12)).logsumexp(0) for row in z])
    torch.testing.assert_close(AggregatePosterior(q).log_sum(z), brute, rtol=1e-6, atol=1e-6)


def test_the_filters_of_a_window_lie_where_the_paper_puts_them():
    """Gregor et al. eq. 19 to 22 and 25, with pixels counted from 1, by hand."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        window = _Window(7, 11, 4, 3)
    memory = torch.tensor([[0.3, -0.2, 0.5, 1.0]])
    across, down, log_variance, log_stride, log_intensity = window.place(memory).detach().flatten().tolist()
    rows, columns, intensity = (part.detach() for part in window(memory))
    stride = (11 - 1) / (3 - 1) * math.exp(log_stride)
    for filters, size, place in ((rows, 7, down), (columns, 11, across)):
        for i in range(1, 4):
            center = (size + 1) / 2 * (place + 1) + (i - 3 / 2 - 0.5) * stride
            weights = torch.tensor([math.exp(-((a - center) ** 2) / (2 * math.exp(log_variance))) for a in range(1, size + 1)])
            torch.testing.assert_close(filters[0, i - 1], weights / weights.sum(), rtol=1e-4, atol=1e-6)
    assert float(intensity) == pytest.approx(math.exp(log_intensity), rel=1e-6)


@pytest.mark.parametrize("visible", ["bernoulli", "quantized_normal"])
def test_attention_trains_on_images_and_decodes_to_them(visible):
    system = DRAW(latent_dim=8, glances=4, memory=16, attention="both", visible=visible)
    networks, _ = small((1, 28, 28), system)
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    (player,) = system.players(networks)
    loss, _ = player.loss(Batch(x, None), torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(loss, list(networks.parameters()))
    assert all(g.isfinite().all() and g.any() for g in gradients)
    with torch.no_grad():
        made = system.decode(networks, torch.zeros(2, 8))
    assert made.shape == (2, 1, 28, 28)
    assert 0 <= made.min() <= made.max() <= 1


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="not a multiple of 3"):
        DRAW(latent_dim=10, glances=3)
    with pytest.raises(InputError, match="moves over images"):
        DRAW(attention="both").networks((2,))


def test_reconstructions_are_painted_from_codes_of_each_point():
    networks, x = small()
    system = TrainedSystem(Checkpoint(SMALL, networks, {"system": "draw"}))
    again = [system.reconstruct(x, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert again[0].shape == x.shape
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])


def test_a_file_claims_no_more_steps_than_the_limit(tmp_path):
    """Steps have no weights of their own: ten million of them would fit a checkpoint of 10 kB, and run for a month."""
    assert DRAW(latent_dim=1000, glances=1000).glances == 1000
    with pytest.raises(InputError, match="draw needs glances of at most 1,000; got 1001"):
        DRAW(latent_dim=1001, glances=1001)
    with pytest.raises(InputError, match="draw needs levels of at most 1,000,000,000"):
        DRAW(levels=10**400)
    system = DRAW(latent_dim=1, glances=1, memory=2)
    networks, _ = small((3,), system)
    settings = {"system": "draw", "dataset": "digits", "split": "train", "steps": 0, "input_shape": [3], "latent_dim": 10**7}
    settings["settings"] = dataclasses.asdict(system) | {"latent_dim": 10**7, "glances": 10**7}
    write(tmp_path / "a.safetensors", {f"networks.{n}": t for n, t in networks.state_dict().items()}, settings)
    with pytest.raises(InputError, match="draw needs glances of at most 1,000"):
        load_checkpoint(tmp_path / "a.safetensors")
