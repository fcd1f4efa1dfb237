"""Downloads, from a server on this machine that can break off and go on in the middle."""

import ast
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import klprobe
from klprobe.files.downloads import Download, fetch
from klprobe.types import InputError

CONTENT = bytes(range(256)) * 2000
SHA = hashlib.sha256(CONTENT).hexdigest()


CONFINED = {f"files/{name}.py" for name in ("child", "confined", "messages")}
"""They talk to the confined process by a pair of sockets that are connected to each other and to nothing else."""


def test_no_other_file_of_klprobe_can_download():
    """`parallel` joins processes, which torch does; nothing else so much as imports what opens a connection."""
    root = Path(klprobe.__file__).parent
    found = set()
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                if {name.split(".")[0] for name in named} & {"urllib", "http", "requests", "pooch", "socket", "ftplib", "ssl"}:
                    found.add(str(file.relative_to(root)))
    assert found == {"files/downloads.py", *CONFINED}


class Server(ThreadingHTTPServer):
    """Gives CONTENT; breaks off after `limit` bytes, `breaks` times; goes on in the middle if `ranges`."""

    daemon_threads = True
    limit, breaks, ranges, status = len(CONTENT), 0, True, 200

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.url = f"http://127.0.0.1:{self.server_port}/a.bin"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT)
        if server.breaks:
            server.breaks -= 1
            stop = start + server.limit
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_):
        """Be quiet."""


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def held(root):
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def test_a_file_arrives_whole_and_is_not_fetched_twice(server, tmp_path):
    told = []
    for _ in range(2):
        path = fetch(Download("a/b.bin", (server.url,), SHA), tmp_path, lambda *now: told.append(now))
        assert path == tmp_path / "a" / "b.bin"
        assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert told[-1] == (len(CONTENT), len(CONTENT), "b.bin")
    assert held(tmp_path) == {"a/b.bin"}


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_goes_on_or_starts_again_where_the_server_cannot(server, tmp_path, ranges):
    server.limit, server.breaks, server.ranges = 100_000, 2, ranges
    assert fetch(Download("b.bin", (server.url,), SHA), tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=200000-" if ranges else "bytes=100000-"]


def test_what_has_come_is_kept_and_the_next_call_goes_on(server, tmp_path):
    server.limit, server.breaks = 100_000, 4
    with pytest.raises(InputError, match=r"b\.bin could not be fetched.*broke off after 400,000 of 512,000.*goes on"):
        fetch(Download("b.bin", (server.url,), SHA), tmp_path)
    assert held(tmp_path) == {"b.bin.part"}
    assert fetch(Download("b.bin", (server.url,), SHA), tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=400000-"
    assert held(tmp_path) == {"b.bin"}


def test_ctrl_c_leaves_what_has_come(server, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(Download("b.bin", (server.url,), SHA), tmp_path, stop)
    assert held(tmp_path) == {"b.bin.part"}
    assert fetch(Download("b.bin", (server.url,), SHA), tmp_path).read_bytes() == CONTENT


def test_a_file_that_was_all_there_but_not_yet_moved_is_taken(server, tmp_path):
    (tmp_path / "b.bin.part").write_bytes(CONTENT)
    assert fetch(Download("b.bin", (server.url,), SHA), tmp_path).read_bytes() == CONTENT


def test_other_bytes_are_refused_and_not_kept_and_the_next_call_starts_afresh(server, tmp_path):
    (tmp_path / "b.bin.part").write_bytes(b"stale" * 100)
    with pytest.raises(InputError, match="hash"):
        fetch(Download("b.bin", (server.url,), SHA), tmp_path)
    assert held(tmp_path) == set()
    assert fetch(Download("b.bin", (server.url,), SHA), tmp_path).read_bytes() == CONTENT


def test_a_file_with_another_hash_is_replaced_only_by_the_right_one(server, tmp_path):
    (tmp_path / "b.bin").write_bytes(b"mine")
    with pytest.raises(InputError):
        fetch(Download("b.bin", (server.url,), "0" * 64), tmp_path)
    assert (tmp_path / "b.bin").read_bytes() == b"mine"
    assert fetch(Download("b.bin", (server.url,), SHA), tmp_path).read_bytes() == CONTENT


def test_the_next_address_is_tried_when_one_does_not_have_the_file(server, tmp_path):
    (tmp_path / "source.bin").write_bytes(CONTENT)
    other = (tmp_path / "source.bin").as_uri()
    server.status = 404
    assert fetch(Download("b.bin", (server.url, other), SHA), tmp_path / "data").read_bytes() == CONTENT
    assert len(server.asked) == 1, "what is not there is not asked for again"
    with pytest.raises(InputError, match="404"):
        fetch(Download("c.bin", (server.url,), SHA), tmp_path)


def test_a_folder_that_cannot_be_written_to_is_named(server, tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(InputError, match=r"a cannot be made \(.*another --data-root"):
        fetch(Download("a/b.bin", (server.url,), SHA), tmp_path)
