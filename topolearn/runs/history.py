"""history.jsonl: one record per epoch of a run, and a closing record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topolearn.errors import CheckpointError, Location, TopolearnError
from topolearn.files import write_atomically
from topolearn.runs.folder import HISTORY


def write_history(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write a whole history.jsonl."""
    write_atomically(folder / HISTORY, "".join(json.dumps(record) + "\n" for record in records).encode())


def append_history(folder: Path, record: Mapping[str, Any]) -> None:
    """Add one line to history.jsonl."""
    try:
        with open(folder / HISTORY, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")
    except OSError as error:
        raise TopolearnError(f"cannot write {folder / HISTORY}: {error.strerror}; make room, then --resume") from None


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read history.jsonl."""
    path = folder / HISTORY
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", Location(str(path))) from None
    except ValueError as error:
        raise CheckpointError(f"is not one JSON object per line: {error}", Location(str(path))) from None
    if not all(isinstance(record, dict) for record in records):
        raise CheckpointError("is not one JSON object per line", Location(str(path)))
    return records


def read_closing(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Read the history of a finished run and its last record, which has the closing metrics.

    Raises:
        CheckpointError: The run is not finished.
    """
    history = read_history(folder)
    if not history or history[-1].get("phase") != "result":
        raise CheckpointError(f"the run in {folder} is not finished; go on with --resume")
    return history, history[-1]
