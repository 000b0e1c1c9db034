"""Finding out what a user's data are: task, size, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from topolearn.data.base import IGNORE, DataInfo
from topolearn.data.items import highest_label
from topolearn.errors import DataError
from topolearn.task_kinds import kind_of


def describe(
    dataset: Any,
    image: Tensor,
    target: Tensor,
    scan: Callable[[], Iterable[Tensor]],
    *,
    task: str | None,
    classes: int | None,
) -> DataInfo:
    """Describe a user's data.

    Args:
        dataset: The training set; its attributes ``classes`` and ``targets`` are used.
        image: (C, H, W), the first image.
        target: Its target.
        scan: Gives targets, for the number of classes where nothing else says it.
        task: The task, None to infer it from ``target``.
        classes: Number of classes, None to find out.

    Raises:
        DataError: A target that does not fit the task, or no way to tell the classes.
    """
    task = task or _task(target)
    kind = kind_of(task)
    if kind.target == "label" and (target.ndim or target.is_floating_point()):
        raise DataError(
            f"{task} needs one whole number per image, but the target is {tuple(target.shape)} of {target.dtype}"
        )
    if kind.is_dense and (target.shape != image.shape[1:] or target.is_floating_point()):
        raise DataError(
            f"{task} needs masks (H, W) = {tuple(image.shape[1:])} of labels, but the target is "
            f"{tuple(target.shape)} of {target.dtype}"
        )
    channels, height, width = image.shape
    base = dataset
    while isinstance(base, Subset):
        base = base.dataset
    names: tuple[str, ...] = ()
    if kind.is_binary:
        names = (kind.positive,)
        if bool((target == IGNORE).any()) and not bool((target == 1).any()):
            raise DataError(
                f"masks for {task} hold 1 where it is, 0 where not and {IGNORE} where that is not known, but the first"
                f" has {IGNORE} and no 1; divide by {IGNORE}"
            )
    elif not target.is_floating_point():
        names = _classes(base, scan, classes)
    return DataInfo(
        name=type(base).__name__,
        task=task,
        classes=names,
        size=(channels, height, width),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        ignore_index=IGNORE if kind.is_dense else None,
    )


def _task(target: Tensor) -> str:
    if target.is_floating_point():
        return "regression"
    match target.ndim:
        case 0:
            return "classification"
        case 2:
            return "segmentation"
    raise DataError(f"the targets are {tuple(target.shape)}; they must be one number or one mask (H, W) per image")


def _classes(dataset: Any, scan: Callable[[], Iterable[Tensor]], count: int | None) -> tuple[str, ...]:
    known = getattr(dataset, "classes", None)
    if isinstance(known, list | tuple) and known and count in (None, len(known)):
        return tuple(map(str, known))
    if count is None:
        count = _count_from_targets(dataset)
    if count is None:
        count = 1 + max(map(highest_label, scan()), default=-1)
    if count < 1:
        raise DataError("the targets hold no label; give the number of classes: load_data(…, classes=N)")
    return tuple(map(str, range(count)))


def _count_from_targets(dataset: Any) -> int | None:
    targets = getattr(dataset, "targets", None)
    if isinstance(dataset, TensorDataset):
        targets = dataset.tensors[-1]
    try:
        labels = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None  # no such attribute, or another meaning of the name
    if labels.is_floating_point() or not labels.numel():
        return None
    return 1 + highest_label(labels)
