"""Read many image files: all at once into memory, or one by one during training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from topolearn.data.images import ImageFiles
from topolearn.errors import DataError
from topolearn.samples.augment import Augment, Crop
from topolearn.samples.base import Data, DataInfo
from topolearn.samples.datasets import DatasetData
from topolearn.samples.tensors import TensorData, mean_and_std

_T = TypeVar("_T")
_R = TypeVar("_R")

IN_MEMORY = 2**30
"""Largest size of images and masks, in bytes, that is read once and kept in memory."""

SAMPLED = 500
"""Most training images, evenly spaced, from which mean and standard deviation are computed."""

NAMED = 3
"""How many files a message names if it is about more."""


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    Attributes:
        channels: 1 or 3: images are converted to it. None takes 1 if all are grey, else 3.
        size: (height, width) to which images are resized. None keeps their size.
        workers: Number of processes that read a set too large to be kept in memory.
        skip_bad: Whether to leave out and count files that cannot be used, instead of raising an error. Then every
            file is read in full before training.
    """

    channels: int | None = None
    size: tuple[int, int] | None = None
    workers: int = 0
    skip_bad: bool = False


def data_from(
    train: ImageFiles,
    val: ImageFiles,
    info: DataInfo,
    *,
    augment: Augment | Crop,
    workers: int,
    one_size: bool,
    sample: ImageFiles | None = None,
) -> Data:
    """Make Data from files. They are kept in memory if they have one size and are at most :data:`IN_MEMORY` bytes.

    Args:
        train: The training set.
        val: The validation set.
        info: The description. If it has no mean and standard deviation, those of the training images are computed.
        augment: Augmentation of training batches.
        workers: Number of processes that read files which are not kept in memory.
        one_size: Whether all images have the size of ``info``.
        sample: The training set at one size, for mean and standard deviation. None takes ``train``.
    """
    bytes_per_item = info.size[0] * info.size[1] * info.size[2] + (info.ignore_index is not None) * (
        info.size[1] * info.size[2]
    )
    if one_size and (len(train) + len(val)) * bytes_per_item <= IN_MEMORY:
        tensors = read_all(train, range(len(train)))
        info = _with_statistics(info, lambda: tensors[0][_spaced(len(train))])
        return TensorData(info, tensors, read_all(val, range(len(val))), augment=augment)
    info = _with_statistics(info, lambda: read_all(sample or train, _spaced(len(train)))[0])
    return DatasetData(train, val, info=info, augment=augment, workers=workers)


def read_all(files: ImageFiles, indices: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Read the images (N, C, H, W) uint8 and the targets of some files. All must have one size."""
    chosen = list(indices)
    image, target = files[chosen[0]]
    images = torch.empty((len(chosen), *image.shape), dtype=torch.uint8)
    masks = isinstance(target, Tensor)
    targets = torch.empty((len(chosen), *(target.shape if masks else ())), dtype=torch.uint8 if masks else torch.int64)

    def read(position: int) -> None:
        images[position], targets[position] = files[chosen[position]]

    in_threads(read, range(len(chosen)))
    return images, targets


def in_threads(work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Call ``work`` on each item in threads, and return the results in order. Images are decoded in parallel."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, items))


def left_out(faults: Sequence[str], total: int, what: str, *, skip_bad: bool) -> list[str]:
    """Return a note on the files that are left out, or an empty list.

    Args:
        faults: What is wrong with each file that cannot be used.
        total: Number of all files.
        what: What the files are.
        skip_bad: Whether files may be left out.

    Raises:
        DataError: Files cannot be used but may not be left out, or no file remains.
    """
    if not faults:
        return []
    count = f"{len(faults):,} of {total:,} {what}"
    if not skip_bad or len(faults) == total:
        more = f"; {count} cannot be used: fix them, or set 'skip_bad'" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}")
    listed = " | ".join(faults[:NAMED]) + (f" | and {len(faults) - NAMED:,} more" if len(faults) > NAMED else "")
    return [f"skipped {count}: {listed}"]


def _spaced(count: int) -> list[int]:
    return list(range(0, count, max(1, -(-count // SAMPLED))))


def _with_statistics(info: DataInfo, sample: Callable[[], Tensor]) -> DataInfo:
    if info.mean:
        return info
    mean, std = mean_and_std(sample())
    return replace(info, mean=mean, std=std)
