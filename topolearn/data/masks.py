"""Load images and masks, and check every file before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topolearn.data.class_list import CLASS_LIST, ClassList
from topolearn.data.folder_layout import MaskFiles, like_the_missing
from topolearn.data.images import ImageFiles, differ, look_at, open_image, read_labels
from topolearn.data.labels import Labels, labels_of_set, named_labels
from topolearn.data.reading import NAMED, Reading, data_from, in_threads, left_out
from topolearn.errors import DataError
from topolearn.samples.augment import Augment, Crop
from topolearn.samples.base import BLACK_AND_WHITE, IGNORE, Data, DataInfo
from topolearn.samples.modes import common_channels, conversions
from topolearn.samples.occurrence import check_occurrence, not_validated
from topolearn.samples.white import check_white
from topolearn.task_kinds import TaskKind, kind_of

_MASK_MODES = ("1", "L", "P", "I", "I;16")

ImageAndMask = tuple[Path, Path]


@dataclass(frozen=True)
class _Look:
    """What is known about an image and its mask after a first look.

    Attributes:
        pair: The files.
        size: (height, width).
        mode: Pillow's mode of the image.
        values: Value in the mask -> number of pixels. Empty if the mask was not read.
        fault: Why the pair cannot be used. None if it can.
    """

    pair: ImageAndMask
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    values: Mapping[int, int] = field(default_factory=dict)
    fault: str | None = None


def load_masks(
    files: MaskFiles,
    name: str,
    where: str,
    *,
    task: str = "segmentation",
    classes: int | None = None,
    augment: Augment | Crop | None = None,
    reading: Reading | None = None,
    mean_and_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Data:
    """Load data from images and masks, and check them before training.

    Args:
        files: The files, and the names of the labels.
        name: Name of the set.
        where: What holds the labels, for errors.
        task: A task with masks.
        classes: Number of classes if the labels have no names. None takes all that occur in the training masks.
        augment: Augmentation of training batches. None takes flips.
        reading: How the files are read.
        mean_and_std: Mean and standard deviation of colour images. None takes those of the training images.

    Raises:
        DataError: Files cannot be used. The error names the first one and gives their number.
    """
    reading = reading or Reading()
    kind = kind_of(task)
    unnamed = not kind.is_binary and not files.listed.names
    read = partial(read_labels, binary=kind.is_binary and not files.listed.names, colours=files.listed.colours)
    check_train = reading.skip_bad or not files.is_known
    train, val = (
        in_threads(partial(_looked_at, read=read, masks=masks, images=reading.skip_bad), pairs)
        for pairs, masks in ((files.train, check_train), (files.val, True))
    )
    found = _values([*train, *val])
    listed = _numbers(train, found, classes, where) if unnamed else files.listed
    if not files.is_known and IGNORE not in files.listed.names and not files.listed.colours:
        _check_white([*train, *val], where, _values(train), _values(val))
    labels = named_labels(listed, where) if files.is_known else labels_of_set(kind, listed, found, where, classes)
    notes = [*files.notes, *(_dark([*train, *val]) if labels.binary and labels.table[1] != 1 else ())]
    notes += [] if kind.is_binary else _ignored(labels, _values(train))
    train, val = (
        _usable(looks, labels, what, name, reading.skip_bad, notes)
        for looks, what in ((train, "training"), (val, "validation"))
    )
    modes = Counter(look.mode for look in (*train, *val))
    channels = reading.channels or common_channels(modes)
    notes += conversions(modes, channels)
    if not files.is_known:
        classes_of = _all_classes(labels, kind)
        _judge(labels, kind, classes_of, _values(train), where)
        counts = labels.counts(_values(val), len(classes_of))
        notes += not_validated(classes_of, counts, "no validation mask holds a pixel of")
    sizes = {look.size for look in (*train, *val)}
    first = reading.size or train[0].size
    own_size = reading.size is None and isinstance(augment, Crop) and len(sizes) > 1
    resize = reading.size is not None
    train_files, val_files = (
        ImageFiles([look.pair for look in looks], channels, None if own_size else first, resize=resize, labels=labels)
        for looks in (train, val)
    )
    mean, std = mean_and_std if mean_and_std is not None and channels == 3 else ((), ())
    data = data_from(
        train_files,
        val_files,
        DataInfo(name, task, labels.classes, (channels, *first), mean, std, IGNORE),
        augment=Augment(flip=True) if augment is None else augment,
        workers=reading.workers,
        one_size=not own_size,
        sample=ImageFiles([look.pair for look in train], channels, first, resize=True, labels=labels),
    )
    data.notes = tuple(notes)
    return data


def _looked_at(pair: ImageAndMask, read: Callable[[Path], NDArray[np.uint8]], *, masks: bool, images: bool) -> _Look:
    """Look at the start of both files, or with ``masks`` at the whole mask, with ``images`` at the whole image."""
    image, mask = pair
    try:
        size, mode = look_at(image)
        if not mask.exists():
            raise DataError(f"the image '{image}' has no mask; add '{mask}'")
        mask_size, mask_mode = look_at(mask, "mask")
        if mask_size != size:
            raise DataError(differ(image, size, mask, mask_size))
        counts = np.zeros(0, np.int64)
        if masks:
            counts = np.bincount(read(mask).ravel())
        elif mask_mode not in _MASK_MODES:
            read(mask)  # a grey picture may be stored in colours, and only its pixels tell
        if images:
            open_image(image)
    except DataError as error:
        return _Look(pair, fault=error.message)
    return _Look(pair, size, mode, {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()})


def _dark(looks: Sequence[_Look]) -> list[str]:
    """Return a note on masks that may hold labels 0 and 1 in a set of grey masks. They are read as grey too."""
    highest = [max(look.values) for look in looks if look.values]
    count = highest.count(1)
    if not count:
        return []
    return [
        f"{count:,} of {len(highest):,} masks hold no value above 1, but others do: in all of them 1 is a dark grey,"
        " not a label"
    ]


def _ignored(labels: Labels, found: Mapping[int, int]) -> list[str]:
    """Return a note on the ignored pixels of the training masks, which hold the values ``found``."""
    ignored = [value for value in found if labels.table[value] == IGNORE]
    if not ignored:
        return []
    share = sum(found[value] for value in ignored) / sum(found.values())
    more = f" and {len(ignored) - NAMED} more" if len(ignored) > NAMED else ""
    listed = ", ".join(map(str, ignored[:NAMED]))
    return [f"{share:.1%} of the pixels of the training masks are ignored (values {listed}{more})"]


def _values(looks: Sequence[_Look]) -> dict[int, int]:
    """Return value -> number of pixels in all masks that were read, sorted by value."""
    total: Counter[int] = Counter()
    for look in looks:
        total.update(look.values)
    return dict(sorted(total.items()))


def _numbers(train: Sequence[_Look], found: Collection[int], classes: int | None, where: str) -> ClassList:
    """Return the numbers of the labels as their names, for masks without a list of classes."""
    if classes is None:
        faulty = [look for look in train if look.fault is not None]
        if len(faulty) == len(train):
            raise DataError(f"{faulty[0].fault}{like_the_missing(faulty[0].pair[1])}")
        labels = [value for value in _values(train) if value != IGNORE]
        if not labels:
            raise DataError(f"{where} hold only {IGNORE}, which is ignored beside other labels; add other labels")
        classes = 2 if set(found) == BLACK_AND_WHITE else 1 + max(labels)
    return ClassList({label: str(label) for label in range(classes)})


def _check_white(looks: Sequence[_Look], where: str, train: Collection[int], val: Collection[int]) -> None:
    """Raise if 255 seems to be the second of two classes in some masks, but others hold 1.

    Args:
        looks: All images and masks.
        where: What holds the training masks, for the error.
        train: The values in the training masks.
        val: The values in the validation masks.
    """
    mend = "write all masks with the same labels"
    if {frozenset(train), frozenset(val)} == {BLACK_AND_WHITE, frozenset({0, 1})}:
        raise DataError(f"{where} hold only 0 and {max(train)}, but the validation masks only 0 and {max(val)}; {mend}")
    named = f"'0 background', '1 foreground', '{IGNORE} void'"
    check_white(
        ((f"the mask '{look.pair[1]}'", look.values) for look in looks),
        f"{mend}, or, if {IGNORE} is to be ignored, name it in '{CLASS_LIST}', as {named}",
    )


def _all_classes(labels: Labels, kind: TaskKind) -> tuple[str, ...]:
    """Return the names of the classes; for a task with one output channel also that of the negative one."""
    return (f"not {kind.positive}", kind.positive) if kind.is_binary else labels.classes


def _judge(labels: Labels, kind: TaskKind, classes: Sequence[str], found: Mapping[int, int], where: str) -> None:
    """Raise unless each of the classes occurs in the training masks, which hold the values ``found``."""
    values = [value for value in found if value != IGNORE or len(found) < 3]
    names = ("background", "foreground") if len(values) == 2 else ("NAME",) * len(values)
    lines = [f"'{value} {name}'" for value, name in zip(values, names, strict=True)]
    mend = f"name the labels that occur in '{CLASS_LIST}', as {', '.join(lines[:NAMED])}"
    greys = [value for value in found if value not in BLACK_AND_WHITE]
    if greys and not kind.is_binary and found.get(IGNORE, 0) > sum(found[value] for value in greys):
        mend = (
            f"{IGNORE} is ignored unless '{CLASS_LIST}' names it; if it is the foreground, write '0 background',"
            f" '{IGNORE} foreground', and each value between as '{greys[0]} void'"
        )
    if labels.colours:
        mend = f"remove the classes that do not occur from '{CLASS_LIST}'"
    shown = {str(labels.colours[value] if labels.colours else value): count for value, count in found.items()}
    check_occurrence(classes, labels.counts(found, len(classes)), shown, "pixels", where, mend)


def _usable(
    looks: Sequence[_Look], labels: Labels, what: str, name: str, skip_bad: bool, notes: list[str]
) -> list[_Look]:
    """Return the pairs that can be used. The others are an error, or with ``skip_bad`` are left out with a note."""
    good: list[_Look] = []
    faults: list[str] = []
    for look in looks:
        stray = labels.stray(look.values)
        fault = look.fault if stray is None else labels.unknown(stray, look.pair[1])
        if fault is None:
            good.append(look)
        else:
            faults.append(fault if faults else fault + like_the_missing(look.pair[1]))
    notes += left_out(faults, len(looks), f"{what} images of '{name}'", skip_bad=skip_bad)
    return good
