import subprocess
import sys
from pathlib import Path

import pytest

from analyses.machinery import kept
from analyses.machinery.kept import is_free, lock
from analyses.machinery.session import Taken

HOLDS = """
import sys, time, pathlib
from analyses.machinery.kept import lock
with lock(pathlib.Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(600)
"""


def test_runs_lie_in_the_users_cache_folder_or_where_they_are_told_to_and_never_here(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("KLPROBE_RUNS", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert kept.cache_folder() == Path.home() / ".cache" / "klprobe" / "runs"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept.cache_folder() == tmp_path / "klprobe" / "runs"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kept.cache_folder() == Path.home() / "Library" / "Caches" / "klprobe" / "runs"
    monkeypatch.setenv("KLPROBE_RUNS", str(tmp_path / "mine"))
    assert kept.cache_folder() == tmp_path / "mine"


def test_a_lock_dies_with_the_process_that_holds_it_however_that_ends(tmp_path):
    path = tmp_path / "cell.lock"
    assert is_free(path)
    assert not path.exists()
    with subprocess.Popen([sys.executable, "-c", HOLDS, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert not is_free(path)
        with pytest.raises(Taken), lock(path, wait=False):
            pass
        holder.kill()
        holder.wait()
    assert is_free(path)
    with lock(path, wait=False):
        assert not is_free(path)
