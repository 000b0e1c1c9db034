"""Finding out what a user's data are: task, size, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from topolearn.data.base import IGNORE, DataInfo
from topolearn.data.items import first_place, highest_label
from topolearn.errors import DataError
from topolearn.task_kinds import kind_of


def describe(
    dataset: Any,
    image: Tensor,
    target: Tensor,
    scan: Callable[[], Iterable[tuple[str, Tensor]]],
    *,
    task: str | None,
    classes: int | None,
) -> DataInfo:
    """Describe a user's data.

    Args:
        dataset: The training set; its attributes ``classes`` and ``targets`` are used.
        image: (C, H, W), the first image.
        target: Its target.
        scan: Gives targets with the names of their items, for the number of classes where nothing else says it.
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
    counted = ""
    if kind.is_binary:
        names = (kind.positive,)
        if bool((target == IGNORE).any()) and not bool((target == 1).any()):
            raise DataError(
                f"masks for {task} hold 1 where it is, 0 where not and {IGNORE} where that is not known, but the first"
                f" has {IGNORE} and no 1; divide by {IGNORE}"
            )
    elif not target.is_floating_point():
        names, counted = _classes(base, scan, classes)
    return DataInfo(
        name=type(base).__name__,
        task=task,
        classes=names,
        size=(channels, height, width),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        ignore_index=IGNORE if kind.is_dense else None,
        counted=counted,
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


def _classes(
    dataset: Any, scan: Callable[[], Iterable[tuple[str, Tensor]]], count: int | None
) -> tuple[tuple[str, ...], str]:
    """Names of the classes and, where they were counted, which item has the highest label."""
    known = getattr(dataset, "classes", None)
    if isinstance(known, list | tuple) and known and count in (None, len(known)):
        return tuple(map(str, known)), ""
    counted = ""
    if count is None:
        labels = _own_targets(dataset)
        if labels is None:
            found = ((highest_label(label), name) for name, label in scan())
            highest, name = max(found, key=itemgetter(0), default=(-1, ""))
        else:
            highest = highest_label(labels)
            name = f"item {first_place(labels == highest)}" if highest >= 0 else ""
        count, counted = 1 + highest, f"{name} has the label {highest}"
    if count < 1:
        raise DataError("the targets hold no label; give the number of classes: load_data(…, classes=N)")
    return tuple(map(str, range(count))), counted


def _own_targets(dataset: Any) -> Tensor | None:
    """All targets of a set that holds them; None for another."""
    targets = getattr(dataset, "targets", None)
    if isinstance(dataset, TensorDataset):
        targets = dataset.tensors[-1]
    try:
        labels = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        return None  # no such attribute, or another meaning of the name
    if labels.is_floating_point() or not labels.ndim or not labels.numel():
        return None
    return labels
