"""Expands ranges of ids: ``block[1..3]`` is block1, block2, block3."""

from __future__ import annotations

import itertools
import re

_RANGE = re.compile(r"\[(\d{1,9})\.\.(\d{1,9})\]")

MAX_IDS = 100_000
"""Maximum number of ids in one range, and of nodes in a graph file."""


class RangeError(ValueError):
    """Raised for a range that is malformed, empty or too large."""


def is_range(word: str) -> bool:
    """Whether ``word`` contains a range."""
    return "[" in word


def expand(word: str) -> list[str]:
    """Return the ids that ``word`` stands for; several ranges give every combination, the last changing fastest.

    Raises:
        RangeError: Malformed, empty or too large.
    """
    if not is_range(word):
        return [word]
    parts = _RANGE.split(word)
    literals, bounds = parts[0::3], list(zip(map(int, parts[1::3]), map(int, parts[2::3]), strict=True))
    if not bounds or any("[" in literal or "]" in literal for literal in literals):
        raise RangeError(f"'{word}' is not a range; write it as block[1..6]")
    count = 1
    for first, last in bounds:
        if last < first:
            raise RangeError(f"the range '{word}' is empty: {last} comes before {first}")
        count *= last - first + 1
    if count > MAX_IDS:
        raise RangeError(f"the range '{word}' stands for {count:,} nodes; at most {MAX_IDS:,} are allowed")
    combinations = itertools.product(*(range(first, last + 1) for first, last in bounds))
    return [
        literals[0] + "".join(f"{number}{literal}" for number, literal in zip(numbers, literals[1:], strict=True))
        for numbers in combinations
    ]
