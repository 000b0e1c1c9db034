"""The tasks: one object each, with its loss, its metrics, checks of the network, and the meaning of its output.

To add a task, describe its targets in :data:`topolearn.task_kinds.TASK_KINDS` and put an object into :data:`TASKS`.
"""

from topolearn.tasks.base import Answer, ClassShares, LabelMap, Loss, Metric, NextToken, ScoreMap, Task
from topolearn.tasks.checks import check_fits
from topolearn.tasks.evaluation import Evaluation
from topolearn.tasks.table import TASKS, default_metrics, task_of

__all__ = [
    "TASKS",
    "Answer",
    "ClassShares",
    "Evaluation",
    "LabelMap",
    "Loss",
    "Metric",
    "NextToken",
    "ScoreMap",
    "Task",
    "check_fits",
    "default_metrics",
    "task_of",
]
