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
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.distributions import Distribution

from klprobe import registry
from klprobe.runtime import parallel
from klprobe.runtime.provenance import commit, versions
from klprobe.training.checkpoint import TrainingState, read
from klprobe.training.data import Batch, TrainingData
from klprobe.training.log import MetricsLog
from klprobe.types import InputError, Progress, no_progress

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.csv"
WORTH_SHARING = 5e7
"""Multiply-adds of the largest dense layer in a mini-batch from which several threads are used."""
PROGRESS_EVERY = 0.1
"""Seconds between two calls of the progress receiver."""

Precision = Literal["float32", "bf16"]

Loss = tuple[torch.Tensor, Mapping[str, torch.Tensor]]
"""What a player minimises, shape (), and what is worth logging beside it, each of shape () and detached."""

Stop = Callable[[], bool]
"""Whether training is to end now, asked after every step."""

Watch = Callable[[int, nn.ModuleDict], None]
"""Looks at the networks after a step, such as to draw samples."""


@dataclasses.dataclass(frozen=True)
class Player:
    """One side of the game.

    Attributes:
        name: Named in the log and in errors.
        networks: Names of the networks it owns; every network has exactly one owner.
        loss: From a mini-batch and a generator (on the training device) to what it minimises.
        optimizer: From its parameters to its optimiser.
        updates: How many updates it makes in each step.
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
"""What a system can do. All but `labels` are names of methods that it then has:

encode(networks, x, noise) -> Distribution       q(z|x), batch shape (batch,), event shape (latent_dim,)
decode(networks, z) -> Tensor                    data points of codes; and `prior(num_samples, noise)`, draws of p(z)
log_likelihood(networks, x, z, noise) -> Tensor  log p(x|z) in nats, shape (batch,)
classify(networks, x) -> Tensor                  logits of q(y|x), learned from few labels, shape (batch, classes)
look(networks, x) -> (Tensor, Tensor)            features and logits, of a net that judges samples
labels                                           there are `classes`, and the first three methods take `labels` last
"""


class Algorithm(Protocol):
    """A published system: a frozen dataclass of its settings, plain JSON values all, first in its file's `__all__`.

    What a system does not say is as here, so a system inherits from this class; the methods behind its `capabilities`
    stand beside `Capability`.
    """

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What it can do: nothing, unless it says so. Nobody looks whether there is a method; this is asked."""
        return frozenset()

    @property
    def conditional(self) -> bool:
        """Whether `encode` and `log_likelihood` cannot do without the labels of the points."""
        return False

    @property
    def prior_distribution(self) -> Distribution | None:
        """p(z); None stands for N(0, I)."""
        return None

    @property
    def latent_dim(self) -> int:
        """Number of latents."""
        raise NotImplementedError

    @property
    def batch_size(self) -> int:
        """Data points in a mini-batch."""
        raise NotImplementedError

    def networks(self, shape: tuple[int, ...]) -> nn.ModuleDict:
        """Fresh networks for data points of one shape. Raises InputError where none fits."""
        raise NotImplementedError

    def players(self, networks: nn.ModuleDict) -> tuple[Player, ...]:
        """The players in the order in which they move."""
        raise NotImplementedError

    def view(self, data: TrainingData, seed: int) -> TrainingData:
        """What training sees of the data: all of them."""
        return data


