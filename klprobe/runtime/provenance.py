"""Provenance of a number: versions of the packages, and the commit."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from klprobe import __version__

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "nflows")


@cache
def commit() -> str | None:
    """Commit of the source checkout that klprobe runs from, with `+` when it has changes; None when installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=5).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def versions() -> dict[str, str | None]:
    """Versions of klprobe, Python and the numerical packages."""
    found: dict[str, str | None] = {"klprobe": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
