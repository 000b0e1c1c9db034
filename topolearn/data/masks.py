"""Data from images and masks, with a look at every file before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from topolearn.data.augment import Augment, Crop
from topolearn.data.base import IGNORE, Data, DataInfo
from topolearn.data.folder_layout import NAMED, MaskFiles, like_the_missing
from topolearn.data.images import ImageFiles, differ, look_at, open_image, read_labels, too_deep
from topolearn.data.labels import Labels, binary_labels, named_labels
from topolearn.data.modes import common_channels, conversions
from topolearn.data.reading import Reading, data_from, in_threads
from topolearn.errors import DataError
from topolearn.task_kinds import TaskKind, kind_of

_MASK_MODES = ("1", "L", "P", "I", "I;16")

ImageAndMask = tuple[Path, Path]


@dataclass(frozen=True)
class _Look:
    """What a look at an image and its mask has shown.

    Attributes:
        pair: The files.
        size: (height, width).
        mode: Of the image.
        values: That the mask holds; None where it was not read.
        fault: Why the two cannot be used, None where they can.
    """

    pair: ImageAndMask
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    values: frozenset[int] | None = None
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
    """Data from images and masks.

    Args:
        files: The files, and the names of the labels.
        name: Of the set.
        where: What holds the labels, for errors.
        task: One with masks.
        classes: Number of classes, where the labels have no names; None for all that occur in the training masks.
        augment: None for flips.
        reading: How the files are read.
        mean_and_std: Of colour images; None to take those of the training images.

    Raises:
        DataError: A file that cannot be used, by name, and how many there are.
    """
    reading = reading or Reading()
    kind = kind_of(task)
    unnamed = not kind.is_binary and not files.names and classes is None
    train = _looked_at(files.train, kind, in_full=reading.skip_bad or unnamed, labels=kind.is_binary)
    val = _looked_at(files.val, kind, in_full=reading.skip_bad, labels=True)
    notes = list(files.notes)
    if kind.is_binary:
        highest = [max(look.values) for look in (*train, *val) if look.values is not None]
        labels = binary_labels(kind, zero_one=max(highest, default=0) <= 1)
        notes += _dark(highest)
    else:
        labels = named_labels(files.names or _numbers(train, classes), where, classes)
    train, val = (
        _usable(looks, labels, what, name, reading.skip_bad, notes)
        for looks, what in ((train, "training"), (val, "validation"))
    )
    modes = Counter(look.mode for look in (*train, *val))
    channels = reading.channels or common_channels(modes)
    notes += conversions(modes, channels)
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


def _looked_at(pairs: Sequence[ImageAndMask], kind: TaskKind, *, in_full: bool, labels: bool) -> list[_Look]:
    """A look at each pair: at the start of the files, at all labels too, or in full.

    A wrong label among the validation images would be met when an epoch has gone into training. What 1 means in
    masks of yes and no depends on all of them.
    """
    look = _read if in_full else _read_labels if labels else _glance
    return in_threads(partial(look, binary=kind.is_binary), pairs)


def _glance(pair: ImageAndMask, *, binary: bool) -> _Look:
    """What the start of the files tells."""
    image, mask = pair
    try:
        size, mode = look_at(image)
        if not mask.exists():
            return _Look(pair, fault=f"the image '{image}' has no mask; add '{mask}'")
        mask_size, mask_mode = look_at(mask, "mask")
        if mask_mode not in _MASK_MODES:
            read_labels(mask, binary=binary)  # a grey picture may be stored in colours, and only its pixels tell
    except DataError as error:
        return _Look(pair, fault=error.message)
    if mode[0] in "IF":
        return _Look(pair, fault=too_deep(image))
    if mask_size != size:
        return _Look(pair, fault=differ(image, size, mask, mask_size))
    return _Look(pair, size, mode)


def _read_labels(pair: ImageAndMask, *, binary: bool) -> _Look:
    """What the start of the image and the whole mask tell."""
    look = _glance(pair, binary=binary)
    if look.fault is not None:
        return look
    try:
        values = np.flatnonzero(np.bincount(read_labels(pair[1], binary=binary).ravel(), minlength=256))
    except DataError as error:
        return _Look(pair, fault=error.message)
    return _Look(pair, look.size, look.mode, frozenset(values.tolist()))


def _read(pair: ImageAndMask, *, binary: bool) -> _Look:
    """What the whole files tell."""
    look = _read_labels(pair, binary=binary)
    if look.fault is None:
        try:
            open_image(pair[0])
        except DataError as error:
            return _Look(pair, fault=error.message)
    return look


def _dark(highest: Sequence[int]) -> list[str]:
    """A note on masks of yes and no that may hold labels, in a set of greys; they are judged as all others are."""
    count = highest.count(1)
    if max(highest, default=0) <= 1 or not count:
        return []
    return [
        f"{count:,} of {len(highest):,} masks hold no value above 1, but others do: in all of them 1 is a dark grey,"
        " not a label"
    ]


def _numbers(looks: Sequence[_Look], classes: int | None) -> dict[int, str]:
    """Names for labels without any: their numbers."""
    if classes is None:
        found = {value for look in looks for value in look.values or () if value != IGNORE}
        faulty = next((look for look in looks if look.fault is not None), None)
        if not found and faulty is not None:
            raise DataError(f"{faulty.fault}{like_the_missing(faulty.pair[1])}")
        classes = 1 + max(found, default=-1)
    return {label: str(label) for label in range(classes)}


def _usable(
    looks: Sequence[_Look], labels: Labels, what: str, name: str, skip_bad: bool, notes: list[str]
) -> list[_Look]:
    """The pairs that can be used; the others are an error, or are left out and noted."""
    good: list[_Look] = []
    faults: list[str] = []
    for look in looks:
        stray = None if look.values is None or labels.binary else labels.stray(look.values)
        fault = look.fault if stray is None else labels.unknown(stray, look.pair[1])
        if fault is None:
            good.append(look)
        else:
            faults.append(fault if faults else fault + like_the_missing(look.pair[1]))
    if not faults:
        return good
    count = f"{len(faults):,} of {len(looks):,} {what} images of '{name}'"
    if not skip_bad or not good:
        more = f"; {count} cannot be used: mend them, or set 'skip_bad'" if len(faults) > 1 else ""
        raise DataError(f"{faults[0]}{more}")
    listed = " | ".join(faults[:NAMED]) + (f" | and {len(faults) - NAMED:,} more" if len(faults) > NAMED else "")
    notes.append(f"skipped {count}: {listed}")
    return good
