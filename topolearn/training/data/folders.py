"""Data from folders of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topolearn.errors import DataError
from topolearn.training.data.augment import Augment
from topolearn.training.data.base import IGNORE, Data, DataInfo
from topolearn.training.data.datasets import DatasetData
from topolearn.training.data.images import ImageFiles, open_image, read_labels
from topolearn.training.data.layout import IGNORED_NAMES, MaskFiles, find_files
from topolearn.training.data.statistics import mean_and_std
from topolearn.training.data.tensors import TensorData

_T = TypeVar("_T")

IN_MEMORY = 2**30
"""Bytes of images and masks up to which a folder is read once and kept."""

SAMPLED = 500
"""Training images, evenly spaced, that give mean and standard deviation."""


def load_folder(
    folder: Path,
    *,
    task: str | None = None,
    size: tuple[int, int] | None = None,
    classes: int | None = None,
    augment: Augment | None = None,
    val_split: str | None = None,
    workers: int = 0,
) -> Data:
    """Data from a folder of images.

    Args:
        folder: ``train/CLASS/*.png`` and ``val/CLASS/*.png``; ``CLASS/*.png``, of which a fifth is
            for validation; or, for segmentation, ``train/NAME.jpg`` with ``trainannot/NAME.png``,
            the same for ``val`` or ``test``, and where wanted ``classes.txt``, one name per line.
            Labels named ``void`` or ``unlabelled`` there, and labels without a name, are ignored.
        task: None for the one that the folder is laid out for.
        size: (height, width) to resize to; None for that of the images, which then must agree.
        classes: Number of classes of masks without a ``classes.txt``; None for all that occur.
        augment: None for none of images with classes, flips of images with masks.
        val_split: Name of the subfolder to validate on; None for ``val``, else ``test``.
        workers: Processes that read a folder too large to be kept in memory.

    Raises:
        DataError: Another layout, or a file that cannot be used.
    """
    files = find_files(folder, task, val_split)
    first = open_image(files.train[0][0])
    height, width = size or (first.height, first.width)
    shape = (1 if first.mode in ("1", "L") else 3, height, width)
    table = None
    if isinstance(files, MaskFiles):
        table, names = _label_table(files, classes)
    else:
        names = files.classes
        if classes not in (None, len(names)):
            raise DataError(f"the folder '{folder}' has {len(names)} classes, not {classes}")
    train = ImageFiles(files.train, shape, resize=size is not None, labels=table)
    val = ImageFiles(files.val, shape, resize=size is not None, labels=table)
    info = DataInfo(
        name=folder.resolve().name,
        task="classification" if table is None else "segmentation",
        classes=names,
        size=shape,
        mean=(),
        std=(),
        ignore_index=None if table is None else IGNORE,
    )
    if augment is None:
        augment = Augment(flip=table is not None)
    bytes_per_item = (shape[0] + (table is not None)) * height * width
    if (len(train) + len(val)) * bytes_per_item <= IN_MEMORY:
        tensors = read_all(train, range(len(train)))
        sample = tensors[0][_spaced(len(train))]
        return TensorData(_with_statistics(info, sample), tensors, read_all(val, range(len(val))), augment=augment)
    sample, _ = read_all(train, _spaced(len(train)))
    return DatasetData(train, val, info=_with_statistics(info, sample), augment=augment, workers=workers)


def read_all(files: ImageFiles, indices: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Images (N, C, H, W) uint8 and targets of some files."""
    chosen = list(indices)
    image, target = files[chosen[0]]
    images = torch.empty((len(chosen), *image.shape), dtype=torch.uint8)
    masks = isinstance(target, Tensor)
    targets = torch.empty((len(chosen), *(target.shape if masks else ())), dtype=torch.uint8 if masks else torch.int64)

    def read(position: int) -> None:
        images[position], targets[position] = files[chosen[position]]

    _in_threads(read, range(len(chosen)))
    return images, targets


def _label_table(files: MaskFiles, classes: int | None) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Label in the files -> class or IGNORE, for each of 256 labels; and the names of the classes."""
    names = dict(files.names)
    if not names:
        if classes is None:
            highest: list[int] = []
            _in_threads(lambda pair: highest.append(_highest(pair[1])), files.train)
            classes = 1 + max(highest)
        names = {label: str(label) for label in range(classes)}
    names = {label: name for label, name in sorted(names.items()) if name.casefold() not in IGNORED_NAMES}
    if not 0 < len(names) < IGNORE or classes not in (None, len(names)):
        raise DataError(
            f"the masks in '{files.train[0][1].parent}' have {len(names)} classes that are not ignored, but must have "
            f"{classes or f'1 to {IGNORE - 1}'}"
        )
    table = np.full(256, IGNORE, np.uint8)
    table[list(names)] = range(len(names))
    return table, tuple(names.values())


def _highest(path: Path) -> int:
    labels = read_labels(path)
    known = labels[labels != IGNORE]
    return int(known.max()) if known.size else -1


def _in_threads(work: Callable[[_T], object], items: Iterable[_T]) -> None:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, items):
            pass


def _spaced(count: int) -> list[int]:
    return list(range(0, count, max(1, -(-count // SAMPLED))))


def _with_statistics(info: DataInfo, sample: Tensor) -> DataInfo:
    mean, std = mean_and_std(sample)
    return replace(info, mean=mean, std=std)
