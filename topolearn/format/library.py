"""Finds the graphs and recipes that ship with topolearn by name."""

from __future__ import annotations

import os
from pathlib import Path

from topolearn.errors import FormatError, shown, suggest

_PACKAGE = Path(__file__).resolve().parent.parent


def folder(kind: str) -> Path:
    """Return the folder of shipped ``graphs`` or ``models``: inside the wheel, or at the root of a checkout."""
    inside = _PACKAGE / "_data" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def names(kind: str) -> list[str]:
    """Return the names of the shipped ``graphs`` or ``models``."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(name_or_path: str | Path, kind: str = "graphs") -> Path:
    """Return the file for a name or a path; an existing path wins over a shipped name.

    ``models/NAME.yaml`` is the shipped recipe if you have no file of that path.

    Raises:
        FormatError: No such file and no such name.
    """
    path = Path(name_or_path)
    if os.path.isfile(path):  # False, not an error, if the path cannot be looked up
        return path
    text = str(name_or_path)
    if "/" not in text and path.suffix not in (".yaml", ".yml"):
        shipped = folder(kind) / f"{text}.yaml"
        if os.path.isfile(shipped):
            return shipped
        if os.path.isdir(path):
            raise FormatError(f"'{text}' is a folder; name a YAML file")
        raise FormatError(f"there is no {kind[:-1]} {shown(text)}{suggest(text, names(kind))}")
    if path.parent.name == kind and os.path.isfile(folder(kind) / path.name) and not path.is_absolute():
        return folder(kind) / path.name
    return path
