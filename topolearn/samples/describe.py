"""Finding out what a user's data are: task, size, classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from topolearn.errors import DataError
from topolearn.samples.base import BLACK_AND_WHITE, IGNORE, DataInfo
from topolearn.samples.census import Census, count_labels
from topolearn.samples.items import first_place
from topolearn.task_kinds import TaskKind, kind_of

SCANNED = 2000
"""Targets that are looked at where only they can tell the number of classes, or what 255 means."""


@dataclass(frozen=True)
class Classes:
    """The classes of a user's data; none of targets that are no labels.

    Attributes:
        names: In the order of the labels; of a binary task, what is not there comes first.
        counted: Where they were counted from labels: which item has the highest one.
        census: See :class:`Description`.
        white_is_one: See :class:`Description`.
    """

    names: tuple[str, ...] = ()
    counted: str = ""
    census: Census | None = None
    white_is_one: bool = False


@dataclass(frozen=True)
class Description:
    """What a user's data are.

    Attributes:
        info: The description.
        census: Which labels occur so far; None for targets that are no classes.
        white_is_one: Whether the masks hold 0 and 255 alone, for two classes.
    """

    info: DataInfo
    census: Census | None
    white_is_one: bool


def describe(
    dataset: Any,
    image: Tensor,
    target: Tensor,
    targets: Callable[[int | None], Iterable[tuple[str, Tensor]]],
    *,
    is_first: bool,
    task: str | None,
    classes: int | None,
) -> Description:
    """Describe a user's data.

    Args:
        dataset: The training set; its attributes ``classes`` and ``targets`` are used.
        image: (C, H, W), an image.
        target: Its target.
        targets: Gives so many training targets, each with the name of its item; all that can be had for None.
        is_first: Whether ``target`` is that of the set's first item.
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
    found = Classes()
    if not target.is_floating_point():
        unit = "pixels" if kind.is_dense else "images"
        found = find_classes(dataset, target, targets, kind, unit, is_first=is_first, count=classes)
    info = DataInfo(
        name=type(innermost(dataset)).__name__,
        task=task,
        classes=found.names[1:] if kind.is_binary else found.names,
        size=(channels, height, width),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        ignore_index=IGNORE if kind.is_dense else None,
        counted=found.counted,
    )
    return Description(info, found.census, found.white_is_one)


def find_classes(
    dataset: Any,
    target: Tensor,
    targets: Callable[[int | None], Iterable[tuple[str, Tensor]]],
    kind: TaskKind,
    unit: str,
    *,
    is_first: bool,
    count: int | None,
) -> Classes:
    """Find the classes of a user's data.

    Args:
        dataset: See :func:`describe`.
        target: A label, or a mask of labels.
        targets: See :func:`describe`.
        kind: What the targets of the task are.
        unit: What a label is of, in the plural.
        is_first: See :func:`describe`.
        count: Number of classes, None to find out.

    Raises:
        DataError: No way to tell the classes.
    """
    declared = (f"not {kind.positive}", kind.positive) if kind.is_binary else _declared_names(dataset, count)
    names = declared or tuple(map(str, range(count or 0)))
    found, are_all, place = _labels(dataset, target if is_first else None, targets, target.ndim, bool(names))
    white_is_one = kind.is_dense and set(found) == BLACK_AND_WHITE and len(names) in (0, 2)
    if white_is_one:
        found = {0: found[0], 1: found[IGNORE]}
    counted = ""
    if not names:
        names = _numbers(found, kind)
        counted = "" if white_is_one else f"{place} has the label {len(names) - 1}"
    census = None
    if kind.is_dense or kind.target == "label":
        census = Census(
            names,
            unit,
            found,
            are_declared=bool(declared),
            is_whole=are_all,
            everything=lambda: (each for _, each in targets(None)),
        )
    return Classes(names, counted, census, white_is_one)


def innermost(dataset: Any) -> Any:
    """The set that Subsets were taken from."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _task(target: Tensor) -> str:
    if target.is_floating_point():
        return "regression"
    match target.ndim:
        case 0:
            return "classification"
        case 2:
            return "segmentation"
    raise DataError(f"the targets are {tuple(target.shape)}; they must be one number or one mask (H, W) per image")


def _declared_names(dataset: Any, count: int | None) -> tuple[str, ...]:
    """The classes as the dataset names them; none where it does not, or where there are ``count`` instead."""
    known = getattr(innermost(dataset), "classes", None)
    if isinstance(known, list | tuple) and count in (None, len(known)):
        return tuple(map(str, known))
    return ()


def _numbers(found: Mapping[int, int], kind: TaskKind) -> tuple[str, ...]:
    """Names for the classes up to the highest label, where nothing else says what they are."""
    highest = max((label for label in found if not (kind.is_dense and label == IGNORE)), default=-1)
    if highest < 0:
        raise DataError("the targets hold no label; give the number of classes: load_data(…, classes=N)")
    return tuple(map(str, range(highest + 1)))


def _labels(
    dataset: Any,
    first: Tensor | None,
    targets: Callable[[int | None], Iterable[tuple[str, Tensor]]],
    ndim: int,
    are_named: bool,
) -> tuple[Mapping[int, int], bool, str]:
    """Label -> how often it occurs, as far as that is known before training; whether in all; who has the highest.

    Args:
        dataset: May declare its targets.
        first: The target of its first item; None where that is not known.
        targets: As in :func:`describe`.
        ndim: Of a target; 2 for masks.
        are_named: Whether the labels need not tell the number of classes. Masks still tell what 255 means in them.
    """
    declared = _declared(dataset, first, ndim)
    if declared is not None:
        counts = count_labels(declared)
        highest = _highest(counts, ndim)
        return (
            counts,
            True,
            f"item {first_place((declared == highest).flatten(1).any(1) if ndim else declared == highest)}",
        )
    found: Counter[int] = Counter()
    seen, top, place = 0, -1, ""
    if ndim or not are_named:
        for name, target in targets(SCANNED):
            counts = count_labels(target)
            found.update(counts)
            seen += 1
            if (highest := _highest(counts, ndim)) > top:
                top, place = highest, name
            if are_named and not set(found) <= BLACK_AND_WHITE:
                break
    return found, 0 < len(dataset) <= seen, place


def _highest(counts: Mapping[int, int], ndim: int) -> int:
    """The highest label, in masks without the ignored one; -1 for none."""
    return max((label for label in counts if not (ndim and label == IGNORE)), default=-1)


def _declared(dataset: Any, first: Tensor | None, ndim: int) -> Tensor | None:
    """The targets of all items, where the dataset has them as an attribute; None where the items have others."""
    if isinstance(dataset, Subset):
        whole = _declared(dataset.dataset, None, ndim)
        labels = None if whole is None else whole[torch.as_tensor(dataset.indices)]
    else:
        targets = dataset.tensors[-1] if isinstance(dataset, TensorDataset) else getattr(dataset, "targets", None)
        if getattr(dataset, "target_transform", None) is not None:
            return None
        try:
            labels = torch.as_tensor(targets)
        except (TypeError, ValueError, RuntimeError):
            return None  # no such attribute, or another meaning of the name
    if labels is None or labels.is_floating_point() or labels.ndim != ndim + 1 or not len(labels):
        return None
    return labels if first is None or torch.equal(labels[0].long(), first.long()) else None
