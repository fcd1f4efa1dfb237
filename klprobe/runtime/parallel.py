"""Several processes that share one run: the share of each, sums over all shares, and BLAS threads.

Every process draws the same latents from the same seed and visits its own share of the posteriors; sums are combined
in the order of the ranks, so that all processes hold the same bits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from threadpoolctl import ThreadpoolController

from klprobe.runtime.heartbeat import Heartbeat, ProcessLost, any_lost
from klprobe.types import InputError

_hearts: dict[int, Heartbeat] = {}
"""This process's signs of life, by its number, while there are several processes."""


def start(device: str) -> bool:
    """Join the processes that torchrun started, if it did; True when there are several.

    Args:
        device: Device; `cuda` uses nccl, any other device gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return False
    if not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        store, rank, size = next(dist.rendezvous("env://"))
        dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=size)
        _hearts[rank] = Heartbeat(store.clone(), rank, size)  # a connection of its own, which no exchange keeps waiting
    return True


def is_first() -> bool:
    """Whether this process is the one that speaks and writes; known before they have joined."""
    return int(os.environ.get("RANK", "0")) == 0 or int(os.environ.get("WORLD_SIZE", "1")) < 2


def stop() -> None:
    """Leave the other processes, if there are any."""
    while _hearts:
        _hearts.popitem()[1].stop()
    if dist.is_available() and dist.is_initialized() and not any_lost():
        dist.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """Number of this process, from 0, and number of all processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """The tensor of every process, in the order of their ranks; all must have the same shape."""
    _, size = rank_and_size()
    if size == 1:
        return [tensor]
    home = tensor.device
    local = tensor.cuda() if dist.get_backend() == "nccl" else tensor.cpu()
    parts = [torch.empty_like(local) for _ in range(size)]
    _wait(dist.all_gather(parts, local.contiguous(), async_op=True))
    return [part.to(home) for part in parts]


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """Sum over all processes."""
    parts = gather(tensor)
    return parts[0] if len(parts) == 1 else torch.stack(list(parts)).sum(0)


def average(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor, all of one dtype, by its mean over all processes, in one exchange."""
    _, size = rank_and_size()
    if size == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    local = flat if dist.get_backend() == "nccl" else flat.cpu()
    _wait(dist.all_reduce(local, async_op=True))
    with torch.no_grad():
        for tensor, mean in zip(tensors, (local / size).to(flat).split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


def wait_for_all() -> None:
    """Return when every process has reached this call."""
    if rank_and_size()[1] > 1:
        _wait(dist.barrier(async_op=True))


def same_everywhere(digest: str, what: str) -> None:
    """Prove that all processes hold the same, before they work as one.

    Args:
        digest: Digest of what this process holds, of the same length in every process.
        what: Its name in the message, such as "posteriors".
    Raises:
        InputError: in every process, where one differs from the first.
    """
    if rank_and_size()[1] == 1:
        return
    held = gather(torch.frombuffer(bytearray(digest.encode()), dtype=torch.uint8))
    other = next((rank for rank, part in enumerate(held) if not torch.equal(part, held[0])), None)
    if other is not None:
        raise InputError(
            f"The processes do not hold the same {what}: process {other} differs from the first. Give all of them "
            "the same files, flags and version of klprobe."
        )


def _wait(work: dist.Work | None) -> None:
    """Until an exchange is done, awake for Ctrl-C and for a process that is lost.

    Raises:
        ProcessLost: another process has ended or stopped.
    """
    pause = 1e-5
    heart = _hearts.get(dist.get_rank())
    while work is not None and not work.is_completed():
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)
        if pause == 0.05 and heart is not None and (why := heart.lost()):
            raise ProcessLost(f"{why}, so the run ends.")
    try:
        if work is not None:
            work.wait()
    except RuntimeError as error:  # what gloo and nccl say is for their authors
        raise ProcessLost("another process has ended, so the run ends.") from error


def one_blas_thread() -> AbstractContextManager[object]:
    """Use one thread for each BLAS call, for work that Python threads share, or that is too small to share.

    The libraries are looked up once: the look-up is slow, and swallows a Ctrl-C that arrives in its midst.
    """
    return _controller().limit(limits=1, user_api="blas")


def libraries() -> list[dict[str, Any]]:
    """The libraries for parallel arithmetic that are loaded, with their numbers of threads."""
    found: list[dict[str, Any]] = _controller().info()
    return found


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
