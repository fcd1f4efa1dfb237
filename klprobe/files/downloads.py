"""Downloads, which only `klprobe data fetch` starts, of files known by their SHA-256; no other file uses the network."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from klprobe.types import InputError, Progress, no_progress

ATTEMPTS = 4
"""Number of attempts for one address; each continues where the last one stopped."""
TIMEOUT = 30.0
"""Time without a byte, in seconds, after which a connection counts as broken."""
BLOCK = 1 << 18


@dataclass(frozen=True)
class Download:
    """A file of a data set.

    Attributes:
        path: Path of the file below the folder of the data sets.
        urls: Addresses of the same bytes, tried in this order.
        sha256: SHA-256 of the file, hexadecimal.
    """

    path: str
    urls: tuple[str, ...]
    sha256: str


def fetch(download: Download, root: Path, progress: Progress = no_progress) -> Path:
    """Download the file to `root` unless it is there already; it appears there only when it is whole and checked.

    When it is interrupted, the bytes so far stay beside it as `.part`, and the next call continues from there.

    Args:
        download: File to download.
        root: Folder of the data sets.
        progress: Function that is called with the number of bytes so far, and of all bytes.
    Raises:
        InputError: no address gives the file, what they give has another SHA-256, or it cannot be written.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")  # klprobe prints its own messages
    target = root / download.path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The folder {target.parent} cannot be made ({error.strerror}): give another --data-root.") from error
    said = []
    for url in download.urls:
        getter = pooch.create(
            target.parent, base_url="", registry={target.name: f"sha256:{download.sha256}"}, urls={target.name: url}
        )
        try:
            return Path(getter.fetch(target.name, downloader=_downloader(target, progress)))
        except (OSError, ValueError, HTTPException) as error:  # pooch raises ValueError for another hash
            said.append(f"{url}: {error}")
    kept = " What has come is kept: the same command goes on." if _part(target).exists() else ""
    raise InputError(f"{target} could not be fetched. {'; '.join(said)}.{kept}")


def _part(target: Path) -> Path:
    """Path of a file while it is being downloaded."""
    return target.with_name(target.name + ".part")


def _downloader(target: Path, progress: Progress) -> Callable[[str, str, Any], None]:
    """Make the function with which pooch downloads; pooch checks the bytes afterwards, and moves them to their place."""

    def get(url: str, output: str, _: Any) -> None:
        for attempt in range(ATTEMPTS):
            try:
                _resume(url, _part(target), target.name, progress)
                break
            except urllib.error.HTTPError:
                raise
            except (OSError, HTTPException):
                if attempt == ATTEMPTS - 1:
                    raise
        os.replace(_part(target), output)

    return get


def _resume(url: str, part: Path, name: str, progress: Progress) -> None:
    """Download the rest of `part`, or all of it where the server cannot continue in the middle."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "klprobe", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the hash shows whether the file is whole
            return
        raise
    with response:
        goes_on = response.status == 206
        done = have if goes_on else 0
        total = done + int(response.headers.get("Content-Length") or 0)
        with part.open("ab" if goes_on else "wb") as file:
            while block := response.read(BLOCK):
                file.write(block)
                done += len(block)
                progress(done, max(total, done), name)
    if done < total:
        raise OSError(f"the connection broke off after {done:,} of {total:,} bytes")
