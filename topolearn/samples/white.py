"""Find out what 255 means in masks with labels 0 and 1: the second of two classes, or ignored pixels."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from topolearn.errors import DataError
from topolearn.samples.base import BLACK_AND_WHITE, IGNORE

_TWO_KINDS = frozenset({0, 1, IGNORE})
"""The values of a set of masks of which some may hold 0 and 1, and others 0 and 255 with the same meaning."""


def may_differ(values: Collection[int]) -> bool:
    """Whether 255 may have two meanings in masks that hold no other values than these."""
    return set(values) <= _TWO_KINDS


def tells(values: Collection[int]) -> bool:
    """Whether a mask with these values tells that 255 is ignored: it holds 1 too."""
    return 1 in values and IGNORE in values


def check_white(masks: Iterable[tuple[str, Collection[int]]], mend: str) -> None:
    """Check that 255 has one meaning in all masks of training and validation.

    It may have two if some masks hold only 0 and 255, others 1 but not 255, and none holds both, or another value.

    Args:
        masks: What errors call a mask, and the values that it holds.
        mend: What to do, for the error.

    Raises:
        DataError: It may have two meanings. The error names a mask of each kind.
    """
    white = one = None
    for name, values in masks:
        if tells(values) or not may_differ(values):
            return
        if set(values) == BLACK_AND_WHITE:
            white = white or name
        elif 1 in values:
            one = one or name
    if white and one:
        raise DataError(f"{one} holds the label 1 and not {IGNORE}, but {white} holds only 0 and {IGNORE}; {mend}")
