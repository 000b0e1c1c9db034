"""The kinds of tasks and their targets. Their losses and metrics are in :mod:`topolearn.tasks`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TaskKind:
    """A kind of task, defined by its targets.

    Attributes:
        name: Its name in graph files, configs and messages.
        target: ``label`` is one class per image, ``mask`` one class per pixel, ``binary_mask`` yes or no
            per pixel, ``token`` the next token at each place of a text. ``other`` is a user's own task; its targets
            are passed on as they are.
        positive: Name for pixels with value 1 in a binary mask; empty for other targets.
        ignores_grey: Whether dark greys in the file of a binary mask count as unknown; otherwise they count as no.
    """

    name: str
    target: Literal["label", "mask", "binary_mask", "token", "other"]
    positive: str = ""
    ignores_grey: bool = False

    @property
    def is_dense(self) -> bool:
        """Whether there is a target for every pixel."""
        return self.target in ("mask", "binary_mask")

    @property
    def is_text(self) -> bool:
        """Whether the data are text."""
        return self.target == "token"

    @property
    def items(self) -> str:
        """Name of the items of a batch, in the plural."""
        return "contexts" if self.is_text else "images"

    @property
    def is_binary(self) -> bool:
        """Whether the network has one output channel and targets are 0 or 1."""
        return self.target == "binary_mask"


DEFAULT_TASK = "classification"
"""Task of a graph file that names none."""

TASK_KINDS: Mapping[str, TaskKind] = {
    kind.name: kind
    for kind in (
        TaskKind(DEFAULT_TASK, "label"),
        TaskKind("segmentation", "mask"),
        TaskKind("saliency", "binary_mask", positive="salient"),
        TaskKind("edges", "binary_mask", positive="edge", ignores_grey=True),
        TaskKind("next_token", "token"),
    )
}
"""Name -> built-in task."""


def kind_of(task: str) -> TaskKind:
    """Return the kind of a task; a name that is not in the table is a user's own task."""
    return TASK_KINDS.get(task) or TaskKind(task, "other")


def dense_tasks() -> list[str]:
    """Return the sorted names of the tasks that have a target for every pixel."""
    return sorted(kind.name for kind in TASK_KINDS.values() if kind.is_dense)
