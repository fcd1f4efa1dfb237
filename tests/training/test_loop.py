import csv
import dataclasses
import math
import os
import pathlib
import signal
from itertools import pairwise

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from klprobe.files import tensor_file
from klprobe.trainers.vae import VAE
from klprobe.training import checkpoint
from klprobe.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from klprobe.training.data import Data
from klprobe.training.log import MetricsLog
from klprobe.training.loop import Algorithm, Player, train
from klprobe.types import InputError


@dataclasses.dataclass(frozen=True)
class Game(Algorithm):
    """Two players with a network each, both with batch statistics, dropout and noise; the critic moves twice a step."""

    latent_dim: int = 2
    batch_size: int = 8
    lr: float = 1e-2
    fused: bool = True
    break_at: int = -1

    def networks(self, shape):
        def network(a, b):
            return nn.Sequential(nn.Linear(a, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, b))

        return nn.ModuleDict({"maker": network(2, *shape), "critic": network(*shape, 1)})

    def players(self, networks):
        calls = []

        def fake(x, noise):
            return networks["maker"](torch.randn(len(x), 2, generator=noise))

        def maker_loss(batch, noise):
            calls.append(None)
            loss = -networks["critic"](fake(batch.x, noise)).mean()
            return loss * (float("nan") if len(calls) == self.break_at else 1), {}

        def critic_loss(batch, noise):
            real, made = networks["critic"](batch.x), networks["critic"](fake(batch.x, noise))
            return (real - 1).square().mean() + (made + 1).square().mean(), {"real": real.mean().detach()}

        def adam(parameters):
            return torch.optim.Adam(parameters, self.lr, fused=self.fused)

        return (Player("critic", ("critic",), critic_loss, adam, updates=2), Player("maker", ("maker",), maker_loss, adam))


@pytest.fixture(scope="module")
def data():
    x = torch.rand(50, 3, generator=torch.Generator().manual_seed(5))
    return Data("toy", "train", x)


@pytest.fixture(scope="module")
def images():
    x = torch.randint(256, (20, 1, 28, 28), generator=torch.Generator().manual_seed(6), dtype=torch.uint8)
    return Data("toy-images", "train", x)


def vae(**changes):
    return VAE(**{"latent_dim": 2, "batch_size": 8, "width": 8, "visible": "bernoulli", **changes})


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(first, second):
    """All tensors (weights, batch statistics, optimisers) bit by bit, all settings."""
    (tensors, settings), (others, other_settings) = checkpoint.read(first), checkpoint.read(second)
    assert settings == other_settings
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)


def stop_at(step):
    """Ctrl-C as soon as the progress receiver hears of this step."""

    def progress(done, total, note=""):
        if done >= step:
            os.kill(os.getpid(), signal.SIGINT)

    return progress


