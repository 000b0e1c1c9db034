"""The losses of the tasks, and how logits are brought to the size of the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from topolearn.tasks.base import Loss


def cross_entropy(ignored: int | None, label_smoothing: float = 0.0) -> Loss:
    """Cross entropy of (N, classes) or (N, classes, h, w) logits, a mean over what has a label.

    Args:
        ignored: The label that does not count; None for none.
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
        # A mean over no pixel at all would be 0 / 0.
        return total / (targets != ignored).sum().clamp(min=1)

    return loss_of_known


def binary_cross_entropy(ignored: int | None, weights: Callable[[Tensor, Tensor], Tensor] | None = None) -> Loss:
    """Binary cross entropy of (N, 1, h, w) logits, weighted by pixel, over the number of pixels that have a label.

    Args:
        ignored: The label that does not count; None for none.
        weights: (labels, known) -> weights, as :func:`balanced`; None where all that have a label weigh the same.
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
    """Weights of pixels with which the few edges of an image count as much as all the rest.

    As in HED (Xie & Tu 2015): an edge weighs the share of the others among the image's pixels, the
    others weigh the share of edges.

    Args:
        labels: (N, H, W), 1 for edge; float.
        known: (N, H, W), 1 where there is a label; float.

    Returns:
        (N, H, W), 0 where there is no label.
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
    """Logits (N, classes, h, w) at another size (H, W); corners stay where they are."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)
