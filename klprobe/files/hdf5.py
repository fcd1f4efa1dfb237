"""HDF5 files of cells (.h5ad), read in a confined process; links to other files are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from klprobe.types import InputError

MOST_OBJECTS = 100_000
"""Largest number of groups and data sets in one file; a file of cells has some hundreds."""


def read_h5ad(path: Path) -> Any:
    """Read the cells of a file, as an anndata.AnnData.

    Raises:
        InputError: the file is damaged, not a file of cells, or has links to other files.
    """
    import anndata

    check_links(path)
    try:
        return anndata.read_h5ad(path)
    except MemoryError:
        raise
    except Exception as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path.name} is damaged, or is not a file of cells ({said[:200]}): write it again.") from error


def check_links(path: Path) -> None:
    """Raise InputError where an HDF5 file takes data from another file, in its own folder too.

    The other file would have to be checked as well, and may lead to a third; no program writes cells in this way.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _look_through(file, h5py, path.name)
    except InputError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError for damaged files
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path.name} is damaged, or is not an HDF5 file ({said[:200]}): write it again.") from error


def _look_through(file: Any, h5py: Any, label: str) -> None:
    """Visit every link of a file; groups that lead back to one another are entered once."""
    seen: set[Any] = set()
    waiting = [file]
    while waiting:
        group = waiting.pop()
        for key in group:
            link = group.get(key, getlink=True)
            elsewhere = isinstance(link, h5py.ExternalLink)
            if isinstance(link, h5py.HardLink):
                inner = group[key]
                if isinstance(inner, h5py.Dataset):
                    elsewhere = bool(inner.external) or inner.is_virtual
                elif isinstance(inner, h5py.Group) and inner.id not in seen:
                    seen.add(inner.id)
                    waiting.append(inner)
            if elsewhere:
                raise InputError(
                    f"{label}: its {key[:40]!r} lies in another file, which klprobe does not follow: write one file."
                )
            if len(seen) > MOST_OBJECTS:
                raise InputError(f"{label} has more groups than any file of cells: it is damaged.")
