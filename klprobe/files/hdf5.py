"""HDF5 files of cells (.h5ad), in a confined process: no link of theirs leads to another file outside their own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from klprobe.types import InputError

MOST_OBJECTS = 100_000
"""Groups and data sets in one file: a file of cells has some hundreds."""


def read_h5ad(path: Path) -> Any:
    """The cells of a file, an anndata.AnnData.

    Raises:
        InputError: damaged, no file of cells, or with links to files outside its folder.
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
    """Raise InputError where an HDF5 file takes data from outside its folder.

    Links are followed to files of the folder. External storage and virtual data sets are refused, because HDF5 may look for
    their files in the current folder; no program writes cells so.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            elsewhere = _named_files(file, h5py, path.name)
    except InputError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError of damaged files
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path.name} is damaged, or is not an HDF5 file ({said[:200]}): write it again.") from error
    folder = path.parent.resolve()
    for name in elsewhere:
        target = (folder / name).resolve()
        if not (target.is_relative_to(folder) and target.is_file()):
            raise InputError(
                f"{path.name} takes data from {name[:80]!r}, which is not a file of its own folder, so klprobe does not "
                "follow it: "
                "write the cells to one file."
            )


def _named_files(file: Any, h5py: Any, label: str) -> set[str]:
    """Names of all other files that a file names; groups that lead back to one another are entered once."""
    found: set[str] = set()
    seen: set[Any] = set()
    waiting = [file]
    while waiting:
        group = waiting.pop()
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                found.add(link.filename)
            elif isinstance(link, h5py.HardLink):
                inner = group[key]
                if isinstance(inner, h5py.Dataset):
                    if inner.external or inner.is_virtual:
                        raise InputError(
                            f"{label}: its {key[:40]!r} lies in other files, which klprobe does not follow: write one file."
                        )
                elif isinstance(inner, h5py.Group) and inner.id not in seen:
                    seen.add(inner.id)
                    waiting.append(inner)
            if len(seen) + len(found) > MOST_OBJECTS:
                raise InputError(f"{label} has more groups than any file of cells: it is damaged.")
    return found
