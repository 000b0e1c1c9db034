"""Tasks with a target for every pixel: segmentation, saliency and edge detection."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from topolearn.samples import DataInfo
from topolearn.tasks.base import LabelMap, Loss, Metric, ScoreMap, Task
from topolearn.tasks.losses import balanced, binary_cross_entropy, cross_entropy


@final
class SegmentationTask(Task):
    """One class per pixel: cross entropy of (N, classes, h, w) logits over the pixels that have a label."""

    head: ClassVar[str] = "segmentation_head"

    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """Cross entropy, a mean over the pixels that have a label."""
        return cross_entropy(info.ignore_index, label_smoothing)

    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """``miou`` (mean over classes) and ``accuracy`` of pixels; nothing for data without classes."""
        if not info.classes:
            return {}
        from topolearn.tasks.pixels import Segmentation

        return {"segmentation": Segmentation(info.classes, info.ignore_index)}

    def answer(self, logits: Tensor, info: DataInfo) -> LabelMap:
        """The class with the largest of (classes, H, W) logits."""
        return LabelMap(logits.max(0).indices)


@final
class SaliencyTask(Task):
    """Salient or not, per pixel: binary cross entropy of (N, 1, h, w) logits."""

    head: ClassVar[str] = "segmentation_head"

    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """Binary cross entropy, a mean over the pixels that have a label."""
        return binary_cross_entropy(info.ignore_index)

    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """``f_beta`` and ``mae``."""
        from topolearn.tasks.pixels import Saliency

        return {"saliency": Saliency(info.ignore_index)}

    def answer(self, logits: Tensor, info: DataInfo) -> ScoreMap:
        """The sigmoid of (1, H, W) logits."""
        return ScoreMap(info.kind.positive, logits[0].sigmoid())


@final
class EdgeDetectionTask(Task):
    """Edge or not, per pixel: binary cross entropy of (N, 1, h, w) logits, in which both weigh alike."""

    head: ClassVar[str] = "segmentation_head"

    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """Binary cross entropy in which the edges of an image weigh as much as all the rest."""
        return binary_cross_entropy(info.ignore_index, balanced)

    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """``ods`` and ``ois``."""
        from topolearn.tasks.edge_detection import EdgeDetection

        return {"edges": EdgeDetection(info.ignore_index)}

    def answer(self, logits: Tensor, info: DataInfo) -> ScoreMap:
        """The sigmoid of (1, H, W) logits."""
        return ScoreMap(info.kind.positive, logits[0].sigmoid())
