"""movement.f32: where the learner's value of every learnable edge was at some steps of the search.

The file is a table of 4-byte little-endian numbers. Each row is the number of steps taken, as an integer, and then a
float for each learnable edge, in the order of search.yaml.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from topolearn.errors import CheckpointError, Location, TopolearnError
from topolearn.files import write_atomically
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner
from topolearn.runs.folder import MOVEMENT

MOST_ROWS = 300
MOST_BYTES = 16 * 2**20


class MovementWriter:
    """Adds rows to movement.f32, evenly over a search; a run that goes on keeps the rows up to where it goes on.

    Attributes:
        every: Steps from one row to the next. The last step has a row too.
    """

    def __init__(self, folder: Path, graph: Graph, steps: int, step: int) -> None:
        """Open the file.

        Args:
            folder: Folder of the run.
            graph: The searched graph.
            steps: Steps in the whole search.
            step: Steps taken so far. Rows of later steps are removed.
        """
        self.path = folder / MOVEMENT
        self.steps = steps
        self.positions = learnable(graph)
        row = _row(len(self.positions))
        rows = min(MOST_ROWS, MOST_BYTES // row.itemsize) - 2  # the first and the last
        self.every = max(1, -(-steps // max(1, rows)))
        self.last = -1
        if not self.path.is_file():
            return
        try:
            with open(self.path, "r+b") as file:
                kept = [found for found in _rows(file.read(MOST_BYTES), row)["step"].tolist() if found <= step]
                self.last = kept[-1] if kept else -1
                file.truncate(len(kept) * row.itemsize)
        except OSError as error:
            raise TopolearnError(f"cannot write {self.path}: {error.strerror}; make it writable") from None

    def add(self, step: int, learner: EdgeLearner) -> None:
        """Add a row after some step, if that is one of the steps with a row and it has none yet."""
        if not self.positions or step <= self.last or (step % self.every and step != self.steps):
            return
        row = np.zeros(1, _row(len(self.positions)))
        row["step"] = step
        row["values"] = _values(learner)[self.positions]
        try:
            with open(self.path, "ab") as file:
                file.write(row.tobytes())
        except OSError as error:
            raise TopolearnError(f"cannot write {self.path}: {error.strerror}; make room, then --resume") from None
        self.last = step


def read_movement(folder: Path, graph: Graph) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None:
    """Read how the values of the learnable edges moved in a run; None if it recorded nothing.

    Args:
        folder: Folder of the run.
        graph: The searched graph.

    Returns:
        (R,) steps taken, and (R, L) values of the learnable edges, in the order of the graph's edges.

    Raises:
        CheckpointError: The file cannot be read, or is not for this graph.
    """
    data = _read(folder / MOVEMENT)
    if data is None:
        return None
    rows = _rows(data, _row(len(learnable(graph))))
    steps = rows["step"]
    if (steps < 0).any() or (np.diff(steps) <= 0).any():
        raise CheckpointError("is not the record of this run; remove it", Location(str(folder / MOVEMENT)))
    return steps, rows["values"]


def copy_movement(source: Path, target: Path) -> None:
    """Copy the record of a run to the folder of a run with the same search; do nothing if there is none.

    Raises:
        CheckpointError: The record cannot be read.
        TopolearnError: The copy cannot be written.
    """
    data = _read(source / MOVEMENT)
    if data is not None:
        write_atomically(target / MOVEMENT, data)


def _read(path: Path) -> bytes | None:
    """Return the content of a record; None if there is none.

    Raises:
        CheckpointError: It cannot be read, or is larger than a record can be.
    """
    if not path.is_file():
        return None
    try:
        size = os.path.getsize(path)
        data = path.read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", Location(str(path))) from None
    if size > MOST_BYTES:
        raise CheckpointError("is not the record of this run; remove it", Location(str(path)))
    return data


def _values(learner: EdgeLearner) -> npt.NDArray[np.float32]:
    """Return a learner's value of every edge, in eval mode: in training mode, some learners would draw numbers."""
    mode = learner.training
    learner.eval()
    with torch.no_grad():
        values: npt.NDArray[np.float32] = learner.edge_values().float().cpu().numpy()
    learner.train(mode)
    return values


def learnable(graph: Graph) -> list[int]:
    """Return the positions of a graph's learnable edges."""
    return [i for i, edge in enumerate(graph.edges) if edge.learnable]


def _row(edges: int) -> np.dtype[np.void]:
    return np.dtype([("step", "<i4"), ("values", "<f4", (edges,))])


def _rows(data: bytes, row: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Return the rows of a file; the last one may have been cut off, and is left out then."""
    return np.frombuffer(data, row, len(data) // row.itemsize)
