"""Finds what can be removed from a network: the branches of its additions, and blocks between equal shapes.

The data flow is read as a chain of *cuts*: operations that everything passes through. An addition at a cut, of parts
that have nothing in common but the cut before, becomes a :class:`Sum`; each of its parts is again a chain.
Everything else becomes a :class:`Piece`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from topolearn.tracing.flow import Flow


@dataclass(frozen=True, slots=True)
class Piece:
    """Operations from one tensor to another that stay together.

    Attributes:
        entry: Number of the operation that they read.
        exit: Number of the operation whose output is theirs.
    """

    entry: int
    exit: int


@dataclass(frozen=True, slots=True)
class Sum:
    """An addition of parts that all start from one tensor.

    Attributes:
        entry: Number of the operation that all parts start from.
        exit: Number of the addition.
        terms: The parts; an empty one is the tensor itself.
        additions: Numbers of the additions: more than one for three or more parts.
    """

    entry: int
    exit: int
    terms: tuple[tuple[Piece | Sum, ...], ...]
    additions: frozenset[int]


Pieces = tuple[Piece | Sum, ...]


def find_chain(flow: Flow, entry: int, exit: int) -> Pieces:
    """Return the pieces and sums between two operations, in order."""
    return tuple(_segment(flow, start, stop) for start, stop in pairwise(cuts(flow, entry, exit)))


def cuts(flow: Flow, entry: int, exit: int) -> list[int]:
    """Return the operations that every path from ``entry`` to ``exit`` passes through, with both ends."""
    between = flow.between(entry, exit)
    found = [entry]
    furthest = max((reader for reader in flow.readers[entry] if reader in between), default=exit)
    for number in sorted(between):
        if furthest <= number and (number == exit or flow.is_tensor(number)):
            found.append(number)
        furthest = max([furthest, *(reader for reader in flow.readers[number] if reader in between)])
    return found


def _segment(flow: Flow, entry: int, exit: int) -> Piece | Sum:
    terms = list(_terms(flow, exit, entry))
    if len(terms) > 1:
        bodies = [flow.between(entry, term) if term != entry else set() for term in terms]
        together = set().union(*bodies)
        if sum(map(len, bodies)) == len(together) and sum(not body for body in bodies) <= 1:
            parts = tuple(find_chain(flow, entry, term) if term != entry else () for term in terms)
            return Sum(entry, exit, parts, frozenset(flow.between(entry, exit) - together))
    return Piece(entry, exit)


def _terms(flow: Flow, number: int, entry: int) -> Iterator[int]:
    """Return the operations whose outputs an addition adds; those of an addition that only it reads, one by one."""
    for term in flow.added(number):
        inner = flow.added(term) if term != entry else ()
        if inner and flow.readers[term] == [number]:
            yield from _terms(flow, term, entry)
        else:
            yield term
