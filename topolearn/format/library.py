"""Finding the graphs and recipes that ship with topolearn, by name."""

from __future__ import annotations

import os
from pathlib import Path

from topolearn.errors import FormatError, shown, suggest

_PACKAGE = Path(__file__).resolve().parent.parent


def folder(kind: str) -> Path:
    """The folder of shipped ``graphs`` or ``models``: inside the wheel, or at the root of a checkout."""
    inside = _PACKAGE / "_data" / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def names(kind: str) -> list[str]:
    """Names of the shipped ``graphs`` or ``models``."""
    return sorted(path.stem for path in folder(kind).glob("*.yaml"))


def find(name_or_path: str | Path, kind: str = "graphs") -> Path:
    """The file that a name or a path means; an existing path wins over a shipped name.

    ``models/NAME.yaml`` means the shipped recipe where there is no such file here.

    Raises:
        FormatError: No such file and no such name.
    """
    path = Path(name_or_path)
    if os.path.isfile(path):  # False, not an error, where the path cannot even be looked up
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
