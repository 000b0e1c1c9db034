"""The checkpoint of an unfinished run: write, read and remove it."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topolearn.errors import CheckpointError, Location
from topolearn.files import make_folder, write_atomically
from topolearn.runs.folder import STATE
from topolearn.runs.tensor_files import why_refused

FORMAT = 1
"""Version of the checkpoint's layout."""
_ADDED = ("start", "given_metrics", "removed_metrics")
"""Attributes that checkpoints of earlier versions lack."""


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        phase: Number of the phase.
        epoch: Epochs done in this phase.
        step: Steps done in this epoch.
        epochs: Epochs done in all phases.
        settled: Whether the search has ended.
    """

    phase: int = 0
    epoch: int = 0
    step: int = 0
    epochs: int = 0
    settled: bool = False

    def next_phase(self) -> Position:
        """Return the start of the next phase."""
        return replace(self, phase=self.phase + 1, epoch=0, step=0)


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to resume: tensors and plain values, so that nothing is unpickled.

    Attributes:
        position: Where to resume.
        graph: The network's graph, as YAML.
        network: The network's state; during the search it includes the learner's.
        learner: The learner's state.
        optimizers: States from :func:`topolearn.training.optim.saved_state`.
        epoch_loss: Sum of the losses of this epoch; None between epochs.
        history: Records so far.
        searched_metrics: Metrics at the end of the search; empty before it.
        start: The weights that the run was given, if a later phase starts from them; else None.
        given_metrics: Metrics of the network that the run was given; empty if it was not trained.
        removed_metrics: Metrics right after blocks were removed by their scores; empty before it.
    """

    position: Position
    graph: str
    network: Mapping[str, Any]
    learner: Mapping[str, Any]
    optimizers: list[Mapping[str, Any]]
    epoch_loss: Tensor | None
    history: list[dict[str, Any]]
    searched_metrics: dict[str, float]
    start: Mapping[str, Tensor] | None = None
    given_metrics: dict[str, float] = field(default_factory=dict)
    removed_metrics: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Checkpoint | None:
        """Read the checkpoint of the run in ``folder``; None if there is none.

        Raises:
            CheckpointError: It is damaged, of another version, or of another run.
        """
        state = load_state(folder)
        if state is None:
            return None
        try:
            values = {each.name: state[each.name] for each in fields(cls) if each.name not in _ADDED}
            position = Position(**values.pop("position"))
            history, metrics = list(values.pop("history")), dict(values.pop("searched_metrics"))
        except (KeyError, TypeError, ValueError):
            raise foreign_checkpoint(folder) from None
        added = {name: state[name] for name in _ADDED if name in state}
        return cls(position=position, history=history, searched_metrics=metrics, **added, **values)

    def write(self, folder: Path) -> None:
        """Write the checkpoint to the folder of the run, replacing the last one."""
        state = {each.name: getattr(self, each.name) for each in fields(self)}
        save_state(folder, {**state, "position": asdict(self.position)})


def foreign_checkpoint(folder: Path) -> CheckpointError:
    """Return the error for an intact checkpoint of another run."""
    return CheckpointError(
        "the checkpoint of another run; put back the one that belongs here, or remove it to start again",
        Location(str(folder / STATE)),
    )


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain values as the checkpoint of a run."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    make_folder(folder / "checkpoint")
    write_atomically(folder / STATE, buffer.getvalue())


def load_state(folder: Path) -> dict[str, Any] | None:
    """Read what :func:`save_state` wrote; None if there is no checkpoint.

    Raises:
        CheckpointError: It is damaged, or of another version.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes, torch.load can raise anything
        why = why_refused(error)
        raise CheckpointError(f"damaged checkpoint ({why}); remove it to start again", Location(str(path))) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            "a checkpoint of another version; finish the run with the version that began it", Location(str(path))
        )
    return state


def remove_state(folder: Path) -> None:
    """Remove the checkpoint of a finished run."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
