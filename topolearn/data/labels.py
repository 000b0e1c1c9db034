"""From the values in mask files to the labels of a task."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topolearn.data.class_list import ClassList, Colour
from topolearn.errors import DataError
from topolearn.samples.base import BLACK_AND_WHITE, IGNORE
from topolearn.task_kinds import TaskKind

IGNORED_NAMES = frozenset({"void", "unlabelled", "unlabeled", "ignore", "ignored"})
"""Names in ``classes.txt`` of labels that count neither in the loss nor in the metrics."""

_UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Labels:
    """What the values of a set's mask files mean.

    Attributes:
        classes: Names of the classes; of a task of one channel, its one name.
        table: Value in the file -> label, :data:`IGNORE`, or -1 for one that has no meaning; (256,).
        binary: Whether the masks are grey pictures of yes and no.
        colours: The colours of the values 0, 1, … in coloured masks.
    """

    classes: tuple[str, ...]
    table: NDArray[np.int16]
    binary: bool = False
    colours: tuple[Colour, ...] = ()

    def __call__(self, stored: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        """The labels (H, W) of a mask with the values ``stored``.

        Raises:
            DataError: A value without a meaning; ``path`` is the file that it names.
        """
        labels = self.table[stored]
        if (labels == _UNKNOWN).any():
            raise DataError(self.unknown(int(stored[labels == _UNKNOWN][0]), path))
        return labels.astype(np.uint8)

    def unknown(self, value: int, path: Path) -> str:
        """What is wrong with a mask that holds ``value``."""
        known = np.flatnonzero((self.table != _UNKNOWN) & (self.table != IGNORE)).tolist()
        whole = len(known) > 1 and known == list(range(known[0], known[-1] + 1))
        listed = f"{known[0]} to {known[-1]}" if whole else ", ".join(map(str, known))
        return (
            f"the mask '{path}' has the label {value}, but the {len(self.classes)} classes are {listed};"
            " mend it, or give the label a name in 'classes.txt', 'void' to ignore it"
        )

    def counts(self, found: Mapping[int, int], labels: int) -> list[int]:
        """How often each of the labels 0 to ``labels - 1`` occurs, where ``found`` says how often each value does."""
        return [sum(count for value, count in found.items() if self.table[value] == label) for label in range(labels)]

    def stray(self, values: Collection[int]) -> int | None:
        """One of ``values`` that has no meaning."""
        return next((value for value in sorted(values) if self.table[value] == _UNKNOWN), None)


def named_labels(listed: ClassList, where: str, classes: int | None = None) -> Labels:
    """Labels for segmentation.

    Args:
        listed: The names of the values; those of :data:`IGNORED_NAMES` are ignored, as 255 is.
        where: What has these names, for the error.
        classes: How many there must be; None for any number.

    Raises:
        DataError: No class, or another number.
    """
    names = listed.names
    kept = {value: name for value, name in sorted(names.items()) if name.casefold() not in IGNORED_NAMES}
    if not 0 < len(kept) < IGNORE or classes not in (None, len(kept)):
        raise DataError(
            f"{where} have {len(kept)} classes that are not ignored, but must have {classes or f'1 to {IGNORE - 1}'}"
        )
    table = np.full(256, _UNKNOWN, np.int16)
    table[[IGNORE, *names]] = IGNORE
    table[list(kept)] = range(len(kept))
    return Labels(tuple(kept.values()), table, colours=listed.colours)


def labels_of_set(
    kind: TaskKind, listed: ClassList, found: Collection[int], where: str, classes: int | None = None
) -> Labels:
    """Labels for a set of masks, from its list of classes and from what its masks hold.

    Args:
        kind: Of the task. One of one channel looks for the second of two classes.
        listed: The names of the values; empty for grey masks of a task of one channel.
        found: All values that the masks of the whole set hold.
        where: What has these names, for the error.
        classes: How many there must be; None for any number.

    Raises:
        DataError: Another number of classes.
    """
    if not kind.is_binary:
        return named_labels(_with_white(listed, found), where, classes)
    if not listed.names:
        return binary_labels(kind, found)
    return replace(named_labels(_with_white(listed, found), where, 2), classes=(kind.positive,))


def _with_white(listed: ClassList, found: Collection[int]) -> ClassList:
    """The list, in which the second of two classes is 255 where the masks are written in black and white."""
    kept = [value for value, name in listed.names.items() if name.casefold() not in IGNORED_NAMES]
    if set(found) != BLACK_AND_WHITE or listed.colours or sorted(kept) != [0, 1] or IGNORE in listed.names:
        return listed
    return ClassList({IGNORE if value == 1 else value: name for value, name in listed.names.items()})


def binary_labels(kind: TaskKind, found: Collection[int]) -> Labels:
    """Labels for a task of one channel, from the values in its masks.

    Masks that hold 0 and 1 alone, or these and 255, which is ignored, hold the labels themselves. All others
    are grey pictures: from half of white on it is yes, black is no. In between it is no or, if
    ``kind.ignores_grey``, ignored: in edge detection such a grey says that few of those who drew the edges saw
    one there (as in HED, Xie & Tu 2015).

    Args:
        kind: Of the task.
        found: All values that the masks of the whole set hold.
    """
    table = np.zeros(256, np.int16)
    if set(found) <= {0, 1} or set(found) == {0, 1, IGNORE}:
        table[1], table[IGNORE] = 1, IGNORE
    else:
        table[1:128] = IGNORE if kind.ignores_grey else 0
        table[128:] = 1
    return Labels((kind.positive,), table, binary=True)
