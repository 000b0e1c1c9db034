"""The losses of the tasks, and the functions that resize logits to the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from topolearn.tasks.base import Loss


def cross_entropy(ignored: int | None, label_smoothing: float = 0.0) -> Loss:
    """Return the cross entropy of (N, classes) or (N, classes, h, w) logits, a mean over what has a label.

    Args:
        ignored: The label that does not count. None: all labels count.
        label_smoothing: Share of the probability that is spread over all classes.
    """
    if ignored is None:

        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(fit_to_labels(logits.float(), targets), targets, label_smoothing=label_smoothing)

        return loss

    def loss_of_known(logits: Tensor, targets: Tensor) -> Tensor:
        total = F.cross_entropy(
            fit_to_labels(logits.float(), targets),
            targets,
            ignore_index=ignored,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        # Without the clamp, a batch without labels would give 0 / 0.
        return total / (targets != ignored).sum().clamp(min=1)

    return loss_of_known


def binary_cross_entropy(ignored: int | None, weights: Callable[[Tensor, Tensor], Tensor] | None = None) -> Loss:
    """Return the binary cross entropy of (N, 1, h, w) logits: a weighted sum over the number of labelled pixels.

    Args:
        ignored: The label that does not count. None: all labels count.
        weights: Function of (labels, known) that returns the weight of each pixel, such as :func:`balanced`.
            None: all pixels that have a label weigh the same.
    """

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        scores = fit_to_labels(logits.float(), targets)[:, 0]
        known = (torch.ones_like(targets) if ignored is None else targets != ignored).float()
        labels = (targets == 1).float()
        weight = known if weights is None else weights(labels, known)
        total = F.binary_cross_entropy_with_logits(scores, labels, weight, reduction="sum")
        return total / known.sum().clamp(min=1)

    return loss


def balanced(labels: Tensor, known: Tensor) -> Tensor:
    """Return pixel weights with which the few edges of an image count as much as all the rest.

    As in HED (Xie & Tu 2015): the weight of an edge pixel is the share of other pixels in the image, and the
    weight of the others is the share of edge pixels.

    Args:
        labels: (N, H, W), 1 for an edge; float.
        known: (N, H, W), 1 for a pixel with a label; float.

    Returns:
        (N, H, W), 0 for pixels without a label.
    """
    edges = (labels * known).sum((1, 2), keepdim=True)
    share = edges / known.sum((1, 2), keepdim=True).clamp(min=1)
    return known * (labels * (1 - share) + (1 - labels) * share)


def fit_to_labels(logits: Tensor, targets: Tensor) -> Tensor:
    """Resize (N, classes, h, w) logits to (N, H, W) labels, bilinearly with aligned corners."""
    if logits.dim() != 4 or targets.dim() != 3:
        return logits
    return resized(logits, targets.shape[-2:])


def resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (N, classes, h, w) logits to (H, W), bilinearly with aligned corners."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)
