"""Tasks with a target for every pixel: segmentation, saliency and edge detection."""

from __future__ import annotations

from typing import ClassVar, final

from torch import Tensor

from topolearn.samples import DataInfo
from topolearn.tasks.base import LabelMap, Loss, Metric, ScoreMap, Task
from topolearn.tasks.losses import balanced, binary_cross_entropy, cross_entropy


@final
class SegmentationTask(Task):
    """Segmentation, one class per pixel: cross entropy of (N, classes, h, w) logits over the labelled pixels."""

    head: ClassVar[str] = "segmentation_head"
    judged_by: ClassVar[tuple[str, ...]] = ("miou", "accuracy")

    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """Return the cross entropy, a mean over the pixels that have a label."""
        return cross_entropy(info.ignore_index, label_smoothing)

    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """Return ``miou`` (mean over classes) and pixel ``accuracy``, or nothing if the data have no classes."""
        if not info.classes:
            return {}
        from topolearn.tasks.pixels import Segmentation

        return {"segmentation": Segmentation(info.classes, info.ignore_index)}

    def answer(self, logits: Tensor, info: DataInfo) -> LabelMap:
        """Return the class with the largest logit at each pixel, from (classes, H, W) logits."""
        return LabelMap(logits.max(0).indices)


@final
class SaliencyTask(Task):
    """Saliency, salient or not per pixel: binary cross entropy of (N, 1, h, w) logits."""

    head: ClassVar[str] = "segmentation_head"
    judged_by: ClassVar[tuple[str, ...]] = ("f_beta", "mae")

    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """Return the binary cross entropy, a mean over the pixels that have a label."""
        return binary_cross_entropy(info.ignore_index)

    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """Return ``f_beta`` and ``mae``."""
        from topolearn.tasks.pixels import Saliency

        return {"saliency": Saliency(info.ignore_index)}

    def answer(self, logits: Tensor, info: DataInfo) -> ScoreMap:
        """The sigmoid of (1, H, W) logits."""
        return ScoreMap(info.kind.positive, logits[0].sigmoid())


@final
class EdgeDetectionTask(Task):
    """Edge detection, edge or not per pixel: binary cross entropy of (N, 1, h, w) logits that balances the two."""

    head: ClassVar[str] = "segmentation_head"
    judged_by: ClassVar[tuple[str, ...]] = ("ods", "ois")

    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """Return the binary cross entropy in which the edges of an image weigh as much as all the rest."""
        return binary_cross_entropy(info.ignore_index, balanced)

    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """Return ``ods`` and ``ois``."""
        from topolearn.tasks.edge_detection import EdgeDetection

        return {"edges": EdgeDetection(info.ignore_index)}

    def answer(self, logits: Tensor, info: DataInfo) -> ScoreMap:
        """The sigmoid of (1, H, W) logits."""
        return ScoreMap(info.kind.positive, logits[0].sigmoid())
