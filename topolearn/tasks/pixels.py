"""Metrics over all pixels of a set: the confusion matrix for segmentation, precision and recall for saliency."""

from __future__ import annotations

import warnings
from typing import Any, final

import torch
from torch import Tensor
from torchmetrics import Metric

SHADES = 256
"""Saliency scores are compared as 8-bit grey values, as usual in the field."""

BETA_SQUARED = 0.3
"""β² in the F-measure of saliency: the weight of recall against precision (Achanta et al. 2009)."""


@final
class Segmentation(Metric):
    """``miou`` and pixel ``accuracy``, from one confusion matrix over the whole set.

    mIoU is the mean over the classes that occur in the labels or the predictions.

    Args:
        classes: Names of the classes.
        ignored: The label that does not count. None: all labels count.

    Attributes:
        confusion: (classes, classes) pixels by label, then by prediction.
        per_class: After ``compute``, one row per class.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: tuple[str, ...], ignored: int | None) -> None:
        super().__init__()
        self.classes = classes
        self.ignored = ignored
        self.per_class: list[dict[str, Any]] = []
        size = len(classes)
        self.add_state("confusion", torch.zeros(size, size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch: (N, classes, H, W) logits, (N, H, W) labels."""
        known = (targets >= 0) & (targets < len(self.classes))
        if self.ignored is not None:
            known &= targets != self.ignored
        # On a CPU, over a dimension that is not the last, `max` takes a fifth of the time of `argmax`.
        pairs = targets * len(self.classes) + logits.max(1).indices
        # Pixels that do not count go into an extra bin: selecting the others would wait for the GPU.
        bins = self.confusion.numel()
        pairs = torch.where(known, pairs, bins)
        self.confusion += torch.bincount(pairs.view(-1), minlength=bins + 1)[:bins].view_as(self.confusion)

    def compute(self) -> dict[str, float]:
        """Return ``miou`` and ``accuracy``; both are 0, with a warning, if no pixel has a label."""
        counts = self.confusion.double().cpu()
        hits, labelled = counts.diag(), counts.sum(1)
        if not bool(labelled.any()):
            warnings.warn("no pixel of the validation masks has a label, so mIoU has no meaning", stacklevel=2)
        union = labelled + counts.sum(0) - hits
        self.per_class = [
            {
                "class": name,
                "iou": hit / either if either else None,
                "accuracy": hit / there if there else None,
                "pixels": int(there),
            }
            for name, hit, there, either in zip(
                self.classes, hits.tolist(), labelled.tolist(), union.tolist(), strict=True
            )
        ]
        ious = [row["iou"] for row in self.per_class if row["iou"] is not None]
        return {
            "miou": sum(ious) / max(1, len(ious)),
            "accuracy": float(hits.sum() / labelled.sum().clamp(min=1)),
        }


@final
class Saliency(Metric):
    """``f_beta`` at the best of 256 thresholds for the set, and the mean absolute error ``mae``.

    At each threshold, precision and recall are means over the images that have a salient pixel (an image
    without one has no recall). F_β = (1 + β²) P R / (β² P + R), β² = 0.3. The mean absolute
    error uses the scores before rounding, and is a mean over all images.

    Args:
        ignored: The label that does not count. None: all labels count.
    """

    full_state_update = False
    precision: Tensor
    recall: Tensor
    salient: Tensor
    error: Tensor
    images: Tensor

    def __init__(self, ignored: int | None) -> None:
        super().__init__()
        self.ignored = ignored
        for name, size in (("precision", SHADES), ("recall", SHADES), ("salient", 1), ("error", 1), ("images", 1)):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch: (N, 1, H, W) logits, (N, H, W) labels 0 and 1."""
        for scores, labels in zip(logits[:, 0].sigmoid(), targets, strict=True):
            known = labels != -1 if self.ignored is None else labels != self.ignored
            score, truth = scores[known], labels[known] == 1
            self.images += 1
            self.error += (score - truth.float()).abs().double().sum() / max(1, len(score))
            shade = (score * (SHADES - 1)).round().long()
            # At threshold t, pixels of shade t and above count as salient.
            hits = torch.bincount(shade[truth], minlength=SHADES).flip(0).cumsum(0).flip(0).double()
            called = torch.bincount(shade, minlength=SHADES).flip(0).cumsum(0).flip(0).double()
            if bool(truth.any()):
                self.salient += 1
                self.precision += hits / called.clamp(min=1)
                self.recall += hits / truth.sum()

    def compute(self) -> dict[str, float]:
        """Return ``f_beta`` and ``mae``."""
        precision, recall = (each.cpu() / self.salient.cpu().clamp(min=1) for each in (self.precision, self.recall))
        divisor = (BETA_SQUARED * precision + recall).clamp(min=1e-12)
        f_beta = (1 + BETA_SQUARED) * precision * recall / divisor
        return {"f_beta": float(f_beta.max()), "mae": float(self.error / self.images.clamp(min=1))}
