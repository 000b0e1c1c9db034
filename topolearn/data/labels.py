"""Map the values in mask files to the labels of a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topolearn.data.class_list import IGNORED_NAMES, ClassList, Colour
from topolearn.errors import DataError
from topolearn.samples.base import BLACK_AND_WHITE, IGNORE
from topolearn.task_kinds import TaskKind

_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Labels:
    """The meaning of the values in a set's mask files.

    Attributes:
        classes: Names of the classes. A task with one output channel has one name.
        table: (256,) value in the file -> label, :data:`IGNORE`, or -1 for a value without a meaning.
        binary: Whether the masks are grey pictures of yes and no.
        colours: The colours of the values 0, 1, … in coloured masks.
    """

    classes: tuple[str, ...]
    table: NDArray[np.int16]
    binary: bool = False
    colours: tuple[Colour, ...] = ()

    def __call__(self, stored: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        """Return the labels (H, W) of a mask with the values ``stored``.

        Raises:
            DataError: A value has no meaning. The error names the file ``path``.
        """
        labels = self.table[stored]
        if (labels == _UNKNOWN).any():
            raise DataError(self.unknown(int(stored[labels == _UNKNOWN][0]), path))
        return labels.astype(np.uint8)

    def unknown(self, value: int, path: Path) -> str:
        """Return the error message for a mask that holds ``value``, which has no meaning."""
        known = np.flatnonzero((self.table != _UNKNOWN) & (self.table != IGNORE)).tolist()
        whole = len(known) > 1 and known == list(range(known[0], known[-1] + 1))
        listed = f"{known[0]} to {known[-1]}" if whole else ", ".join(map(str, known))
        return (
            f"the mask '{path}' has the label {value}, but the {len(self.classes)} classes are {listed};"
            " correct the mask, or give the label a name in 'classes.txt' ('void' to ignore it)"
        )

    def counts(self, found: Mapping[int, int], labels: int) -> list[int]:
        """Return how often each of the labels 0 to ``labels - 1`` occurs, from ``found``: value -> how often."""
        return [sum(count for value, count in found.items() if self.table[value] == label) for label in range(labels)]

    def stray(self, values: Collection[int]) -> int | None:
        """Return the lowest of ``values`` that has no meaning, or None."""
        return next((value for value in sorted(values) if self.table[value] == _UNKNOWN), None)


def named_labels(listed: ClassList, where: str, classes: int | None = None) -> Labels:
    """Return the labels for segmentation from the names of the values.

    Args:
        listed: The names of the values. Values with one of :data:`IGNORED_NAMES` are ignored, and so is 255.
        where: What has these names, for the error.
        classes: The required number of classes. None accepts any number.

    Raises:
        DataError: There is no class, or another number of classes than required.
    """
    names = listed.names
    kept = {value: name for value, name in sorted(names.items()) if name.casefold() not in IGNORED_NAMES}
    if not 0 < len(kept) <= IGNORE or classes not in (None, len(kept)):
        raise DataError(
            f"{where} have {len(kept)} classes that are not ignored, but must have {classes or f'1 to {IGNORE}'}"
        )
    table = np.full(256, _UNKNOWN, np.int16)
    table[[IGNORE, *names]] = IGNORE
    table[list(kept)] = range(len(kept))
    return Labels(tuple(kept.values()), table, colours=listed.colours)


def labels_of_set(
    kind: TaskKind, listed: ClassList, found: Collection[int], where: str, classes: int | None = None
) -> Labels:
    """Return the labels for a set of masks, from its list of classes and the values in its masks.

    Args:
        kind: The kind of task. A task with one output channel looks for the second of two classes.
        listed: The names of the values. Empty for grey masks of a task with one output channel.
        found: All values in the masks of the whole set.
        where: What has these names, for the error.
        classes: The required number of classes. None accepts any number.

    Raises:
        DataError: There is another number of classes than required.
    """
    if kind.is_binary and not listed.names:
        return binary_labels(kind, found)
    labels = named_labels(_with_white(listed, found), where, 2 if kind.is_binary else classes)
    return replace(labels, classes=(kind.positive,)) if kind.is_binary else labels


def _with_white(listed: ClassList, found: Collection[int]) -> ClassList:
    """Return the list with 255 as the second of two classes if the masks hold only 0 and 255."""
    kept = [value for value, name in listed.names.items() if name.casefold() not in IGNORED_NAMES]
    if set(found) != BLACK_AND_WHITE or listed.colours or sorted(kept) != [0, 1] or IGNORE in listed.names:
        return listed
    return ClassList({IGNORE if value == 1 else value: name for value, name in listed.names.items()})


def binary_labels(kind: TaskKind, found: Collection[int]) -> Labels:
    """Return the labels for a task with one output channel, from the values in its masks.

    Masks that hold only 0 and 1, or 0, 1 and 255, hold the labels themselves; 255 is ignored. All other masks are
    grey pictures. Black is no, and values from 128 are yes. Values in between are no, or ignored if
    ``kind.ignores_grey``: in edge detection such a grey means that few annotators drew an edge there (as in HED,
    Xie & Tu 2015).

    Args:
        kind: The kind of task.
        found: All values in the masks of the whole set.
    """
    table = np.zeros(256, np.int16)
    if set(found) <= {0, 1} or set(found) == {0, 1, IGNORE}:
        table[1], table[IGNORE] = 1, IGNORE
    else:
        table[1:128] = IGNORE if kind.ignores_grey else 0
        table[128:] = 1
    return Labels((kind.positive,), table, binary=True)
