"""Evaluation of images with masks: on whole images, or in windows of the size used in training."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor

from topolearn.compiler import Network
from topolearn.data.for_graph import crop_size
from topolearn.errors import OptionError
from topolearn.recipes.train_options import TrainOptions
from topolearn.tasks.losses import resized

OVERLAP = 1 / 3
"""Smallest share of a window that the next one overlaps (as in PSPNet, Zhao et al. 2017)."""


def judged(net: Network, options: TrainOptions) -> Callable[[Any], Any]:
    """Return the network as it is evaluated: unchanged, or applied in windows."""
    if options.evaluation == "whole":
        return net
    size = crop_size(net.graph, options)
    return lambda images: sliding(net, images, size)


def sliding(net: Callable[[Tensor], Tensor], images: Tensor, size: tuple[int, int]) -> Tensor:
    """Apply a network in windows and return the logits of whole images, averaged over overlapping windows.

    Args:
        net: Returns logits (N, classes, h, w), which are resized to the window.
        images: (N, C, H, W). An image no larger than a window is one window.
        size: (height, width) of a window.

    Returns:
        (N, classes, H, W) float32.

    Raises:
        OptionError: The network returns something else.
    """
    rows, columns = (_starts(length, window) for length, window in zip(images.shape[-2:], size, strict=True))
    height, width = (min(length, window) for length, window in zip(images.shape[-2:], size, strict=True))
    total: Tensor | None = None
    for top, left in product(rows, columns):
        place = (..., slice(top, top + height), slice(left, left + width))
        logits = net(images[place])
        if not isinstance(logits, Tensor) or logits.dim() != 4:
            raise OptionError("'evaluation: sliding' needs a graph with one output, a map of logits; use 'whole'")
        if total is None:
            total = images.new_zeros((len(images), logits.shape[1], *images.shape[-2:]), dtype=torch.float32)
        total[place] += resized(logits.float(), (height, width))
    assert total is not None
    down, across = _coverage(rows, height, images.shape[-2]), _coverage(columns, width, images.shape[-1])
    return total / (down[:, None] * across).to(total.device)


def _starts(length: int, window: int) -> list[int]:
    """Return the starts of evenly spaced windows that cover ``length`` and overlap by :data:`OVERLAP` or more."""
    if length <= window:
        return [0]
    count = 1 + math.ceil((length - window) / max(1, int(window * (1 - OVERLAP))))
    return [round(number * (length - window) / (count - 1)) for number in range(count)]


def _coverage(starts: list[int], window: int, length: int) -> Tensor:
    """Return how many windows cover each of ``length`` pixels."""
    count = torch.zeros(length)
    for start in starts:
        count[start : start + window] += 1
    return count
