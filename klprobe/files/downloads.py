"""The only file that touches the network, and only when `klprobe data fetch` asks: files known by their SHA-256."""

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
"""How often one address is tried; each goes on where the last one broke off."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
BLOCK = 1 << 18


@dataclass(frozen=True)
class Download:
    """A file of a data set.

    Attributes:
        path: Where it goes, below the folder of the data sets.
        urls: Addresses of the same bytes, tried in this order.
        sha256: Of the file, hexadecimal.
    """

    path: str
    urls: tuple[str, ...]
    sha256: str


def fetch(download: Download, root: Path, progress: Progress = no_progress) -> Path:
    """Put the file below `root` unless it is there already, whole and checked or not at all.

    What has come when it is interrupted stays beside it as `.part`, and the next call goes on from there.

    Args:
        download: What to get.
        root: Folder of the data sets.
        progress: Told the bytes that are there, and the bytes in all.
    Raises:
        InputError: no address gives the file, what they give has another SHA-256, or it cannot be written.
    """
    import pooch

    pooch.get_logger().setLevel("ERROR")  # what there is to say is said here
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
        except (OSError, ValueError, HTTPException) as error:  # pooch's word for another hash is ValueError
            said.append(f"{url}: {error}")
    kept = " What has come is kept: the same command goes on." if _part(target).exists() else ""
    raise InputError(f"{target} could not be fetched. {'; '.join(said)}.{kept}")


def _part(target: Path) -> Path:
    """Where a file is while it is coming."""
    return target.with_name(target.name + ".part")


def _downloader(target: Path, progress: Progress) -> Callable[[str, str, Any], None]:
    """What pooch calls for the bytes; it checks them afterwards, and moves them to where they belong."""

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
    """Bring `part` to its full length; from the start where the server cannot go on in the middle."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "klprobe", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to send: the hash will tell whether it is all there
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
