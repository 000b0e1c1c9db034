"""The table of tasks by name."""

from __future__ import annotations

from collections.abc import Mapping

from topolearn.errors import TopolearnError
from topolearn.graph import Graph
from topolearn.samples import DataInfo
from topolearn.task_kinds import DEFAULT_TASK
from topolearn.tasks.base import Metric, Task
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
"""The task object for each name in :data:`topolearn.task_kinds.TASK_KINDS`."""


def task_of(name: str) -> Task:
    """Return the task of a name; a name that is not in the table gets the loss and metrics of classification."""
    return TASKS.get(name, TASKS[DEFAULT_TASK])


def default_metrics(graph: Graph, info: DataInfo) -> Mapping[str, Metric]:
    """Return the metrics of the task, or nothing if the graph and the data need a loss from the user."""
    task = task_of(info.task)
    try:
        task.check_outputs(graph, info)
    except TopolearnError:
        return {}
    return task.metrics(info)
