"""Messages between klprobe and its confined process: JSON and the bytes of tensors, never a pickle.

A hostile file may control the other side, so the receiver checks every size before it uses it.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

LENGTH = struct.Struct("<Q")
HEADER_BYTES = 1 << 22
"""Largest number of bytes of JSON in one message, which may name many tensors."""
MOST_TENSORS, MOST_SIDES, LONGEST_SIDE = 100_000, 64, 1 << 48
"""Largest number of tensors in a message, of dimensions of a tensor, and of elements along one."""
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
"""Types of tensors that can be sent, by name."""


class BrokenMessage(Exception):
    """The other side ended, or sent something that is not a message."""


def send(channel: socket.socket, content: Mapping[str, Any], tensors: Sequence[torch.Tensor] = ()) -> None:
    """Send JSON and tensors, whose bytes follow it.

    Raises:
        TypeError: a tensor is of a kind that cannot be sent, such as a sparse one.
    """
    ready = [_plain(tensor) for tensor in tensors]
    layout = [{"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)} for tensor in ready]
    header = json.dumps({"content": content, "tensors": layout}).encode()
    channel.sendall(LENGTH.pack(len(header)) + header)
    for tensor in ready:
        if tensor.numel():
            channel.sendall(tensor.reshape(-1).view(torch.uint8).numpy().data)


def receive(
    channel: socket.socket, most_bytes: float, seconds: float | None = None
) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Receive JSON and tensors of the next message.

    Args:
        most_bytes: Largest number of bytes of tensors; more are refused before they take memory.
        seconds: Longest time for the whole message, in seconds; None waits for ever.
    Raises:
        BrokenMessage: the other side has ended, or sent something that is not a message.
        TimeoutError: the message has not arrived in time.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    (length,) = LENGTH.unpack(_read(channel, LENGTH.size, deadline))
    if length > HEADER_BYTES:
        raise BrokenMessage(f"a message of {length:,} bytes of JSON")
    try:
        header = json.loads(_read(channel, length, deadline))
        content, sizes = header["content"], [_layout(told) for told in header["tensors"][: MOST_TENSORS + 1]]
        if not isinstance(content, dict) or len(sizes) > MOST_TENSORS:
            raise ValueError("no message of klprobe's")
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise BrokenMessage(f"a message that is not understood ({type(error).__name__})") from error
    tensors, left = [], most_bytes
    for dtype, shape in sizes:
        count = dtype.itemsize
        for size in shape:
            count *= size
        if count > left:
            raise BrokenMessage(f"a tensor of shape {shape}")
        left -= count
        tensors.append(_as_tensor(_read(channel, count, deadline), dtype, shape))
    return content, tensors


def _layout(told: Any) -> tuple[torch.dtype, list[int]]:
    """Check type and shape of a tensor, as the other side describes them."""
    dtype, shape = DTYPES[told["dtype"]], told["shape"]
    plain = isinstance(shape, list) and all(type(size) is int and 0 <= size <= LONGEST_SIDE for size in shape)
    if not plain or len(shape) > MOST_SIDES:
        raise ValueError("no shape of a tensor")
    return dtype, shape


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """Copy the tensor to the CPU, as one contiguous block."""
    if tensor.layout != torch.strided or tensor.is_quantized or str(tensor.dtype).removeprefix("torch.") not in DTYPES:
        raise TypeError(f"a tensor of layout {tensor.layout} and type {tensor.dtype}, which is no plain array")
    return tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()


def _as_tensor(content: bytearray, dtype: torch.dtype, shape: list[int]) -> torch.Tensor:
    return torch.frombuffer(content, dtype=dtype).reshape(shape) if content else torch.empty(shape, dtype=dtype)


def _read(channel: socket.socket, count: int, deadline: float | None) -> bytearray:
    content = bytearray(count)
    view, done = memoryview(content), 0
    while done < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            channel.settimeout(left)
        try:
            got = channel.recv_into(view[done:])
        except ConnectionError as error:
            raise BrokenMessage("the process ended") from error
        if not got:
            raise BrokenMessage("the process ended")
        done += got
    return content
