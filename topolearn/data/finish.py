"""The last steps to a batch, shared by sets in memory and sets read as they go."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import Tensor

from topolearn.data.augment import Augment
from topolearn.data.base import Batch, DataInfo
from topolearn.data.crop import Crop
from topolearn.data.seeds import generator


@final
class Finish:
    """What happens on the device: augment, scale to [0, 1], normalise.

    Args:
        info: Size, mean, standard deviation and the label to ignore.
        augment: Of training batches.
        scale: The pixel value that means 1.
    """

    def __init__(self, info: DataInfo, augment: Augment | Crop, scale: float = 255.0) -> None:
        augment.check(info)
        std = torch.tensor(info.std, dtype=torch.float64).view(-1, 1, 1)
        mean = torch.tensor(info.mean, dtype=torch.float64).view(-1, 1, 1)
        self._augment = augment
        self._border = info.ignore_index or 0
        self._fill = (scale * mean).round().float().view(-1)
        self._gain = (1 / (scale * std)).float()
        self._shift = (mean / std).float()

    def to(self, device: torch.device | str) -> Finish:
        """A copy for batches on ``device``."""
        other = copy.copy(self)
        for name in ("_fill", "_gain", "_shift"):
            setattr(other, name, getattr(self, name).to(device))
        return other

    def draw(self, count: int, seed: int, epoch: int, step: int) -> Tensor:
        """What :meth:`train` needs for the batch of ``count`` images at ``step``: (3 or 4, N) on the CPU."""
        return self._augment.draw(count, generator("augment", seed, epoch, step))

    def train(self, images: Tensor, targets: Tensor, draws: Tensor) -> Batch:
        """A training batch from raw images (N, C, H, W) and targets on the device."""
        return self(*self.augmented(images, targets, draws))

    def augmented(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Raw images and targets after augmentation alone; masks go along with their images."""
        if isinstance(self._augment, Crop):
            # Float images are normalised: their mean is 0.
            fill = torch.zeros_like(self._fill) if images.is_floating_point() else self._fill
            if targets.ndim == 3:
                targets = self._augment.masks(targets, draws, self._border)
            return self._augment.images(images, draws, fill), targets
        if targets.ndim == 3:
            targets = self._augment.apply(targets[:, None], draws, self._border)[:, 0]
        return self._augment.apply(images, draws), targets

    def __call__(self, images: Tensor, targets: Tensor) -> Batch:
        """A batch without augmentation; float images are taken to be normalised."""
        if not images.is_floating_point():
            images = images.to(torch.float32).mul_(self._gain).sub_(self._shift)
        return images, targets if targets.is_floating_point() else targets.long()
