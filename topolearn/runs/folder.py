"""Files of a run: checkpoints while it runs, artefacts when it is done; each appears whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topolearn.errors import CheckpointError, Location, TopolearnError
from topolearn.files import make_folder, write_atomically

STATE = "checkpoint/state.pt"
WEIGHTS = "weights.safetensors"
GRAPH = "graph.yaml"
SEARCHED = "search.yaml"
SEARCH_STATE = "search.safetensors"
CLASSES = "classes.csv"
CONFIG = "config.yaml"
HISTORY = "history.jsonl"
FORMAT = 1
"""Version of the checkpoint's layout."""
PATIENCE = 10.0
"""Seconds to wait for a folder that another process has: workers that load data outlive a killed one by a few."""


def holds_run(folder: Path) -> bool:
    """Whether ``folder`` holds a run, finished or not, or what one gave."""
    return any((folder / name).is_file() for name in (CONFIG, GRAPH, WEIGHTS))


def tidy(folder: Path) -> None:
    """Remove what a process that was killed in the middle of writing a file left beside it."""
    for name in (CLASSES, CONFIG, GRAPH, HISTORY, SEARCHED, SEARCH_STATE, STATE, WEIGHTS):
        path = folder / name
        for left in path.parent.glob(f".{path.name}.*"):
            left.unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Whether the run in ``folder`` has written its last file, and tidied up."""
    return (folder / WEIGHTS).is_file() and not (folder / STATE).is_file()


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint: tensors and plain values, nothing that would have to be unpickled."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    make_folder(folder / "checkpoint")
    write_atomically(folder / STATE, buffer.getvalue())


def load_state(folder: Path) -> dict[str, Any] | None:
    """Read the checkpoint of a run; None where there is none.

    Raises:
        CheckpointError: It is damaged, or of another version.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the damaged bytes lead to
        reason = str(error).partition("\n")[0][:120]
        raise CheckpointError(f"damaged checkpoint ({reason}); remove it to start again", Location(str(path))) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            "a checkpoint of another version; finish the run with the version that began it", Location(str(path))
        )
    return state


def remove_state(folder: Path) -> None:
    """Remove the checkpoint of a finished run."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Have a folder to oneself while entered, against other processes and other runs of this one.

    The folder is made where there is none, and is removed again where nothing was written into it. The claim is a lock
    on the folder itself, which leaves no file and ends with the process, however that ends.

    Raises:
        CheckpointError: Another run has it.
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
    """Whether the lock on an open folder could be had within :data:`PATIENCE`."""
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


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors as safetensors, the same bytes for the same tensors."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    # safetensors writes several metadata keys in random order, so there is one.
    write_atomically(path, save(plain, {"topolearn": json.dumps(dict(about), sort_keys=True)}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise CheckpointError("no such file; is this the folder of a finished run?", Location(str(path)))
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"damaged, or no safetensors file ({error}); put back the file that the run wrote", Location(str(path))
        ) from None
    return tensors


def load_into(module: torch.nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a module of exactly these names and shapes.

    Raises:
        CheckpointError: Names the first tensor that does not fit.
    """
    own = module.state_dict()
    mend = "; take the weights of this very graph"
    for name, tensor in own.items():
        if name not in tensors:
            raise CheckpointError(f"holds no '{name}', which the graph needs{mend}", Location(str(path)))
        if isinstance(tensor, Tensor) and tensors[name].shape != tensor.shape:
            raise CheckpointError(
                f"'{name}' has shape {list(tensors[name].shape)}, but the graph needs {list(tensor.shape)}{mend}",
                Location(str(path)),
            )
    for name in tensors:
        if name not in own:
            raise CheckpointError(f"holds '{name}', which the graph does not have{mend}", Location(str(path)))
    module.load_state_dict(dict(tensors))


def write_history(folder: Path, records: list[dict[str, Any]]) -> None:
    """Write history.jsonl anew."""
    write_atomically(folder / HISTORY, "".join(json.dumps(record) + "\n" for record in records).encode())


def append_history(folder: Path, record: Mapping[str, Any]) -> None:
    """Add one line to history.jsonl."""
    try:
        with open(folder / HISTORY, "a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")
    except OSError as error:
        raise TopolearnError(f"cannot write {folder / HISTORY}: {error.strerror}; make room and --resume") from None


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