@dataclasses.dataclass(frozen=True)
class _Seat:
    """A player at the table: its parameters, its optimiser, and the buffers that its moves must leave alone.

    `alone`: nobody else has parameters. `kept`: room for the values of the others' buffers, `foreign`.
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

    Ctrl-C finishes the step, writes the checkpoint and raises KeyboardInterrupt; a second one stops at once, and the last
    checkpoint stays whole. torch's global random state is left as it was.

    Args:
        algorithm: Settings of one system.
        data: What to train on; batches are drawn without replacement, and each epoch's incomplete last one is dropped.
        steps: Steps in all, those before a resume included; in one step every player moves.
        out: Folder, made where it is missing.
        seed: Seed of all random numbers: the initial weights, the order of the data, and the noise.
        device: Device of networks and data.
        precision: bf16 runs products inside the networks in bfloat16 (torch.autocast), for GPUs that have it; weights,
            outputs, losses and optimisers stay float32.
        resume: Go on from `out`/checkpoint.safetensors; on a CPU the weights come out as if never interrupted.
        progress: Told the steps done, the steps in all, the steps per second and the players' mean losses.
        checkpoint_every, log_every: Steps between two checkpoints, and between two rows of metrics.csv.
        checkpoint_seconds: After so many seconds without one, a checkpoint is written too, which changes no row of metrics.csv:
            what the next row is of lies in the checkpoint.
        stop: Once it says True, training ends with such a checkpoint after the step that it is in; `resume` goes on from there.
        tensorboard: Whether `out` also gets TensorBoard events.
        watch: Called every `watch_every` steps with the step and the networks in eval mode, as after loading a checkpoint;
            it must leave them as they are.
        watch_every: Steps between two calls of `watch`.
    Returns:
        Path of the checkpoint.
    Raises:
        InputError: settings, data and folder do not fit together, or a loss is no finite number.
        KeyboardInterrupt: after the checkpoint was written.
    """
    out = Path(out)
    path = out / CHECKPOINT
    settings = _settings(algorithm, data, seed=seed, device=device, precision=precision)
    _check(algorithm, data, steps)
    rank, size = parallel.rank_and_size()
    with torch.random.fork_rng(), _interrupt_after_step() as interrupted, _threads() as few_for:
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
        noise, layers = torch.Generator(device), _global_generator(torch.device(device))
        for step in range(start + 1, steps + 1):
            noise.manual_seed(_seed(seed, 1, step, *([rank] if rank else [])))
            layers.manual_seed(_seed(seed, 2, step, *([rank] if rank else [])))
            for seat in seats:
                for _ in range(seat.player.updates):
                    if seat.player.fresh:
                        batch = data.batch(next(indices))
                    values = _move(seat, batch, noise, step, path, precision)
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
    """What the first process writes and says, for all, after a step."""

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
        """Log, save, show and tell where it is time to: all of it after the last step, all but log where it `ended` before."""
        regular = last or step % self.every.checkpoint == 0
        if regular or step % self.every.log == 0:
            self.note = self.log.flush(step)
        if regular or ended or time.monotonic() - self.saved >= self.every.checkpoint_seconds:
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
    """Whether it is so in any process."""
    if parallel.rank_and_size()[1] == 1:
        return here
    return any(bool(part) for part in parallel.gather(torch.tensor(here)))


def _move(
    seat: _Seat, batch: Batch, noise: torch.Generator, step: int, path: Path, precision: Precision
) -> dict[str, torch.Tensor]:
    """One update of one player. Whatever it runs of the others' networks, their buffers (batch statistics) come back."""
    if seat.foreign:
        torch._foreach_copy_(seat.kept, seat.foreign)
    with torch.autocast(batch.x.device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
        loss, logged = seat.player.loss(batch, noise)
    # into .grad, and not returned: laid out as the parameters are, which torch's fused optimisers rely on; and faster, the
    # more so where the engine need not look for the player's own parameters
    loss.backward(inputs=None if seat.alone else seat.parameters)
    value = loss.detach()
    parallel.average([value, *_gradients(seat), *seat.statistics])
    if not math.isfinite(value.item()):  # the same for all processes: none waits for one that has stopped
        raise InputError(
            f"The loss of player {seat.player.name!r} is {value.item()} at step {step}: lower the learning rate. "
            f"The last finite checkpoint is kept: {path}."
        )
    seat.optimizer.step()
    for parameter in seat.parameters:
        parameter.grad = None  # frees the memory while it is still in the cache; zero_grad does too, and takes ten times longer
    if seat.foreign:
        torch._foreach_copy_(seat.foreign, seat.kept)
    return {"loss": value, **logged}


def _float32_outputs(networks: nn.ModuleDict) -> None:
    """Every network's output, and so every loss, in float32 whatever its layers compute in."""
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
    """What layers such as dropout draw from. `torch.manual_seed` seeds it too, but costs half a millisecond."""
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
    """Steps already done. A fresh run writes a checkpoint at once: an unwritable folder shows before the work is done."""
    if resume:
        done = state.restore(path)
        if done > steps:
            raise InputError(f"{path} already has {done} steps, more than the {steps} asked for: ask for more.")
        return done
    if path.exists() and (before := read(path)[1].get("steps")) != 0:
        raise InputError(f"{path} exists, with {before} steps: resume it, or choose another folder.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {path.parent} cannot be made ({error}).") from error
    if parallel.rank_and_size()[0] == 0:
        state.save(path, 0)
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


@contextmanager
def _interrupt_after_step() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C until the block is left, so that no step is torn; a second one interrupts at once."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False  # someone else handles the key
        return
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt
