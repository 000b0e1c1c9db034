"""Data that fits in memory: uint8 tensors on the device. Batches are gathered and augmented there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from topolearn.errors import DataError
from topolearn.samples.augment import Augment, Crop, Finish
from topolearn.samples.base import Batch, DataInfo, Part, full_batches, picked, sent, shuffled
from topolearn.samples.image_data import ImageData


@final
class TensorData(ImageData):
    """Data from images and targets that are tensors on the device.

    Args:
        info: The description of the data.
        train: Images (N, C, H, W) uint8, and targets: (N,) int64 classes, or (N, H, W) uint8 masks.
        val: The same for validation.
        augment: Augmentation of training batches. None leaves it out.
        scale: The pixel value that means 1.

    Raises:
        DataError: A set is empty, or its tensors have other types or shapes.
    """

    mid_epoch_resume = True

    def __init__(
        self,
        info: DataInfo,
        train: tuple[Tensor, Tensor],
        val: tuple[Tensor, Tensor],
        *,
        augment: Augment | Crop | None = None,
        scale: float = 255.0,
    ) -> None:
        for split, (images, targets) in (("training", train), ("validation", val)):
            _check(info, images, targets, f"the {split} set of '{info.name}'")
        self.info = info
        self.train_size = len(train[0])
        self.val_size = len(val[0])
        self._train = train
        self._val = val
        self._finish = Finish(info, augment or Augment(), scale)
        self._part = Part()

    def steps(self, batch_size: int) -> int:
        """Return the number of training batches per epoch; see :func:`full_batches`."""
        return full_batches(self.train_size, batch_size)

    def train_batches(self, batch_size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """See :meth:`Data.train_batches`."""
        images, targets = self._train
        for step, chosen in shuffled(self.train_size, batch_size, seed=seed, epoch=epoch, first=first):
            draws = self._finish.draw(len(chosen), seed, epoch, step)
            # One transfer per batch for all drawn numbers.
            drawn = sent(torch.cat([chosen[None], draws])[:, self._part.of(len(chosen))], images.device)
            yield self._finish.train(images[drawn[0]], targets[drawn[0]], drawn[1:])

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """See :meth:`Data.val_batches`."""
        images, targets = self._val
        for start in range(0, self.val_size, batch_size):
            mine = self._part.of(min(batch_size, self.val_size - start))
            if mine.stop > mine.start:
                chosen = slice(start + mine.start, start + mine.stop)
                yield self._finish(images[chosen], targets[chosen])

    def to(self, device: torch.device | str) -> TensorData:
        """Return the same data with all tensors on ``device``."""
        other = copy.copy(self)
        other._train = (self._train[0].to(device), self._train[1].to(device))
        other._val = (self._val[0].to(device), self._val[1].to(device))
        other._finish = self._finish.to(device)
        return other

    def first_images(self, count: int) -> TensorData:
        """See :meth:`Data.first_images`."""
        chosen = picked(self.info, self.train_size, count).to(self._train[0].device)
        other = copy.copy(self)
        other._train = (self._train[0][chosen], self._train[1][chosen])
        other.train_size = count
        return other


def _check(info: DataInfo, images: Tensor, targets: Tensor, what: str) -> None:
    if not len(images):
        raise DataError(f"{what} is empty")
    if images.dtype != torch.uint8 or images.shape[1:] != info.size:
        raise DataError(
            f"{what} has images {tuple(images.shape)} of {images.dtype}, but needs (N, C, H, W) = "
            f"(N, {', '.join(map(str, info.size))}) of torch.uint8"
        )
    shape, dtype = (len(images),), torch.int64
    if info.kind.is_dense:
        shape, dtype = (len(images), *info.size[1:]), torch.uint8
    if targets.shape != shape or targets.dtype != dtype:
        raise DataError(
            f"{what} has targets {tuple(targets.shape)} of {targets.dtype}, but needs {shape} of {dtype} "
            f"for {info.task}"
        )


_CHUNK = 2**22


def mean_and_std(images: Tensor, scale: float = 255) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, rounded to four digits.

    The sums are over integers, so every machine gets the same result.

    Args:
        images: (N, C, H, W) uint8.
        scale: The pixel value that means 1.

    Returns:
        Means and standard deviations of pixel values in [0, 1]. A constant channel has the standard deviation 1.
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
