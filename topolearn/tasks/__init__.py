"""One object per task: loss, metrics, what a network must give, and what its output means.

A new task is an entry in :data:`topolearn.task_kinds.TASK_KINDS`, which says what its targets are, and an
object in :data:`TASKS`.
"""

from topolearn.tasks.base import Answer, ClassShares, LabelMap, Loss, Metric, NextToken, ScoreMap, Task
from topolearn.tasks.checks import check_fits
from topolearn.tasks.evaluation import Evaluation
from topolearn.tasks.table import TASKS, task_of

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
    "task_of",
]
