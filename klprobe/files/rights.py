"""Give up, for good, the rights to write files, to start programs, and to connect anywhere (Linux's Landlock).

It is called before torch is imported, because threads that exist already would keep their rights.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Numbers of Landlock's system calls, which are the same on every processor."""
GET_VERSION, PATH_BENEATH = 1, 1
EXECUTE, WRITE, READ, READ_FOLDER, TRUNCATE = 1 << 0, 1 << 1, 1 << 2, 1 << 3, 1 << 14
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
"""All rights on files that a version of Landlock knows; later versions add none that matters here."""
NETWORK_VERSION, NETWORK_RIGHTS = 4, 3
"""Landlock's version from which on it can forbid TCP connections, and its two rights on them."""


def give_up_rights(writable: str = "", *, devices: bool = False) -> bool:
    """Let this process never again write or remove a file, start a program, or connect by TCP; it ends with its parent.

    Args:
        writable: The only folder that it may still write to; empty if there is no such folder.
        devices: Whether it may write to /dev, as a GPU's driver needs.
    Returns:
        Whether the system did so: Linux from 5.13 on with Landlock. Elsewhere nothing changes.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    version = landlock_version()
    if version < 1:
        return False
    denied = FILE_RIGHTS[min(version, max(FILE_RIGHTS))] & ~(READ | READ_FOLDER)
    network = NETWORK_RIGHTS if version >= NETWORK_VERSION else 0
    attributes = struct.pack("<QQ", denied, network)[: 16 if network else 8]
    ruleset = _call(library, CREATE_RULESET, attributes, len(attributes), 0)
    if ruleset < 0:
        return False
    for path in filter(None, (writable, "/dev" if devices else os.devnull)):
        rights = denied & ~EXECUTE if Path(path).is_dir() else denied & (WRITE | TRUNCATE)
        with contextlib.suppress(OSError):
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            _call(library, ADD_RULE, ruleset, PATH_BENEATH, struct.pack("<Qi", rights, opened), 0)
            os.close(opened)
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    done = _call(library, RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return done


def landlock_version() -> int:
    """Version of Landlock that the system has; 0 or less where it has none."""
    return _call(ctypes.CDLL(None, use_errno=True), CREATE_RULESET, None, 0, GET_VERSION) if sys.platform == "linux" else 0


def _call(library: ctypes.CDLL, number: int, *arguments: int | bytes | None) -> int:
    """Make a system call, with whole numbers as wide as the machine's registers."""
    wide = [ctypes.c_long(given) if isinstance(given, int) else given for given in arguments]
    return int(library.syscall(ctypes.c_long(number), *wide))
