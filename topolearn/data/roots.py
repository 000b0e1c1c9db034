"""Find data sets in the folders where they may be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from topolearn.errors import DataError

VARIABLE = "TOPOLEARN_DATA"
"""Environment variable that names the folder of data sets."""


def roots(root: str | Path | None = None) -> list[Path]:
    """Return the folders of data sets, first choice first: ``root``, the environment's, ``./data``, the cache."""
    given = [root, os.environ.get(VARIABLE) or None, "data", "~/.cache/topolearn"]
    return list(dict.fromkeys(Path(each).expanduser() for each in given if each is not None))


def find_folder(name: str, root: str | Path | None = None) -> Path | None:
    """Return the folder ``name`` in the first root that has one, or None."""
    if Path(name).name != name:
        return None
    return next((base / name for base in roots(root) if (base / name).is_dir()), None)


def folder_names(root: str | Path | None = None) -> list[str]:
    """Return the names of the folders here and in the folders of data sets."""
    names: list[str] = []
    for base in (Path(), *roots(root)):
        with contextlib.suppress(OSError):  # a folder that is not there, or may not be read
            names += [path.name for path in base.iterdir() if path.is_dir()]
    return names


def find_set(name: str, inner: str, files: Sequence[Sequence[str]], root: str | Path | None = None) -> list[Path]:
    """Find the files of a data set.

    Args:
        name: The set's name. A root may hold the set itself or a folder of this name.
        inner: The folder in which the set is distributed.
        files: The possible names of each file. A name that ends in ``/`` means a folder.
        root: Folder to look in first.

    Returns:
        The path of each file, all in one folder.

    Raises:
        DataError: No folder holds all files. The error names the folders that were searched.
    """
    places = [place for base in roots(root) for place in (base, base / name)]
    for place in places:
        for folder in (place / inner, place / Path(inner).name, place):
            found = [next((folder / each for each in names if _is_there(folder, each)), None) for names in files]
            paths = [path for path in found if path is not None]
            if len(paths) == len(files):
                return paths
    needed = ", ".join(names[0] for names in files)
    looked = ", ".join(f"'{place}'" for place in places)
    raise DataError(
        f"the data set '{name}' was not found in {looked}; put its folder '{inner}' ({needed}) into one of them, or "
        f"name the folder that holds it with {VARIABLE} or --data-root"
    )


def _is_there(folder: Path, name: str) -> bool:
    path = folder / name
    return path.is_dir() if name.endswith("/") else path.is_file()
