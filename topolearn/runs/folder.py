"""The folder of a run: the names of its files, and a lock on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from topolearn.errors import CheckpointError, TopolearnError
from topolearn.files import check_folder, make_folder

STATE = "checkpoint/state.pt"
WEIGHTS = "weights.safetensors"
GRAPH = "graph.yaml"
SEARCHED = "search.yaml"
SEARCH_STATE = "search.safetensors"
CLASSES = "classes.csv"
CONFIG = "config.yaml"
HISTORY = "history.jsonl"
MOVEMENT = "movement.f32"
SWEEP = "sweep.csv"
"""Written by a sweep over the number of edges, not by the run itself."""
FILES = (CLASSES, CONFIG, GRAPH, HISTORY, MOVEMENT, SEARCHED, SEARCH_STATE, STATE, WEIGHTS)
"""All files that a run writes to its folder."""
LOGGED = ("mlflow-run.txt", "wandb", "wandb-run.txt")
"""What loggers write before the run writes its own files."""
PATIENCE = 10.0
"""Seconds to wait for another process's lock: data loading workers outlive a killed process by a few seconds."""


def holds_run(folder: Path) -> bool:
    """Whether ``folder`` holds a run, finished or not, or only its result."""
    return any((folder / name).is_file() for name in (CONFIG, GRAPH, WEIGHTS))


def check_free(folder: Path) -> None:
    """Raise an OptionError if a folder for a new run holds files of someone else."""
    # A run that was killed at its start has left these at most: `SEARCHED` is its first own file.
    check_folder(folder, (SEARCHED, *LOGGED))


def tidy(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote."""
    for name in FILES:
        path = folder / name
        for left in path.parent.glob(f".{path.name}.*"):
            left.unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Whether the run in ``folder`` is finished: weights written, checkpoint removed."""
    return (folder / WEIGHTS).is_file() and not (folder / STATE).is_file()


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes, and other runs in this one, while the context is entered.

    The folder is made if it does not exist, and removed again if it stays empty. The lock is on the folder itself:
    it leaves no file, and ends with the process however that ends.

    Raises:
        CheckpointError: Another run holds the lock.
        TopolearnError: The folder cannot be made or read.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    make_folder(folder)
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise TopolearnError(f"cannot read the folder {folder}: {error.strerror}; choose another place") from None
    try:
        if not _locks(descriptor):
            raise CheckpointError(
                f"another process is training in {folder}; wait for it or stop it, or choose another folder with --out"
            )
        try:
            yield
        finally:
            for path in missing:
                with contextlib.suppress(OSError):  # not empty, as it should be
                    path.rmdir()
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    """Whether the lock on an open folder is obtained within :data:`PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        except OSError:  # a file system without locks
            return True
        else:
            return True
