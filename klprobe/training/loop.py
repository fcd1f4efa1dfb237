"""Players, and the one loop that plays them all; over several processes where there are some.

An algorithm is a list of players; each owns some of its networks. In every step each player in turn takes fresh
mini-batches, or that of the player before, computes its loss, differentiates it with respect to its own parameters alone, and
lets its optimiser act.
The randomness of a step depends on (seed, step) and nothing else, so a resumed run repeats an uninterrupted one bit by bit.
Several processes (klprobe.runtime.parallel) share every mini-batch, and average gradients and batch statistics.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe import registry
from klprobe.runtime import interrupts, parallel
from klprobe.runtime.folder_lock import sole_writer
from klprobe.runtime.provenance import commit, versions
from klprobe.training.checkpoint import TrainingState, read
from klprobe.training.data import Batch, TrainingData
from klprobe.training.log import MetricsLog
from klprobe.types import InputError, Progress, no_progress

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.csv"
WORTH_SHARING = 5e7
"""Number of multiply-adds of the largest dense layer in a mini-batch from which several threads are used."""
PROGRESS_EVERY = 0.1
"""Time between two calls of the progress function, in seconds."""

Precision = Literal["float32", "bf16"]

Loss = tuple[torch.Tensor, Mapping[str, torch.Tensor]]
"""The loss that a player minimises, shape (), and values to log beside it, each of shape () and detached."""

Stop = Callable[[], bool]
"""Whether training is to end now, asked after every step."""

Watch = Callable[[int, nn.ModuleDict], None]
"""A function that uses the networks after a step, for instance to draw samples."""


@dataclasses.dataclass(frozen=True)
class Player:
    """One player, which trains its networks by its own loss.

    Attributes:
        name: Name in the log and in errors.
        networks: Names of the networks it owns; every network has exactly one owner.
        loss: Function from a mini-batch and a generator (on the training device) to the loss that it minimises.
        optimizer: Function from its parameters to its optimiser.
        updates: Number of updates that it makes in each step.
        fresh: Whether each update takes a fresh mini-batch; otherwise the last one of the player before, whose loss may have
            left it, detached, what it computed there.
    """

    name: str
    networks: tuple[str, ...]
    loss: Callable[[Batch, torch.Generator], Loss]
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    updates: int = 1
    fresh: bool = True


Capability = Literal["encode", "decode", "log_likelihood", "labels", "classify", "look"]
"""Something that a system can do. All but `labels` are names of methods that it then has:

