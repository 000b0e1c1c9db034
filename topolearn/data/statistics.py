"""Mean and standard deviation of images."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 2**22


def mean_and_std(images: Tensor, scale: float = 255) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, rounded to four digits; the sums are over integers, so any machine gets the same.

    Args:
        images: (N, C, H, W) uint8.
        scale: The pixel value that means 1.

    Returns:
        Means and standard deviations of pixel values in [0, 1]; a constant channel has the standard
        deviation 1.
    """
    total = torch.zeros(images.shape[1], dtype=torch.int64)
    squares = torch.zeros_like(total)
    chunk = max(1, _CHUNK // images[0].numel())
    for start in range(0, len(images), chunk):
        values = images[start : start + chunk].to(torch.int64)
        total += values.sum((0, 2, 3))
        squares += values.square().sum((0, 2, 3))
    count = images.numel() // images.shape[1]
    means, stds = [], []
    for first, second in zip(total.tolist(), squares.tolist(), strict=True):
        variance = (second * count - first * first) / count**2
        means.append(round(first / count / scale, 4))
        stds.append(round(variance**0.5 / scale, 4) or 1.0)
    return tuple(means), tuple(stds)
