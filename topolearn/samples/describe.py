"""Find out what your own data are: task, size, classes."""

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
from topolearn.samples.items import as_labels, channels_last, check_start, first_place
from topolearn.samples.white import check_white, may_differ, tells
from topolearn.task_kinds import TaskKind, kind_of

Targets = Callable[[int | None], Iterable[tuple[str, Tensor]]]
"""Gives the requested number of targets, each with the name of its item. None asks for all that are available."""

SCANNED = 2000
"""Most targets to look at if only they tell the number of classes or what 255 means."""


@dataclass(frozen=True)
class Classes:
    """The classes of your own data. Empty if the targets are not labels.

    Attributes:
        names: Names in the order of the labels. For a binary task the negative class comes first.
        counted: If the classes were counted from labels: the item with the highest label.
        census: Counts which labels occur. None if the targets are not classes.
        white_is_one: Whether the masks hold only 0 and 255, for two classes.
    """

    names: tuple[str, ...] = ()
    counted: str = ""
    census: Census | None = None
    white_is_one: bool = False


def describe(
    dataset: Any,
    image: Tensor,
    target: Tensor,
    targets: Targets,
    val_targets: Targets,
    *,
    is_first: bool,
    task: str | None,
    classes: int | None,
) -> tuple[DataInfo, Classes]:
    """Describe your own image data: task, classes, size.

    Args:
        dataset: The training set. Its attributes ``classes`` and ``targets`` are used.
        image: (C, H, W), an image.
        target: The target of the image.
        targets: Gives the requested number of training targets, each with the name of its item. None asks for all
            that are available.
        val_targets: The same for validation.
        is_first: Whether ``target`` belongs to the set's first item.
        task: The task. None infers it from ``target``.
        classes: Number of classes. None finds it out.

    Raises:
        DataError: A target does not fit the task, or the classes cannot be found out.
    """
    task = task or _task(target)
    kind = kind_of(task)
    if kind.target == "label" and (target.ndim or target.is_floating_point()):
        raise DataError(
            f"{task} needs one whole number per image, but the target is {tuple(target.shape)} of {target.dtype};"
            f" {_way_out(target, 0)}"
        )
    if kind.is_dense and target.shape == image.shape[:2] != image.shape[1:]:
        raise DataError(f"an image {channels_last(image.shape)}")
    if kind.is_dense and (target.shape != image.shape[1:] or target.is_floating_point()):
        raise DataError(
            f"{task} needs masks (H, W) = {tuple(image.shape[1:])} of labels, but the target is "
            f"{tuple(target.shape)} of {target.dtype}; {_way_out(target, 2)}"
        )
    channels, height, width = image.shape
    found = Classes()
    if not target.is_floating_point():
        unit = "pixels" if kind.is_dense else "images"
        found = find_classes(dataset, target, targets, kind, unit, is_first=is_first, count=classes, val=val_targets)
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
    return info, found


def find_classes(
    dataset: Any,
    target: Tensor,
    targets: Targets,
    kind: TaskKind,
    unit: str,
    *,
    is_first: bool,
    count: int | None,
    val: Targets | None = None,
) -> Classes:
    """Find the classes of your own data.

    Args:
        dataset: See :func:`describe`.
        target: A label, or a mask of labels.
        targets: See :func:`describe`.
        kind: The kind of task.
        unit: What a label belongs to, in the plural.
        is_first: See :func:`describe`.
        count: Number of classes. None finds it out.
        val: See ``val_targets`` of :func:`describe`. Needed for masks.

    Raises:
        DataError: The classes cannot be found out, or 255 seems to mean two things in the masks.
    """
    declared = (f"not {kind.positive}", kind.positive) if kind.is_binary else _declared_names(dataset, count)
    names = declared or tuple(map(str, range(count or 0)))
    scan = _scan(dataset, target if is_first else None, targets, target.ndim, len(names))
    found = scan.found
    white_is_one = kind.is_dense and len(names) in (0, 2) and _white_is_one(scan, val)
    if white_is_one:
        found = {label: found[value] for label, value in enumerate((0, IGNORE)) if value in found}
    counted = ""
    if not names:
        names = _numbers(found, kind)
        counted = "" if white_is_one else f"{scan.place} has the label {len(names) - 1}"
    census = None
    if kind.is_dense or kind.target == "label":
        census = Census(
            names,
            unit,
            found,
            are_declared=bool(declared),
            is_whole=scan.is_whole,
            everything=lambda: (each for _, each in targets(None)),
        )
    return Classes(names, counted, census, white_is_one)


def innermost(dataset: Any) -> Any:
    """Return the set from which Subsets were taken."""
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
    code = as_labels(target, 0) or as_labels(target, 2)
    raise DataError(
        f"the targets are {tuple(target.shape)}; they must be one number or one mask (H, W) per image"
        f"{code and f'; use {code}'}"
    )