encode(networks, x, noise) -> Distribution       q(z|x), batch shape (batch,), event shape (latent_dim,)
decode(networks, z) -> Tensor                    data points of codes; and `prior(num_samples, noise)`, draws of p(z)
log_likelihood(networks, x, z, noise) -> Tensor  log p(x|z) in nats, shape (batch,)
classify(networks, x) -> Tensor                  logits of q(y|x), learned from few labels, shape (batch, classes)
look(networks, x) -> (Tensor, Tensor)            features and logits, of a net that judges samples
labels                                           there are `classes`, and the first three methods take `labels` last
"""


class Algorithm(Protocol):
    """A published system: a frozen dataclass of its settings, plain JSON values all, first in its file's `__all__`.

    A system inherits from this class, and overrides whatever is different for it; the methods of its `capabilities`
    are listed at `Capability`.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Capabilities of the system, by default none; other code asks this, and never whether a method exists."""
        return frozenset()

    @property
    def conditional(self) -> bool:
        """Whether `encode` and `log_likelihood` need the labels of the points."""
        return False

    @property
    def prior_distribution(self) -> Distribution | None:
        """Prior p(z); None is N(0, I)."""
        return None

    @property
    def latent_dim(self) -> int:
        """Number of latents."""
        raise NotImplementedError

    @property
    def batch_size(self) -> int:
        """Number of data points in a mini-batch."""
        raise NotImplementedError

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Make new networks for data points of one shape. Raises InputError where none fits."""
        raise NotImplementedError

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The players in the order in which they move."""
        raise NotImplementedError

    def view(self, data: TrainingData, seed: int) -> TrainingData:
        """Data that training uses, by default all of them."""
        return data

    def settled(self, data: TrainingData) -> Self:
        """The same algorithm, with settings that depend on the data decided: itself, where there are none."""
        return self


@dataclasses.dataclass(frozen=True)
class _Seat:
    """A player with its parameters, its optimiser, and the buffers that its updates must not change.

    `alone` says that no other player has parameters. `kept` has room for the values of the others' buffers, `foreign`.
    """

    player: Player
    parameters: list[nn.Parameter]
    alone: bool
    statistics: list[torch.Tensor]
    foreign: list[torch.Tensor]
    kept: list[torch.Tensor]
    optimizer: torch.optim.Optimizer


def train(
    algorithm: Algorithm,
    data: TrainingData,
    *,
    steps: int,
    out: Path | str,
    seed: int = 0,
    device: str = "cpu",
    precision: Precision = "float32",
    resume: bool = False,
    progress: Progress = no_progress,
    checkpoint_every: int = 1000,
    checkpoint_seconds: float = math.inf,
    log_every: int = 100,
    stop: Stop = lambda: False,
    tensorboard: bool = False,
    watch: Watch | None = None,
    watch_every: int = 1000,
) -> Path:
    """Train, and leave `out`/checkpoint.safetensors and `out`/metrics.csv.

    The first checkpoint is written after the first step: what is refused until then leaves nothing behind. Ctrl-C (or SIGTERM,
    or SIGHUP) finishes the step, writes the checkpoint and raises KeyboardInterrupt; a second one stops at once, and the last
    checkpoint stays whole. One process at a time writes into `out`. torch's global random state is left as it was.

    Args:
        algorithm: Settings of one system.
        data: Data to train on; batches are drawn without replacement, and each epoch's incomplete last one is dropped.
        steps: Number of steps in all, with those before a resume; in one step every player moves.
        out: Folder, made where it is missing.
        seed: Seed of all random numbers: the initial weights, the order of the data, and the noise.
        device: Device of networks and data.
        precision: bf16 runs products inside the networks in bfloat16 (torch.autocast), for GPUs that have it; weights,
            outputs, losses and optimisers stay float32.
        resume: Whether to continue from `out`/checkpoint.safetensors; on a CPU the weights are those of a run without a break.
        progress: Function that is called with the steps done, all steps, and the steps per second with the mean losses.
        checkpoint_every, log_every: Number of steps between two checkpoints, and between two rows of metrics.csv.
        checkpoint_seconds: Time in seconds after which a checkpoint is written too. It changes no row of metrics.csv: what
            belongs to the next row lies in the checkpoint.
        stop: Function that is asked after every step; once it returns True, training ends with such a checkpoint, from which
            `resume` continues.
        tensorboard: Whether `out` also gets TensorBoard events.
        watch: Function that is called every `watch_every` steps with the step and the networks in eval mode, as after loading
            a checkpoint; it must not change them.
        watch_every: Number of steps between two calls of `watch`.
    Returns:
        Path of the checkpoint.
    Raises:
        InputError: settings, data and folder do not fit together, or a loss is no finite number.
        KeyboardInterrupt: after the checkpoint was written.
    """
    out = Path(out)
    path = out / CHECKPOINT
    algorithm = algorithm.settled(data)
    settings = _settings(algorithm, data, seed=seed, device=device, precision=precision)
    _check(algorithm, data, steps)
    rank, size = parallel.rank_and_size()
    alone = sole_writer(out) if rank == 0 else contextlib.nullcontext()
    with alone, torch.random.fork_rng(), interrupts.held_back() as interrupted, _threads() as few_for:
        torch.manual_seed(_seed(seed, 0))
        networks = algorithm.networks(data.shape).to(device).train()
        few_for(networks, algorithm.batch_size)
        if precision == "bf16":
            _float32_outputs(networks)
        seats = _seats(algorithm.players(networks), networks)
        state = TrainingState(networks, {s.player.name: s.optimizer for s in seats}, settings, {})
        start = _begin(path, resume, steps, state)
        parallel.wait_for_all()
        per_step = sum(s.player.updates for s in seats if s.player.fresh)
        indices = _shuffled(len(data), algorithm.batch_size, seed, start * per_step, rank, size)
        data = data.to(torch.device(device))
        data = algorithm.view(data, _seed(seed, 4))
        scribe = None
        if rank == 0:
            log = MetricsLog(out / METRICS, start, tensorboard, state.pending)
            every = _Every(checkpoint_every, checkpoint_seconds, log_every, watch_every)
            scribe = _Scribe(state, path, log, progress, watch, start, steps, every)
        rng, layers = torch.Generator(device), _global_generator(torch.device(device))
        for step in range(start + 1, steps + 1):
            rng.manual_seed(_seed(seed, 1, step, *([rank] if rank else [])))
            layers.manual_seed(_seed(seed, 2, step, *([rank] if rank else [])))
            for seat in seats:
                for _ in range(seat.player.updates):
                    if seat.player.fresh:
                        batch = data.batch(next(indices))
                    values = _move(seat, batch, rng, step, path, precision)
                    if scribe is not None:
                        scribe.log.add(seat.player.name, values)
            broken, ended = _any(interrupted()), _any(stop())
            if scribe is not None:
                scribe.after(step, broken or step == steps, ended)
            if broken or ended:
                break  # where it is broken, the context manager raises
    return path


@dataclasses.dataclass(frozen=True)
class _Every:
    """How often: steps, but for `checkpoint_seconds`."""

    checkpoint: int
    checkpoint_seconds: float
    log: int
    watch: int


@dataclasses.dataclass
class _Scribe:
    """Writes files and reports progress after a step, in the first process for all."""

    state: TrainingState
    path: Path
    log: MetricsLog
    progress: Progress
    watch: Watch | None
    start: int
    steps: int
    every: _Every

    def __post_init__(self) -> None:
        self.begun = self.saved = time.monotonic()
        self.told, self.note = -math.inf, ""

    def after(self, step: int, last: bool, ended: bool) -> None:
        """Log, save, draw and report at their intervals: all of it after the last step, all but log where it `ended` before.

        The first step is saved too, so that an unwritable folder is found early.
        """
        regular = last or step % self.every.checkpoint == 0
        if regular or step % self.every.log == 0:
            self.note = self.log.flush(step)
        first = self.start == 0 and step == 1
        if regular or ended or first or time.monotonic() - self.saved >= self.every.checkpoint_seconds:
            self.state.save(self.path, step)
            self.saved = time.monotonic()
        if self.watch is not None and step % self.every.watch == 0:
            self.watch(step, self.state.networks.eval())
            self.state.networks.train()
        now = time.monotonic()
        if last or ended or now - self.told >= PROGRESS_EVERY:
            self.told = now
            rate = (step - self.start) / max(now - self.begun, 1e-9)
            self.progress(step, self.steps, f"{rate:.3g} steps/s  {self.note}")


def _any(here: bool) -> bool:
    """Whether the condition holds in any process."""
    if parallel.rank_and_size()[1] == 1:
        return here
    return any(bool(part) for part in parallel.gather(torch.tensor(here)))


def _move(
    seat: _Seat, batch: Batch, rng: torch.Generator, step: int, path: Path, precision: Precision
) -> dict[str, torch.Tensor]:
    """Make one update of one player; the buffers (batch statistics) of the other players' networks are restored."""
    if seat.foreign:
        torch._foreach_copy_(seat.kept, seat.foreign)
    with torch.autocast(batch.x.device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
        loss, logged = seat.player.loss(batch, rng)
    # into .grad, and not returned: laid out as the parameters are, which torch's fused optimisers rely on; and faster, the
    # more so where the engine need not look for the player's own parameters
    loss.backward(inputs=None if seat.alone else seat.parameters)
    value = loss.detach()
    parallel.average([value, *_gradients(seat), *seat.statistics])
    if not math.isfinite(value.item()):  # the same for all processes, so that none waits for one that has stopped
        raise InputError(
            f"The loss of player {seat.player.name!r} is {value.item()} at step {step}: lower the learning rate."
            + f" The last finite checkpoint is kept: {path}." * path.exists()
        )
    seat.optimizer.step()
    for parameter in seat.parameters:
        parameter.grad = None  # frees the memory while it is in the cache; zero_grad takes ten times longer
    if seat.foreign:
        torch._foreach_copy_(seat.foreign, seat.kept)
    return {"loss": value, **logged}


def _float32_outputs(networks: nn.ModuleDict) -> None:
    """Convert every network's output, and so every loss, to float32, whatever the precision of its layers."""
    for network in networks.values():
        network.register_forward_hook(lambda module, inputs, output: output.float() if torch.is_tensor(output) else output)


def _gradients(seat: _Seat) -> list[torch.Tensor]:
    """Gradients of a player's loss with respect to its parameters, on all of which the loss must depend."""
    found = [parameter.grad for parameter in seat.parameters if parameter.grad is not None]
    if len(found) < len(seat.parameters):
        raise ValueError(f"The loss of {seat.player.name!r} does not depend on all parameters of {seat.player.networks}.")
    return found


def _seats(players: Sequence[Player], networks: nn.ModuleDict) -> list[_Seat]:
    owned = [name for player in players for name in player.networks]
    if sorted(owned) != sorted(networks.keys()):
        raise ValueError(f"Every network needs exactly one owner: networks {sorted(networks.keys())}, owned {sorted(owned)}.")
    if not players[0].fresh:
        raise ValueError(f"The first player, {players[0].name!r}, has no mini-batch of a player before it to play on.")
    seats = []
    for player in players:
        parameters = [p for name in player.networks for p in networks[name].parameters()]
        foreign = [b for name, network in networks.items() if name not in player.networks for b in network.buffers()]
        statistics = [b for name in player.networks for b in networks[name].buffers() if b.is_floating_point()]
        kept = [torch.empty_like(buffer) for buffer in foreign]
        seats.append(_Seat(player, parameters, len(players) == 1, statistics, foreign, kept, player.optimizer(parameters)))
    return seats


def _shuffled(num_points: int, batch_size: int, seed: int, start: int, rank: int, size: int) -> Iterator[torch.Tensor]:
    """Indices of one process's share of the mini-batches from number `start` on; an epoch's order depends on (seed, epoch)."""
    per_epoch = num_points // batch_size
    epoch, first = divmod(start, per_epoch)
    while True:
        order = torch.randperm(num_points, generator=torch.Generator().manual_seed(_seed(seed, 3, epoch)))
        batches = order[: per_epoch * batch_size].view(per_epoch, batch_size)
        yield from batches[first:, rank::size]
        epoch, first = epoch + 1, 0


def _seed(*path: int) -> int:
    """A seed for one purpose, well mixed: neighbouring seeds and steps share no random numbers."""
    return int.from_bytes(hashlib.blake2b(repr(path).encode(), digest_size=8).digest(), "little")


def _global_generator(device: torch.device) -> torch.Generator:
    """Generator that layers such as dropout use. `torch.manual_seed` seeds it too, but takes half a millisecond."""
    if device.type == "cuda":
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator


def _settings(algorithm: Algorithm, data: TrainingData, **rest: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(algorithm) or isinstance(algorithm, type):
        raise TypeError(f"An algorithm is an instance of a frozen dataclass; got {algorithm!r}.")
    return {
        "system": registry.name_of(algorithm),
        "settings": dataclasses.asdict(algorithm),
        "dataset": data.name,
        "split": data.split,
        "num_points": len(data),
        "input_shape": list(data.shape),
        "latent_dim": algorithm.latent_dim,
        **rest,
        "versions": versions(),
        "commit": commit(),
    }


def _check(algorithm: Algorithm, data: TrainingData, steps: int) -> None:
    if steps < 1:
        raise InputError(f"Training needs at least 1 step; got steps = {steps}.")
    if len(data) < algorithm.batch_size:
        raise InputError(
            f"{data.name} ({data.split}) has {len(data)} points, fewer than one batch of {algorithm.batch_size}: "
            "lower the batch size."
        )
    _, size = parallel.rank_and_size()
    if algorithm.batch_size % size or algorithm.batch_size < 2 * size:
        raise InputError(
            f"{size} processes cannot share batches of {algorithm.batch_size}: take a multiple of {size}, at least 2 each."
        )


def _begin(path: Path, resume: bool, steps: int, state: TrainingState) -> int:
    """Number of steps already done."""
    if resume:
        done = state.restore(path)
        if done > steps:
            raise InputError(f"{path} already has {done} steps, more than the {steps} asked for: ask for more.")
        return done
    if path.exists() and (before := read(path)[1].get("steps")) != 0:
        raise InputError(f"{path} exists, with {before} steps: resume it, or choose another folder.")
    return 0


@contextmanager
def _threads() -> Iterator[Callable[[nn.Module, int], None]]:
    """Gives one torch thread to networks whose products are too small to share, and the old number back at the end.

    Measured on two cores that other work kept busy, a small DRAW: 6.5 s of processor time with one thread, 20.8 s with two.
    """
    before = torch.get_num_threads()

    def few_for(network: nn.Module, batch_size: int) -> None:
        convolves = any(p.dim() > 2 for p in network.parameters())
        largest = max((p.numel() for p in network.parameters()), default=0)
        if not convolves and largest * batch_size < WORTH_SHARING:
            torch.set_num_threads(1)

    try:
        yield few_for
    finally:
        torch.set_num_threads(before)
