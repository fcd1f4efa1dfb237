"""The confined process: what it may not do, and that whatever happens in it ends as one sentence here."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest
import torch

from klprobe.files import child, messages
from klprobe.files.child import Child, Limits
from klprobe.files.confined import Opened
from klprobe.files.programs import start
from klprobe.files.rights import landlock_version
from klprobe.types import CapabilityError, InputError

FUNCTIONS = """
import ctypes, os, pathlib, platform, resource, socket, subprocess, threading, time
import torch
from klprobe.files.confined import Opened
from klprobe.types import CapabilityError, InputError

def echo(path):
    return Opened({"path": path}, {"held": torch.arange(3)}, run=lambda x: (x + 1, {"twice": [2 * x, None]}))

def tries(what, path):
    def said(attempt):
        try:
            attempt()
            return "done"
        except Exception as error:
            return type(error).__name__
    def signalled(pid):
        number = {"x86_64": 234, "aarch64": 131}[platform.machine()]
        if ctypes.CDLL(None, use_errno=True).syscall(number, pid, pid, 0):
            raise PermissionError(ctypes.get_errno())
    attempts = {
        "write": lambda: pathlib.Path(path).write_text("x"),
        "append": lambda: open(path, "a").close(),
        "remove": lambda: os.remove(path),
        "folder": lambda: os.mkdir(path),
        "start": lambda: subprocess.run(["true"], check=True),
        "connect": lambda: socket.create_connection(("127.0.0.1", int(path)), timeout=5),
        "chmod": lambda: os.chmod(path, 0o666),
        "times": lambda: os.utime(path, (0, 0)),
        "attribute": lambda: os.setxattr(path, "user.a", b"b"),
        "unix": lambda: socket.socket(socket.AF_UNIX).connect(path),
        "datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
        "fork": lambda: os._exit(0) if os.fork() == 0 else None,
        "signal": lambda: os.kill(os.getppid(), 0),
        "tgkill": lambda: signalled(os.getppid()),
        "limits": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE),
        "thread": lambda: (lambda t: (t.start(), t.join()))(threading.Thread(target=lambda: None)),
    }
    return Opened({"said": said(attempts[what])})

def fails(kind):
    raise {"InputError": InputError, "CapabilityError": CapabilityError, "other": RuntimeError}[kind]("a reason")

def crashes(how):
    if how == "memory":
        torch.zeros(10**12)
    if how == "many":
        kept = [bytearray(10**6) for _ in range(10**6)]
    if how == "sleep":
        time.sleep(600)
    if how == "segfault":
        ctypes.string_at(0)
    os._exit(3)

def draws():
    return Opened(run=lambda x: torch.randn(len(x)))

def slow():
    return Opened(run=lambda x: time.sleep(len(x)) or x)

def lies(descriptor_message):
    return Opened(run=lambda x: [x] * 50)
"""


PROBE = "from klprobe.files.system_calls import refuse_system_calls; raise SystemExit(not refuse_system_calls())"
needs_seccomp = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", PROBE], capture_output=True, check=False).returncode != 0,
    reason="this system has no seccomp to refuse system calls with",
)
needs_landlock = pytest.mark.skipif(landlock_version() < 4, reason="this system has no Landlock to give up rights with")


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    """A module whose functions stand for files that do what they should not."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "what_files_do.py").write_text(FUNCTIONS)
    sys.path.insert(0, str(folder))
    import what_files_do

    yield what_files_do
    sys.path.remove(str(folder))
    del sys.modules["what_files_do"]


def opened(function, settings, limits=None, **more):
    return Child(function, settings, label="given.pt", limits=limits or Limits(), **more)


def test_facts_tensors_and_answers_come_back_as_they_were(functions):
    with opened(functions.echo, {"path": "somewhere"}) as process:
        assert process.facts == {"path": "somewhere"}
        torch.testing.assert_close(process.tensors["held"], torch.arange(3))
        x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        more, inside = process(x)
        assert torch.equal(more, x + 1)
        assert torch.equal(inside["twice"][0], 2 * x)
        assert inside["twice"][1] is None


@needs_landlock
@pytest.mark.parametrize("what", ["write", "append", "remove", "folder", "start"])
def test_it_can_neither_change_a_file_nor_start_a_program(functions, tmp_path, what):
    path = tmp_path / "there"
    if what in ("append", "remove"):
        path.write_text("as it was")
    with opened(functions.tries, {"what": what, "path": str(path)}) as process:
        assert process.facts["said"] == "PermissionError"
    assert path.exists() == (what in ("append", "remove"))


@needs_seccomp
@pytest.mark.parametrize("what", ["chmod", "times", "attribute", "unix", "datagram", "fork", "signal", "tgkill", "limits"])
def test_it_can_neither_talk_to_other_processes_nor_change_rights(functions, tmp_path, what):
    path = tmp_path / "there"
    path.write_text("as it was")
    path.chmod(0o600)
    before = path.stat()
    if what == "unix":
        path = tmp_path / "listening"
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen()
    with opened(functions.tries, {"what": what, "path": str(path)}) as process:
        assert process.facts["said"] == "PermissionError"
    assert (tmp_path / "there").stat()[:9] == before[:9]


def test_it_may_start_threads_of_its_own(functions):
    with opened(functions.tries, {"what": "thread", "path": ""}) as process:
        assert process.facts["said"] == "done"


@needs_landlock
def test_it_cannot_connect_to_anything(functions):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        with opened(functions.tries, {"what": "connect", "path": port}) as process:
            assert process.facts["said"] == "PermissionError"


