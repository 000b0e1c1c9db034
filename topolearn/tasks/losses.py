"""The default losses, by task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from topolearn.data import DataInfo

Loss = Callable[[Any, Tensor], Tensor]


def default_loss(info: DataInfo, label_smoothing: float = 0.0) -> Loss:
    """The loss of (logits, targets) for the task of ``info``; maps of logits are resized to the labels first.

    Classification and segmentation: cross entropy of (N, classes) or (N, classes, h, w) logits.
    Saliency: binary cross entropy of (N, 1, h, w) logits. Edges: the same, with both classes of an
    image weighing alike (:func:`balanced`). A pixel without a label does not count. All in float32, the
    resizing too.
    """
    if info.task == "saliency":
        return _of_one_channel(info, lambda labels, known: known)
    if info.task == "edges":
        return _of_one_channel(info, balanced)
    if info.ignore_index is None:

        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(fit_to_labels(logits.float(), targets), targets, label_smoothing=label_smoothing)

        return loss

    ignored = info.ignore_index

    def loss_of_known(logits: Tensor, targets: Tensor) -> Tensor:
        total = F.cross_entropy(
            fit_to_labels(logits.float(), targets),
            targets,
            ignore_index=ignored,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        # A mean over no pixel at all would be 0 / 0.
        return total / (targets != ignored).sum().clamp(min=1)

    return loss_of_known


def fit_to_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Resize (N, classes, h, w) logits to (N, H, W) labels, bilinearly with aligned corners."""
    if logits.dim() != 4 or targets.dim() != 3:
        return logits
    return resized(logits, targets.shape[-2:])


def resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits (N, classes, h, w) at another size (H, W); corners stay where they are."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)


def balanced(labels: Tensor, known: Tensor) -> Tensor:
    """Weights of pixels with which the few edges of an image count as much as all the rest.

    As in HED (Xie & Tu 2015): an edge weighs the share of the others among the image's pixels, the
    others weigh the share of edges.

    Args:
        labels: (N, H, W), 1 for edge; float.
        known: (N, H, W), 1 where there is a label; float.
    """
    edges = (labels * known).sum((1, 2), keepdim=True)
    share = edges / known.sum((1, 2), keepdim=True).clamp(min=1)
    return known * (labels * (1 - share) + (1 - labels) * share)


def _of_one_channel(info: DataInfo, weights: Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """Binary cross entropy with a weight per pixel, over the number of pixels that have a label."""
    ignored = info.ignore_index

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        scores = fit_to_labels(logits.float(), targets)[:, 0]
        known = (torch.ones_like(targets) if ignored is None else targets != ignored).float()
        labels = (targets == 1).float()
        total = F.binary_cross_entropy_with_logits(scores, labels, weights(labels, known), reduction="sum")
        return total / known.sum().clamp(min=1)

    return loss
