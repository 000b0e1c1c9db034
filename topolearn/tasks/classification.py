"""Classification: one class per image."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from topolearn.samples import DataInfo
from topolearn.tasks.base import ClassShares, Loss, Metric, Task
from topolearn.tasks.losses import cross_entropy


@final
class ClassificationTask(Task):
    """Classification: cross entropy of (N, classes) logits, and accuracy.

    A task that is not in the table uses these too, if its data have classes.
    """

    head: ClassVar[str] = "classifier"
    judged_by: ClassVar[tuple[str, ...]] = ("accuracy",)

    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """Return the cross entropy."""
        return cross_entropy(info.ignore_index, label_smoothing)

    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """Return ``accuracy``, or nothing if the data have no classes."""
        if not info.classes:
            return {}
        from torchmetrics.classification import MulticlassAccuracy

        classes = max(2, len(info.classes))
        return {"accuracy": MulticlassAccuracy(num_classes=classes, ignore_index=info.ignore_index, average="micro")}

    def answer(self, logits: Tensor, info: DataInfo) -> ClassShares:
        """Return the softmax of (classes,) logits."""
        return ClassShares(logits.softmax(0))