def test_a_folder_of_its_own_can_be_written_to(functions, tmp_path):
    with opened(functions.tries, {"what": "write", "path": str(tmp_path / "new")}, writable=tmp_path) as process:
        assert process.facts["said"] == "done"
    assert (tmp_path / "new").read_text() == "x"


def test_reasons_are_those_of_the_function(functions):
    with pytest.raises(InputError, match=r"^a reason$"):
        opened(functions.fails, {"kind": "InputError"})
    with pytest.raises(CapabilityError, match=r"^a reason$"):
        opened(functions.fails, {"kind": "CapabilityError"})
    with pytest.raises(InputError, match=r"given.pt cannot be opened \(a reason\)"):
        opened(functions.fails, {"kind": "other"})


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("memory", "given.pt asks for more than 0.3 GB of memory.*--file-memory"),
        ("many", "given.pt asks for more than 0.3 GB of memory.*--file-memory"),
        ("sleep", "given.pt was not done within 2 seconds.*--file-seconds"),
        ("segfault", "opens given.pt crashed by signal 11"),
        ("exit", "opens given.pt ended without an answer"),
    ],
)
def test_what_takes_all_memory_never_ends_or_crashes_is_refused_in_a_sentence(functions, how, sentence):
    begin = time.monotonic()
    with pytest.raises(InputError, match=sentence):
        opened(functions.crashes, {"how": how}, Limits(memory=0.3, seconds=2))
    assert time.monotonic() - begin < 60, "a fresh Python on a busy machine, and no more"


def test_an_answer_that_does_not_come_ends_the_process(functions):
    with opened(functions.slow, {}, Limits(seconds=1)) as process:
        with pytest.raises(InputError, match="--file-seconds"):
            process(torch.zeros(30))
        process.process.wait(timeout=10)


def test_more_points_may_take_more_time_at_the_pace_of_the_first_answer(functions):
    with opened(functions.slow, {}, Limits(seconds=2)) as process:
        process(torch.zeros(1))
        assert len(process(torch.zeros(3))) == 3


def test_random_numbers_are_those_of_the_seed(functions):
    x = torch.zeros(5)
    with opened(functions.draws, {}, seed=3) as first, opened(functions.draws, {}, seed=3) as second:
        expected = torch.randn(5, generator=torch.Generator().manual_seed(3))
        assert torch.equal(first(x), expected)
        assert torch.equal(second(x), expected)


def test_the_process_ends_with_whoever_asked(functions):
    process = opened(functions.echo, {"path": ""})
    number = process.process.pid
    del process
    assert not pathlib.Path(f"/proc/{number}").exists() or sys.platform != "linux"


def test_nothing_that_the_other_side_says_is_believed():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        header = b'{"content": {}, "tensors": [{"dtype": "float32", "shape": [1000000, 1000000]}]}'
        theirs.sendall(messages.LENGTH.pack(len(header)) + header)
        with pytest.raises(messages.BrokenMessage, match="shape"):
            messages.receive(ours, 10**9)
        theirs.sendall(messages.LENGTH.pack(2**62))
        with pytest.raises(messages.BrokenMessage, match="bytes of JSON"):
            messages.receive(ours, 10**9)
        for header in (b"[]", b"{", b'{"content": {}, "tensors": [{"dtype": "object", "shape": [1]}]}', b"[" * 100_000):
            theirs.sendall(messages.LENGTH.pack(len(header)) + header)
            with pytest.raises(messages.BrokenMessage, match="not understood"):
                messages.receive(ours, 10**9)
        with pytest.raises(TimeoutError):
            messages.receive(ours, 10**9, seconds=0.05)


@pytest.mark.parametrize("dtype", list(messages.DTYPES.values()))
def test_every_kind_of_number_is_sent_to_the_bit(dtype):
    ours, theirs = socket.socketpair()
    x = torch.arange(6).reshape(2, 3).to(dtype)
    with ours, theirs:
        messages.send(theirs, {"a": 1}, [x.T, torch.empty(0, 3, dtype=dtype), x[0, 0]])
        content, (turned, empty, single) = messages.receive(ours, 10**6)
    assert content == {"a": 1}
    assert torch.equal(turned, x.T)
    assert empty.shape == (0, 3)
    assert torch.equal(single, x[0, 0])
    assert turned.dtype == empty.dtype == dtype


def test_sparse_tensors_are_no_arrays():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TypeError, match="no plain array"):
        messages.send(ours, {}, [torch.eye(2).to_sparse()])


class Greedy(torch.nn.Module):
    """1.6 kB of program that asks for 226 GB."""

    def forward(self, x):
        return x + torch.ones(1000000, 56500)[:1, :3]


class Endless(torch.nn.Module):
    def forward(self, x):
        while bool((x < 2).any()):
            x = x * 1.0
        return x


@pytest.mark.parametrize(("program", "flag"), [(Greedy, "--file-memory"), (Endless, "--file-seconds")])
def test_a_small_program_that_asks_for_much_is_refused(tmp_path, program, flag):
    torch.jit.script(program()).save(tmp_path / "small.pt")
    running = start("torchscript", tmp_path / "small.pt", Limits(seconds=3))
    with pytest.raises(InputError, match=flag):
        running.run(torch.ones(2, 3))


def test_a_module_beside_the_file_is_not_imported(tmp_path):
    """The process finds modules where this one does, and the current folder is not added."""
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    code = (
        "from klprobe.files.child import Limits; from klprobe.files.programs import start; from pathlib import Path;"
        "start('torchscript', Path('net.pt'), Limits())"
    )
    with torch.random.fork_rng():
        torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "net.pt")
    root = str(pathlib.Path(child.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_an_opened_file_may_have_nothing_to_run():
    assert Opened().run is None
