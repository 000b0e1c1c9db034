"""What a run writes into its folder, from its first file to its last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topolearn.compiler import Network
from topolearn.files import make_folder, write_atomically
from topolearn.format import dumps
from topolearn.graph import Graph
from topolearn.runs.checkpoint import Checkpoint, remove_state
from topolearn.runs.config import write_config
from topolearn.runs.folder import CONFIG, SEARCH_STATE, SEARCHED, STATE, holds_run, tidy
from topolearn.runs.history import append_history, write_history
from topolearn.runs.result import FitResult
from topolearn.runs.tensor_files import save_tensors


class RunWriter:
    """Writes the files of one run; nothing where it has no folder.

    Attributes:
        folder: The run's folder; None for a run that leaves nothing, and for all but one of several processes.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def checkpoint_left(self) -> Checkpoint | None:
        """The checkpoint of a run that has been begun, to go on from; None if there is none.

        Raises:
            CheckpointError: A checkpoint that cannot be used.
        """
        if self.folder is None or not holds_run(self.folder):
            return None
        tidy(self.folder)
        return Checkpoint.read(self.folder)

    def begin(self, graph: Graph, config: Mapping[str, Any]) -> None:
        """Write the first files of a run that starts, or starts again because it left no checkpoint.

        Args:
            graph: The graph that is searched.
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

    def resumed(self, history: list[dict[str, Any]]) -> None:
        """Let the history end where a checkpoint was written."""
        if self.folder is not None:
            write_history(self.folder, history)

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Add a record to the history."""
        if self.folder is not None:
            append_history(self.folder, record)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint."""
        if self.folder is not None:
            checkpoint.write(self.folder)

    def search_ended(self, net: Network) -> None:
        """Keep the network as it was at the end of the search, its learner included."""
        if self.folder is not None:
            save_tensors(self.folder / SEARCH_STATE, net.state_dict(), {"graph": net.graph.name})

    def finish(self, result: FitResult) -> None:
        """Write what the run gave, and remove its checkpoint."""
        if self.folder is not None:
            write_history(self.folder, result.history)
            result.save_model(self.folder)
            remove_state(self.folder)

    def last_checkpoint(self) -> Path | None:
        """The folder of the last checkpoint, if there is one."""
        if self.folder is None or not (self.folder / STATE).is_file():
            return None
        return (self.folder / STATE).parent