def _way_out(target: Tensor, axes: int) -> str:
    """Return what to do about a target that is not a label with this number of axes: 0, or 2 for a mask."""
    if code := as_labels(target, axes):
        return f"labels are whole numbers, one per {'pixel' if axes else 'image'}; use {code}"
    if axes == 0 and target.ndim == 2:
        return "for masks, write 'task: segmentation' into the graph"
    if axes == 2 and target.ndim == 0:
        return "for one label per image, write 'task: classification' into the graph"
    return "give labels as whole numbers, not scaled, or write a task of your own into the graph and give a 'loss'"


def _declared_names(dataset: Any, count: int | None) -> tuple[str, ...]:
    """Return the class names of the dataset. Empty if it has none, or if their number is not ``count``."""
    known = getattr(innermost(dataset), "classes", None)
    if isinstance(known, list | tuple) and count in (None, len(known)):
        return tuple(map(str, known))
    return ()


def _numbers(found: Mapping[int, int], kind: TaskKind) -> tuple[str, ...]:
    """Return numbers as names of the classes, up to the highest label, for data without class names."""
    highest = _highest(found, masks=kind.is_dense)
    if highest < 0:
        raise DataError("the targets hold no label; give the number of classes: load_data(…, classes=N)")
    return tuple(map(str, range(highest + 1)))


@dataclass
class _Scan:
    """The labels that are known before training.

    Attributes:
        found: Label -> how often it occurs.
        is_whole: Whether all training targets are counted.
        place: The item with the highest label.
        masks: The name of each mask that was looked at, and its values.
    """

    found: Mapping[int, int]
    is_whole: bool
    place: str
    masks: list[tuple[str, Mapping[int, int]]]


def _scan(dataset: Any, first: Tensor | None, targets: Targets, ndim: int, named: int) -> _Scan:
    """Count the labels that are known before training.

    Args:
        dataset: The training set. It may declare its targets.
        first: The target of its first item. None if it is not known.
        targets: See :func:`describe`.
        ndim: Number of axes of a target: 2 for masks.
        named: Number of classes that is known without the labels, else 0. Masks are still needed to find out what
            255 means.
    """
    declared = _declared(dataset, first, ndim)
    if declared is not None:
        check_start(declared, lambda index: f"item {index} of the training set")
        counts = count_labels(declared)
        highest = _highest(counts, masks=ndim > 0)
        place = f"item {first_place(declared == highest)}" if highest in counts else ""
        rows = enumerate(declared) if ndim and may_differ(counts) else ()
        return _Scan(counts, True, place, [(f"item {index}", count_labels(row)) for index, row in rows])
    found: Counter[int] = Counter()
    masks = list[tuple[str, Mapping[int, int]]]()
    top, place = -1, ""
    seen = 0
    if ndim or not named:
        for name, target in targets(SCANNED):
            check_start(target[None], [f"{name} of the training set"].__getitem__)
            counts = count_labels(target)
            found.update(counts)
            seen += 1
            if ndim:
                masks.append((name, counts))
            if (highest := _highest(counts, masks=ndim > 0)) > top:
                top, place = highest, name
            if named and not (
                set(found) <= BLACK_AND_WHITE or (named == 2 and may_differ(found) and not tells(counts))
            ):
                break
    return _Scan(found, 0 < len(dataset) <= seen, place, masks)


def _white_is_one(scan: _Scan, val: Targets | None) -> bool:
    """Whether all masks hold only 0 and 255, for two classes. Validation masks are looked at if they can matter.

    Raises:
        DataError: 255 seems to be the second class in some masks, but others hold 1.
    """
    found = set(scan.found)
    masks = [(f"{name} of the training set", values) for name, values in scan.masks]
    if not may_differ(found) or any(tells(values) for _, values in masks) or val is None:
        return found == BLACK_AND_WHITE
    for name, target in val(SCANNED):
        if target.ndim != 2 or target.is_floating_point():
            break  # the set has another form, which is an error of its own
        values = count_labels(target)
        masks.append((f"{name} of the validation set", values))
        found |= set(values)
        if tells(values) or not may_differ(values):
            break
    check_white(masks, "write all masks with the same labels")
    return found == BLACK_AND_WHITE


def _highest(counts: Mapping[int, int], *, masks: bool) -> int:
    """Return the highest label, or -1 if there is none. In masks the ignored label does not count."""
    return max((label for label in counts if not (masks and label == IGNORE)), default=-1)


def _declared(dataset: Any, first: Tensor | None, ndim: int) -> Tensor | None:
    """Return the targets of all items if the dataset has them as an attribute. None if the items have others."""
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
            return None  # no such attribute, or it means something else
    if labels is None or labels.is_floating_point() or labels.ndim != ndim + 1 or not len(labels):
        return None
    return labels if first is None or torch.equal(labels[0].long(), first.long()) else None
