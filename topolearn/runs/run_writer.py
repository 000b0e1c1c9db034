"""Writing the files of a run's folder, from the first to the last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topolearn.compiler import Network
from topolearn.files import make_folder, write_atomically
from topolearn.format import dumps
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner
from topolearn.runs.checkpoint import Checkpoint, remove_state
from topolearn.runs.config import write_config
from topolearn.runs.folder import CONFIG, MOVEMENT, SEARCH_STATE, SEARCHED, STATE, holds_run, tidy
from topolearn.runs.history import append_history, write_history
from topolearn.runs.movement import MovementWriter
from topolearn.runs.result import FitResult
from topolearn.runs.tensor_files import save_tensors


class RunWriter:
    """Writes the files of one run; does nothing without a folder.

    Attributes:
        folder: The run's folder; None for a run that writes no files, and in all but one of several processes.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._movement: MovementWriter | None = None

    def checkpoint_left(self) -> Checkpoint | None:
        """Read the checkpoint of a run that has begun; None if there is none.

        Raises:
            CheckpointError: The checkpoint cannot be used.
        """
        if self.folder is None or not holds_run(self.folder):
            return None
        tidy(self.folder)
        return Checkpoint.read(self.folder)

    def begin(self, graph: Graph, config: Mapping[str, Any]) -> None:
        """Write the first files of a run that starts, or that starts again because it left no checkpoint.

        Args:
            graph: The searched graph.
            config: The settings.
        """
        if self.folder is None:
            return
        if not holds_run(self.folder):
            make_folder(self.folder)
            remove_state(self.folder)
            write_atomically(self.folder / SEARCHED, dumps(graph).encode())
            write_atomically(self.folder / CONFIG, write_config(config).encode())
        write_history(self.folder, [])
        (self.folder / MOVEMENT).unlink(missing_ok=True)

    def resumed(self, history: list[dict[str, Any]]) -> None:
        """Replace the history by the one of the checkpoint."""
        if self.folder is not None:
            write_history(self.folder, history)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Add a record to the history."""
        if self.folder is not None:
            append_history(self.folder, record)

    def moved(self, learner: EdgeLearner, step: int, steps: int) -> None:
        """Record where the learner's values are in a search, at some of its steps.

        Args:
            learner: The learner.
            step: Steps of the search taken so far.
            steps: All steps of the search.
        """
        if self.folder is not None:
            if self._movement is None:
                self._movement = MovementWriter(self.folder, learner.graph, steps, step)
            self._movement.add(step, learner)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint."""
        if self.folder is not None:
            checkpoint.write(self.folder)

    def search_ended(self, net: Network) -> None:
        """Save the network with its learner as it is at the end of the search."""
        if self.folder is not None:
            save_tensors(self.folder / SEARCH_STATE, net.state_dict(), {"graph": net.graph.name})

    def finish(self, result: FitResult) -> None:
        """Write the result of the run, and remove its checkpoint."""
        if self.folder is not None:
            write_history(self.folder, result.history)
            result.save_model(self.folder)
            remove_state(self.folder)

    def last_checkpoint(self) -> Path | None:
        """Return the folder of the last checkpoint; None if there is none."""
        if self.folder is None or not (self.folder / STATE).is_file():
            return None
        return (self.folder / STATE).parent
