"""What a hostile file puts where klprobe expects a name, a number or a text: each leaves a marker if it is ever run."""

from __future__ import annotations

import random

MARKER = "MARKER"
MODULE = "payload_module"
MODULE_SOURCE = f'''
import pathlib

(pathlib.Path(__file__).parent / "{MARKER}").touch()


def __getattr__(name):
    return lambda *args, **kwargs: None
'''
"""Lies in the working folder of every run: importing it leaves the marker."""
PAYLOADS = (
    "payload_module:x",
    "payload_module",
    "payload_module.x",
    "tests.payload_module:x",
    "os:system",
    "os.system",
    f"__import__('os').system('touch {MARKER}')",
    f"open('{MARKER}', 'w')",
    "__import__('payload_module')",
    f"$(touch {MARKER})",
    f"; touch {MARKER} #",
    "{0.__class__.__init__.__globals__}",
    "%s%s%s%n",
    "../../../../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "/",
    ".",
    "image-folder:path=/",
    "array-file:path=/etc/passwd",
    "array-file:path=payload_module.py",
    "x.npy",
    "mnist",
    "file:///etc/passwd",
    "\x00",
    "\x1b[2J\x1b]0;title\x07",
    "\ud800",
    "\u017f\u202e\U0001f600",
    "a\nb\r\nc",
    "<script>alert(1)</script>",
    "constructor",
    "__class__",
    "__init__",
    "_shared",
    "",
)
HUGE_TEXT = 10**5


def text(rng: random.Random) -> str:
    """A payload, or now and then a text of 10^5 letters."""
    if rng.random() < 0.06:
        return rng.choice(("a", "a:", "a.", "é", "9", "[")) * (HUGE_TEXT // 2)
    return rng.choice(PAYLOADS)


NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    255,
    256,
    10**4,
    10**6,
    10**9,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    10**18,
    10**40,
)


def number(rng: random.Random) -> int:
    """A whole number at an edge of something."""
    found = rng.choice(NUMBERS)
    return -found if rng.random() < 0.15 else found
