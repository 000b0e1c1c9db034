"""Reading many image files: all at once into memory, or as training goes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from topolearn.data.folder_layout import NAMED
from topolearn.data.images import ImageFiles
from topolearn.errors import DataError
from topolearn.samples.augment import Augment, Crop
from topolearn.samples.base import Data, DataInfo
from topolearn.samples.datasets import DatasetData
from topolearn.samples.tensors import TensorData, mean_and_std

_T = TypeVar("_T")
_R = TypeVar("_R")

IN_MEMORY = 2**30
"""Bytes of images and masks up to which a folder is read once and kept."""

SAMPLED = 500
"""Training images, evenly spaced, that give mean and standard deviation."""


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    Attributes:
        channels: 1 or 3, to which images are converted; None for 1 if all are grey, else 3.
        size: (height, width) to which images are resized; None for their own.
        workers: Processes that read a set too large to be kept in memory.
        skip_bad: Whether files that cannot be used are left out, and counted, instead of an error.
            Every file is read in full for that before training.
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
    """Data of files, kept in memory where all have one size and are few enough.

    Args:
        train: The training set.
        val: The validation set.
        info: What they are; without mean and standard deviation, those of the training images are taken.
        augment: Of the training batches.
        workers: Processes that read what is not kept in memory.
        one_size: Whether all images have the size of ``info``.
        sample: The training set at one size, for mean and standard deviation; None: ``train``.
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
    """Images (N, C, H, W) uint8 and targets of some files, which have one size."""
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
    """What ``work`` gives for each item, in order; decoding of images runs beside itself."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, items))


def left_out(faults: Sequence[str], total: int, what: str, *, skip_bad: bool) -> list[str]:
    """A note on the files that are left out, or none.

    Args:
        faults: What is wrong with each file that cannot be used.
        total: Of how many.
        what: What they are.
        skip_bad: Whether they may be left out.

    Raises:
        DataError: They may not, or none is left.
    """
    if not faults:
        return []
    count = f"{len(faults):,} of {total:,} {what}"
    if not skip_bad or len(faults) == total:
        more = f"; {count} cannot be used: mend them, or set 'skip_bad'" if len(faults) > 1 else ""
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