@pytest.mark.parametrize("algorithm", [Game(), Game(fused=False), vae()])
@pytest.mark.parametrize("seed", [0, 7])
def test_an_interrupted_and_resumed_run_writes_the_bits_of_an_uninterrupted_one(algorithm, seed, data, tmp_path):
    settings = {"steps": 31, "seed": seed, "log_every": 5, "checkpoint_every": 4}
    whole = train(algorithm, data, out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train(algorithm, data, out=tmp_path / "parts", progress=stop_at(1), **settings)
    done = checkpoint.read(tmp_path / "parts" / "checkpoint.safetensors")[1]["steps"]
    assert 0 < done < 31
    part = train(algorithm, data, out=tmp_path / "parts", resume=True, **settings)
    assert_same(whole, part)


def stopping_after(steps):
    """Asks to end once training has gone so many steps, in this session."""
    asked = iter([False] * (steps - 1) + [True])
    return lambda: next(asked)


def timeless(folder):
    """The rows of metrics.csv without the seconds."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows(folder)]


@pytest.mark.parametrize("algorithm", [Game(), vae()])
def test_a_run_that_is_told_to_stop_goes_on_to_the_bits_and_rows_of_one_that_was_not(algorithm, data, tmp_path):
    """Stopped in the middle of two rows of metrics.csv, right after one, and once more."""
    settings = {"steps": 23, "log_every": 5, "checkpoint_every": 10}
    whole = train(algorithm, data, out=tmp_path / "whole", **settings)
    done = []
    for number, steps in enumerate((3, 2, 9)):
        path = train(algorithm, data, out=tmp_path / "parts", resume=number > 0, stop=stopping_after(steps), **settings)
        done.append(checkpoint.read(path)[1]["steps"])
    assert done == [3, 5, 14]
    part = train(algorithm, data, out=tmp_path / "parts", resume=True, **settings)
    assert_same(whole, part)
    assert timeless(tmp_path / "parts") == timeless(tmp_path / "whole")


def test_checkpoints_by_time_change_neither_weights_nor_rows_and_can_be_resumed(data, tmp_path):
    """One is due after every step here; a run that dies after step 7 goes on from there."""
    settings = {"steps": 12, "log_every": 5, "checkpoint_every": 100}
    whole = train(vae(), data, out=tmp_path / "whole", **settings)
    often = train(vae(), data, out=tmp_path / "often", checkpoint_seconds=0.0, **settings)
    assert_same(whole, often)
    assert timeless(tmp_path / "often") == timeless(tmp_path / "whole")

    def die(step, networks):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(vae(), data, out=tmp_path / "dead", checkpoint_seconds=0.0, watch=die, watch_every=7, **settings)
    assert checkpoint.read(tmp_path / "dead" / "checkpoint.safetensors")[1]["steps"] == 7
    assert_same(whole, train(vae(), data, out=tmp_path / "dead", resume=True, **settings))
    assert timeless(tmp_path / "dead") == timeless(tmp_path / "whole")


def test_a_checkpoint_of_before_a_setting_was_there_goes_on_with_its_default_alone(data, tmp_path):
    path = train(vae(), data, steps=2, out=tmp_path)
    tensors, settings = checkpoint.read(path)
    del settings["settings"]["decay_steps"]
    tensor_file.write(path, tensors, settings)
    with pytest.raises(InputError, match=r"settings.decay_steps was 0, is 5"):
        train(vae(decay_steps=5), data, steps=3, out=tmp_path, resume=True)
    train(vae(), data, steps=3, out=tmp_path, resume=True)
    assert checkpoint.read(path)[1]["steps"] == 3


def test_without_a_time_there_is_no_checkpoint_between_those_by_steps(data, tmp_path):
    def die(step, networks):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        train(vae(), data, steps=12, out=tmp_path, checkpoint_every=5, watch=die, watch_every=7)
    assert checkpoint.read(tmp_path / "checkpoint.safetensors")[1]["steps"] == 5


@pytest.mark.parametrize("wrong", [torch.zeros(2, 2), torch.tensor(1.0), torch.tensor([1, 2])])
def test_logged_numbers_of_a_damaged_checkpoint_are_refused(wrong, data, tmp_path):
    path = train(vae(), data, steps=10, out=tmp_path, log_every=100, stop=stopping_after(3))
    tensors, settings = checkpoint.read(path)
    assert "log.000.vae.loss" in tensors
    tensor_file.write(path, tensors | {"log.000.vae.loss": wrong}, settings)
    with pytest.raises(InputError, match=r"log.000.vae.loss is no list of logged numbers"):
        train(vae(), data, steps=10, out=tmp_path, log_every=100, resume=True)


def test_convolutions_resume_bit_identically(images, tmp_path):
    whole = train(vae(), images, steps=4, out=tmp_path / "whole")
    train(vae(), images, steps=2, out=tmp_path / "parts")
    part = train(vae(), images, steps=4, out=tmp_path / "parts", resume=True)
    assert_same(whole, part)


@pytest.mark.parametrize("shape", ["data", "images"])
def test_half_precision_trains_float32_weights_to_nearly_the_same_loss_and_resumes_bit_identically(shape, request, tmp_path):
    """bfloat16 has 8 bits: products differ by some 2^-8, and so does the mean loss of the first steps, by no more than 5 %."""
    points = request.getfixturevalue(shape)
    means = {}
    for precision in ("float32", "bf16"):
        path = train(vae(), points, steps=4, out=tmp_path / precision, precision=precision, log_every=4)
        assert {t.dtype for t in checkpoint.read(path)[0].values() if t.is_floating_point()} == {torch.float32}
        means[precision] = float(rows(tmp_path / precision)[-1]["vae.loss"])
    assert means["bf16"] != means["float32"]
    assert means["bf16"] == pytest.approx(means["float32"], rel=0.05)
    train(vae(), points, steps=2, out=tmp_path / "parts", precision="bf16")
    with pytest.raises(InputError, match="precision was 'bf16', is 'float32'"):
        train(vae(), points, steps=4, out=tmp_path / "parts", resume=True)
    part = train(vae(), points, steps=4, out=tmp_path / "parts", precision="bf16", resume=True)
    assert_same(tmp_path / "bf16" / "checkpoint.safetensors", part)


def test_the_losses_of_half_precision_are_computed_in_float32(data, tmp_path):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Game):
        def players(self, networks):
            def watch(player):
                def loss(batch, noise):
                    output = networks["critic"](batch.x)
                    seen.append((output.dtype, networks["critic"][0](batch.x).dtype))
                    return player.loss(batch, noise)

                return dataclasses.replace(player, loss=loss)

            return tuple(watch(p) for p in super().players(networks))

    train(Watched(), data, steps=1, out=tmp_path, precision="bf16")
    assert set(seen) == {(torch.float32, torch.bfloat16)}


def test_a_loss_that_leaves_a_parameter_out_is_named(data, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Idle(Game):
        def players(self, networks):
            critic, maker = super().players(networks)
            return critic, dataclasses.replace(maker, loss=lambda b, noise: (networks["maker"][0](b.x[:, :2]).mean(), {}))

    with pytest.raises(ValueError, match="loss of 'maker' does not depend on all parameters"):
        train(Idle(), data, steps=1, out=tmp_path)


def test_another_seed_gives_another_run(data, tmp_path):
    first, second = (train(vae(), data, steps=3, out=tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert not torch.equal(*(checkpoint.read(p)[0]["networks.encoder.0.weight"] for p in (first, second)))


def test_every_epoch_visits_every_point_once_in_a_new_order(tmp_path):
    seen = []

    class Watched(Data):
        def batch(self, indices):
            seen.append(indices)
            return super().batch(indices)

        def to(self, device):
            return self

    train(vae(batch_size=10), Watched("toy", "train", torch.zeros(40, 3)), steps=8, out=tmp_path)
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert torch.equal(first.sort().values, torch.arange(40))
    assert torch.equal(second.sort().values, torch.arange(40))
    assert not torch.equal(first, second)


def test_a_players_step_moves_its_own_network_and_nothing_else(data, tmp_path):
    """Batch statistics included, though both players run both networks in training mode."""
    moved = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Game):
        def players(self, networks):
            def watch(player):
                def loss(batch, noise):
                    moved.append((player.name, {k: v.clone() for k, v in networks.state_dict().items()}))
                    return player.loss(batch, noise)

                return dataclasses.replace(player, loss=loss)

            return tuple(watch(p) for p in super().players(networks))

    train(Watched(), data, steps=3, out=tmp_path)
    assert [name for name, _ in moved[:3]] == ["critic", "critic", "maker"]
    for (name, before), (_, after) in pairwise(moved):
        for key in before:
            assert torch.equal(before[key], after[key]) != key.startswith(name), f"{key} in the turn of {name}"


def test_the_fused_optimiser_gets_gradients_in_the_layout_of_its_parameters(data, tmp_path):
    """torch's fused Adam ignores strides, and differentiating x @ W.t() may give them transposed."""

    @dataclasses.dataclass(frozen=True)
    class Transposed(Game):
        def networks(self, shape):
            return nn.ModuleDict({"only": nn.Linear(3, 2)})

        def players(self, networks):
            def loss(batch, noise):
                weight = networks["only"].weight
                assert torch.autograd.grad(weight.t().contiguous().square().sum(), weight)[0].stride() != weight.stride()
                return weight.t().contiguous().square().sum() + networks["only"](batch.x).square().mean(), {}

            return (Player("only", ("only",), loss, lambda p: torch.optim.Adam(p, 0.1, fused=self.fused)),)

    fused, plain = (
        checkpoint.read(train(Transposed(fused=fused), data, steps=3, out=tmp_path / str(fused)))[0] for fused in (True, False)
    )
    torch.testing.assert_close(fused["networks.only.weight"], plain["networks.only.weight"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_player_plays_on_fresh_mini_batches_or_on_the_last_one_of_the_player_before(fresh, data, tmp_path):
    """The critic moves twice a step, then the maker; no point is left out because of a batch that nobody looked at."""
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Watched(Game):
        def players(self, networks):
            def watch(player):
                def loss(batch, noise):
                    seen.append(batch.x)
                    return player.loss(batch, noise)

                return dataclasses.replace(player, loss=loss, fresh=fresh or player.name == "critic")

            return tuple(watch(p) for p in super().players(networks))

    train(Watched(batch_size=5), data, steps=5, out=tmp_path)
    batches = seen if fresh else [x for i, x in enumerate(seen) if i % 3 != 2]
    assert fresh or all(torch.equal(seen[i], seen[i - 1]) for i in range(2, 15, 3))
    first_epoch = torch.cat(batches[:10])
    assert torch.equal(first_epoch.sort(0).values, data.x.sort(0).values)
    assert torch.equal(first_epoch.unique(dim=0), data.x.unique(dim=0))


def test_the_first_player_cannot_play_on_the_mini_batch_of_one_before(data, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Headless(Game):
        def players(self, networks):
            critic, maker = super().players(networks)
            return dataclasses.replace(critic, fresh=False), maker

    with pytest.raises(ValueError, match="first player, 'critic', has no mini-batch"):
        train(Headless(), data, steps=1, out=tmp_path)


@pytest.mark.parametrize("owners", [("maker",), ("maker", "critic", "critic")])
def test_a_network_without_exactly_one_owner_is_refused(owners, data, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Disputed(Game):
        def players(self, networks):
            player = super().players(networks)[0]
            return tuple(dataclasses.replace(player, networks=(name,)) for name in owners)

    with pytest.raises(ValueError, match="exactly one owner"):
        train(Disputed(), data, steps=1, out=tmp_path)


def test_metrics_are_means_over_the_updates_since_the_last_row_and_survive_a_resume(data, tmp_path):
    train(Game(), data, steps=12, out=tmp_path / "each", log_every=1)
    train(Game(), data, steps=7, out=tmp_path / "some", log_every=3, checkpoint_every=100)
    train(Game(), data, steps=12, out=tmp_path / "some", log_every=3, checkpoint_every=100, resume=True)
    each, some = rows(tmp_path / "each"), rows(tmp_path / "some")
    assert list(some[0]) == ["step", "seconds", "critic.loss", "critic.real", "maker.loss"]
    assert [int(row["step"]) for row in some] == [3, 6, 7, 9, 12]
    for first, last, row in zip((0, 3, 6, 7, 9), (3, 6, 7, 9, 12), some, strict=True):
        mean = sum(float(r["critic.loss"]) for r in each[first:last]) / (last - first)
        assert float(row["critic.loss"]) == pytest.approx(mean, rel=1e-4)
    assert sorted(float(row["seconds"]) for row in some) == [float(row["seconds"]) for row in some]


def test_rows_of_lost_work_are_dropped_on_resume(data, tmp_path):
    train(Game(), data, steps=2, out=tmp_path, log_every=1)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("3,9.0,1,1,1\r\n")
    train(Game(), data, steps=4, out=tmp_path, log_every=1, resume=True)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]


def test_progress_hears_the_end_with_the_losses(data, tmp_path):
    heard = []
    train(Game(), data, steps=5, out=tmp_path, progress=lambda done, total, note="": heard.append((done, total, note)))
    assert heard[-1][:2] == (5, 5)
    assert "steps/s" in heard[-1][2]
    assert "critic" in heard[-1][2]
    assert "maker" in heard[-1][2]


def test_a_loss_that_is_not_finite_names_step_and_player_and_keeps_the_last_checkpoint(data, tmp_path):
    with pytest.raises(InputError, match=r"player 'maker' is nan at step 7: .*checkpoint is kept: .*checkpoint\.safetensors"):
        train(Game(break_at=7), data, steps=10, out=tmp_path, checkpoint_every=5)
    tensors, settings = checkpoint.read(tmp_path / "checkpoint.safetensors")
    assert settings["steps"] == 5
    assert all(t.isfinite().all() for t in tensors.values())


def test_weights_that_are_not_finite_never_replace_a_checkpoint(data, tmp_path):
    """The last update may break weights without any loss after it to show."""
    with pytest.raises(InputError, match="After step 1 networks"):
        train(vae(lr=1e300), data, steps=1, out=tmp_path)
    assert not (tmp_path / "checkpoint.safetensors").exists()
    train(vae(lr=1e-3), data, steps=1, out=tmp_path)  # nothing is lost: the folder may be used again


def test_a_write_that_fails_leaves_the_checkpoint_before_whole(data, tmp_path, monkeypatch):
    path = train(vae(), data, steps=2, out=tmp_path)
    before = path.read_bytes()

    def full_disk(draft, content):
        draft.open("wb").write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_bytes", full_disk)
    with pytest.raises(InputError, match=r"No space left on device.*stays as it is"):
        train(vae(), data, steps=4, out=tmp_path, resume=True)
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.safetensors", "metrics.csv"}


def test_save_load_gives_the_same_output(data, tmp_path):
    path = train(vae(), data, steps=3, out=tmp_path)
    loaded = load_checkpoint(path)
    assert loaded.algorithm == vae()
    assert not loaded.networks.training
    save_checkpoint(tmp_path / "small.safetensors", loaded)
    again = load_checkpoint(tmp_path / "small.safetensors")
    first, second = (c.algorithm.encode(c.networks, data.x) for c in (loaded, again))
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.stddev, second.stddev)
    assert loaded.settings == again.settings
    assert (tmp_path / "small.safetensors").stat().st_size < path.stat().st_size


def test_a_checkpoint_says_what_made_it(data, tmp_path):
    settings = load_checkpoint(train(vae(beta=4.0), data, steps=3, out=tmp_path, seed=9)).settings
    assert settings["settings"] == dataclasses.asdict(vae(beta=4.0))
    told = {
        key: settings[key] for key in ("system", "dataset", "split", "num_points", "input_shape", "latent_dim", "seed", "steps")
    }
    assert told == {
        "system": "vae",
        "dataset": "toy",
        "split": "train",
        "num_points": 50,
        "input_shape": [3],
        "latent_dim": 2,
        "seed": 9,
        "steps": 3,
    }
    assert settings["versions"]["torch"] == torch.__version__


def test_a_folder_with_a_checkpoint_is_not_overwritten(data, tmp_path):
    path = train(vae(), data, steps=1, out=tmp_path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists, with 1 steps: resume it, or choose another folder"):
        train(vae(), data, steps=1, out=tmp_path)
    assert path.read_bytes() == before


def test_resuming_with_other_settings_says_which_differ(data, tmp_path):
    train(vae(), data, steps=1, out=tmp_path)
    with pytest.raises(InputError, match=r"settings\.lr was 0\.001, is 0\.1; seed was 0, is 3\. Resume with the same"):
        train(vae(lr=0.1), data, steps=2, out=tmp_path, resume=True, seed=3)


def test_resuming_asks_for_a_checkpoint_with_optimisers_and_steps_to_do(data, tmp_path):
    with pytest.raises(InputError, match="There is no checkpoint"):
        train(vae(), data, steps=1, out=tmp_path, resume=True)
    path = train(vae(), data, steps=3, out=tmp_path)
    assert train(vae(), data, steps=3, out=tmp_path, resume=True) == path
    with pytest.raises(InputError, match="already has 3 steps, more than the 2"):
        train(vae(), data, steps=2, out=tmp_path, resume=True)
    save_checkpoint(path, load_checkpoint(path))
    with pytest.raises(InputError, match="without its optimisers"):
        train(vae(), data, steps=4, out=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"batch_size": 51}, {}, "50 points, fewer than one batch of 51"),
        ({}, {"steps": 0}, "at least 1 step"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_written(changes, arguments, message, data, tmp_path):
    with pytest.raises(InputError, match=message):
        train(vae(**changes), data, **{"steps": 1, "out": tmp_path / "out", **arguments})
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file cannot be written to \(File exists\)"):
        train(vae(), data, steps=1, out=tmp_path / "file")


def write(path, settings, **tensors):
    tensor_file.write(path, tensors, settings)
    return path


def test_damaged_and_foreign_files_are_refused(data, tmp_path):
    good = train(vae(), data, steps=1, out=tmp_path / "good")
    tensors, settings = checkpoint.read(good)
    short = tmp_path / "short.safetensors"
    short.write_bytes(good.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"short\.safetensors is damaged"):
        load_checkpoint(short)
    with pytest.raises(InputError, match="Unknown name 'no-such'"):
        load_checkpoint(write(tmp_path / "a.safetensors", settings | {"system": "no-such"}, **tensors))
    for changed, words in (
        ({"system": 3}, "system is 3, which is not a name"),
        ({"system": "a" * 10**5}, "not a name"),
        ({"system": ["vae"]}, "not a name"),
        ({"settings": {"nonsense": 1}}, "nonsense.*does not know"),
        ({"settings": ["latent_dim"]}, "not a list of settings by name"),
        ({"settings": {"latent_dim": "2"}}, "latent_dim is '2', which no such setting can be"),
        ({"settings": {"layers": 10**9}}, "beyond every network"),
        ({"settings": {"layers": 10**6}}, "far more tensors than the"),
        ({"settings": {"width": 10**6}}, "does not fit its own settings"),
        ({"settings": {"latent_dim": 2.0}}, "no such setting can be"),
        ({"settings": {"visible": "os:system"}}, "no such setting can be"),
        ({"input_shape": [4]}, "does not fit its own settings"),
        ({"input_shape": [10**9]}, "not a shape"),
        ({"input_shape": "22"}, "not a shape"),
        ({"steps": "1"}, "not a number of steps"),
        ({"split": 7}, "not a name"),
        ({"dataset": None}, "not a name"),
    ):
        with pytest.raises(InputError, match=words):
            load_checkpoint(write(tmp_path / "b.safetensors", settings | changed, **tensors))
    for name, value in (("networks.encoder.0.weight", math.nan), ("networks.generator.0.weight", math.inf)):
        with pytest.raises(InputError, match=f"{name.removeprefix('networks.')} is not finite"):
            load_checkpoint(
                write(tmp_path / "f.safetensors", settings, **{**tensors, name: torch.full_like(tensors[name], value)})
            )
    for lacking in ({k: v for k, v in settings.items() if k != "split"}, ["split"]):
        with pytest.raises(InputError, match=r"settings lacks .*split"):
            load_checkpoint(write(tmp_path / "e.safetensors", lacking, **tensors))
    save_file({"mean": torch.zeros(2, 2)}, tmp_path / "c.safetensors")
    with pytest.raises(InputError, match="not a checkpoint of klprobe"):
        load_checkpoint(tmp_path / "c.safetensors")
    save_file({}, tmp_path / "d.safetensors", {"klprobe.kind": "checkpoint", "klprobe.settings": "{"})
    with pytest.raises(InputError, match="is not JSON"):
        load_checkpoint(tmp_path / "d.safetensors")


def test_a_checkpoint_is_made_of_tensors_and_text_alone(data, tmp_path):
    path = train(vae(), data, steps=1, out=tmp_path)
    tensors, settings = checkpoint.read(path)
    assert isinstance(load_checkpoint(path), Checkpoint)
    assert {name.split(".")[0] for name in tensors} == {"networks", "optimizer"}
    assert isinstance(settings, dict)


def test_tensorboard_events_hold_what_metrics_csv_holds_and_forget_what_a_resume_undoes(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = MetricsLog(tmp_path / "metrics.csv", 0, tensorboard=True)
    for step in (10, 20, 30):
        log.add("vae", {"loss": torch.tensor(float(step))})
        log.flush(step)
    resumed = MetricsLog(tmp_path / "metrics.csv", 20, tensorboard=True)
    resumed.add("vae", {"loss": torch.tensor(-1.0)})
    resumed.flush(40)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("vae/loss")
    assert [(event.step, event.value) for event in events] == [(10, 10.0), (20, 20.0), (40, -1.0)]


@pytest.mark.parametrize(
    "content",
    [
        b"step,seconds\n1,0.1\nx,0.2\n",
        b"step,seconds\n1,nonsense\n",
        b"step,seconds,a\n1,0.1\n",
        b"step,seconds\n2,0.1\n1,0.2\n",
        b"\xff\xfe\n",
        b'step,seconds\n"1,0.1\n',
        b"seconds,step\n0.1,1\n",
        b"step,seconds,a,a\n1,0.1,2,3\n",
        b"step,seconds\n1," + b"9" * 5000 + b"\n",
        b"step,seconds\n" + "٣,0.1\n".encode(),
        b"step,seconds\n1,1_0\n",
        b"step,seconds\n" + b"x" * 200000 + b",1\n",
    ],
)
def test_rows_that_no_run_wrote_are_refused_on_resume(content, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.csv is damaged .*move it to another folder"):
        MetricsLog(path, 5)
    assert path.read_bytes() == content


def test_a_row_that_was_being_written_when_the_run_stopped_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,seconds,vae.loss\n1,0.1,nan\n2,0.2,-1e-05\n1")
    assert MetricsLog(path, 5).rows == [["step", "seconds", "vae.loss"], ["1", "0.1", "nan"], ["2", "0.2", "-1e-05"]]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer.vae.0.step", None),
        ("optimizer.vae.0.exp_avg", torch.zeros(1)),
        ("optimizer.vae.0.step", torch.tensor(math.nan)),
        ("optimizer.vae.x.step", torch.tensor(1.0)),
        ("optimizer.vae.99.step", torch.tensor(1.0)),
        ("optimizer.vae.0", torch.zeros(2)),
        ("optimizer.vae.0.momentum", torch.zeros(2)),
        ("networks.encoder.0.weight", None),
        ("networks.other", torch.zeros(2)),
    ],
)
def test_tensors_that_no_run_left_are_refused_on_resume(name, value, data, tmp_path):
    path = train(vae(), data, steps=1, out=tmp_path)
    tensors, settings = checkpoint.read(path)
    tensor_file.write(path, {k: v for k, v in {**tensors, name: value}.items() if v is not None}, settings)
    with pytest.raises(InputError, match=r"does not fit the (optimiser|networks)|is damaged"):
        train(vae(), data, steps=2, out=tmp_path, resume=True)
