"""The tasks by name."""

from __future__ import annotations

from collections.abc import Mapping

from topolearn.task_kinds import DEFAULT_TASK
from topolearn.tasks.base import Task
from topolearn.tasks.classification import ClassificationTask
from topolearn.tasks.dense import EdgeDetectionTask, SaliencyTask, SegmentationTask
from topolearn.tasks.next_token import NextTokenTask

TASKS: Mapping[str, Task] = {
    DEFAULT_TASK: ClassificationTask(),
    "segmentation": SegmentationTask(),
    "saliency": SaliencyTask(),
    "edges": EdgeDetectionTask(),
    "next_token": NextTokenTask(),
}
"""Name -> what a task of :data:`topolearn.task_kinds.TASK_KINDS` does."""


def task_of(name: str) -> Task:
    """What a task does; a user's own, which is not in the table, is judged as classification is."""
    return TASKS.get(name, TASKS[DEFAULT_TASK])
