"""Forbid system calls that Landlock leaves open in the confined process, by Linux's seccomp.

Landlock says which files may be written and which programs started. It does not say who may be reached by a socket, who may be
signalled, or whose rights on a file may be changed. A filter of the kernel refuses these calls with EPERM, in all threads.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, BITS, RETURN = 0x20, 0x15, 0x45, 0x06
"""Instructions of the filter: load a word, jump if it is equal, jump if it has bits in common, return."""
NUMBER, MACHINE, FIRST, SECOND = 0, 4, 16, 24
"""Offsets in the filter's input of the call's number, the processor, and the low words of the first two arguments."""
CLONE_THREAD = 0x10000
TERMINAL = (0x5412, 0x541C)
"""Requests of ioctl that type into a terminal (TIOCSTI, TIOCLINUX)."""
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
COMMON = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "pidfd_getfd": 438,
    "clone3": 435,
    "pidfd_open": 434,
    "fchmodat2": 452,
}
COMMON |= {"setxattrat": 463, "removexattrat": 466}
CALLS = {
    "x86_64": {
        **{"socket": 41, "connect": 42, "bind": 49, "listen": 50, "socketpair": 53, "clone": 56, "fork": 57, "vfork": 58},
        **{"execve": 59, "kill": 62, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94, "ptrace": 101},
        **{"utime": 132, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198},
        **{
            "fremovexattr": 199,
            "tkill": 200,
            "utimes": 235,
            "fchownat": 260,
            "futimesat": 261,
            "fchmodat": 268,
            "unshare": 272,
        },
        **{"utimensat": 280, "prlimit64": 302, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311, "bpf": 321},
        **{"execveat": 322, "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250, "mount": 165, "ioctl": 16},
        **{
            "rt_sigqueueinfo": 129,
            "rt_tgsigqueueinfo": 297,
            "perf_event_open": 298,
            "mq_open": 240,
            "shmat": 30,
            "msgsnd": 69,
            "setpriority": 141,
        },
    },
    "aarch64": {
        **{
            "setxattr": 5,
            "lsetxattr": 6,
            "fsetxattr": 7,
            "removexattr": 14,
            "lremovexattr": 15,
            "fremovexattr": 16,
            "ioctl": 29,
        },
        **{
            "mount": 40,
            "fchmod": 52,
            "fchmodat": 53,
            "fchownat": 54,
            "fchown": 55,
            "utimensat": 88,
            "unshare": 97,
            "ptrace": 117,
        },
        **{
            "kill": 129,
            "tkill": 130,
            "tgkill": 131,
            "rt_sigqueueinfo": 138,
            "rt_tgsigqueueinfo": 240,
            "setpriority": 140,
            "mq_open": 180,
            "msgsnd": 189,
            "shmat": 196,
        },
        **{"socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "connect": 203, "add_key": 217, "request_key": 218},
        **{"keyctl": 219, "clone": 220, "execve": 221, "perf_event_open": 241, "prlimit64": 261, "setns": 268},
        **{"process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280, "execveat": 281, "userfaultfd": 282},
    },
}
CALLS["x86_64"] |= {"tgkill": 234, "rt_tgsigqueueinfo": 297}
CALLS["aarch64"] |= {"tgkill": 131, "rt_tgsigqueueinfo": 240}
"""Their numbers on each processor (Linux, arch/*/syscall tables)."""


def refuse_system_calls() -> bool:
    """Refuse these calls from here on, for this thread and all that it starts.

    Returns:
        Whether the system does so: Linux with seccomp on a processor whose numbers are known. Elsewhere nothing changes.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in MACHINES:
        return False
    program = _filter(MACHINES[machine], {**COMMON, **CALLS[machine]})
    text = ctypes.create_string_buffer(program, len(program))
    length, address = len(program) // 8, ctypes.addressof(text)
    header = ctypes.create_string_buffer(struct.pack("@HP", length, address))
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(library.prctl(PR_SET_SECCOMP, FILTER, ctypes.c_void_p(ctypes.addressof(header)), 0, 0) == 0)


def _filter(machine: int, calls: dict[str, int]) -> bytes:
    """Make the filter's instructions; each call has a block of its own that ends with the answer to it."""
    refuse = REFUSE | errno.EPERM
    parts = [_step(LOAD, MACHINE), _step(EQUAL, machine, 1, 0), _step(RETURN, KILL), _step(LOAD, NUMBER)]
    for name, number in calls.items():
        block = [_step(RETURN, refuse)]
        if name == "clone3":  # its flags lie in memory, which a filter cannot read: glibc then uses clone
            block = [_step(RETURN, REFUSE | errno.ENOSYS)]
        elif name == "clone":
            block = [_step(LOAD, FIRST), _step(BITS, CLONE_THREAD, 1, 0), _step(RETURN, refuse), _step(RETURN, ALLOW)]
        elif name == "ioctl":
            block = [_step(LOAD, SECOND), _step(EQUAL, TERMINAL[0], 2, 0), _step(EQUAL, TERMINAL[1], 1, 0)]
            block += [_step(RETURN, ALLOW), _step(RETURN, refuse)]
        elif name in ("prlimit64", "tgkill"):  # allowed for the process itself, for its own limits and its own abort
            itself = 0 if name == "prlimit64" else os.getpid()
            block = [_step(LOAD, FIRST), _step(EQUAL, itself, 1, 0), _step(RETURN, refuse), _step(RETURN, ALLOW)]
        parts += [_step(EQUAL, number, 0, len(block)), *block]
    if machine == MACHINES["x86_64"]:  # the numbers of the x32 interface
        parts = [*parts[:4], _step(BITS, 0x40000000, 0, 1), _step(RETURN, refuse), *parts[4:]]
    return b"".join([*parts, _step(RETURN, ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
