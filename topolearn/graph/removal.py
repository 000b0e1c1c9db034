"""Removes learnable edges one after another, the weakest first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from topolearn.graph.ir import Graph
from topolearn.graph.price import Alive
from topolearn.graph.topology import Topology

_ROUNDING = 1e-9
"""Shares are sums of fractions: being this much below the requested share counts as rounding."""


def strengths(graph: Graph, values: Sequence[float]) -> dict[int, float]:
    """Return index of each learnable edge -> |value| / largest |value| into its target, including fixed edges.

    Values compare only within one target, because a normalisation after the target undoes a common scale.

    Args:
        graph: The graph that was searched.
        values: (E,) the learner's value of every edge.
    """
    strength: dict[int, float] = {}
    for node, learnable in graph.candidates.items():
        largest = max(abs(values[i]) for i in graph.in_edges(node)) or 1.0
        for i in learnable:
            strength[i] = abs(values[i]) / largest
    return strength


def removal_order(graph: Graph, values: Sequence[float]) -> tuple[int, ...]:
    """Return the indices of the learnable edges by strength, the weakest first; among equals, the later first.

    Args:
        graph: The graph that was searched.
        values: (E,) the learner's value of every edge.
    """
    strength = strengths(graph, values)
    return tuple(sorted(strength, key=lambda i: (strength[i], -i)))


def without(graph: Graph, values: Sequence[float], removed: Collection[int]) -> Topology:
    """Return the closed topology of all edges except ``removed`` and those of value 0, with ``values`` as weights.

    Args:
        graph: The graph that was searched.
        values: (E,) edge weights during the search.
        removed: Indices of the removed edges.
    """
    gone = frozenset(removed)
    return Topology.of(graph, [i not in gone and value != 0.0 for i, value in enumerate(values)], values)


def removable(graph: Graph, keep: Sequence[bool], order: Sequence[int]) -> tuple[int, ...]:
    """Return ``order`` without the edges that must stay so that every output has a path from an input.

    If the last path to an output needs an edge when its turn comes, the edge stays; removal continues with the next
    edge. In the end one path is left, or as few as the outputs need.

    Args:
        graph: The graph that was searched.
        keep: (E,) the edges at the start, with a path to every output.
        order: Indices of edges in the order of removal.
    """
    left = list(keep)
    gone: list[int] = []
    start = 0
    while start < len(order):
        low, high = start, len(order)  # bisect for the longest run of edges that can be removed
        while low < high:
            middle = (low + high + 1) // 2
            if set(graph.outputs) <= Alive.of(graph, _less(left, order[start:middle])).nodes:
                low = middle
            else:
                high = middle - 1
        left = _less(left, order[start:low])
        gone += order[start:low]
        start = low + 1
    return tuple(gone)


def removed_share(graph: Graph, keep: Sequence[bool]) -> float:
    """Return the share of learnable edges that are gone: not kept, or dead because a node at one end is dead.

    Args:
        graph: A graph with learnable edges.
        keep: (E,) which edges are kept.
    """
    learnable = sum(map(len, graph.candidates.values()))
    left = sum(graph.edges[i].learnable for i in Alive.of(graph, keep).edges)
    return (learnable - left) / learnable


def removed_at(graph: Graph, keep: Sequence[bool], order: Sequence[int], share: float) -> tuple[int, ...]:
    """Return the fewest edges from the front of ``order`` that remove at least ``share`` of the learnable edges.

    Edges that die with their nodes count as removed; see :func:`removed_share`. Returns all of ``order`` if that is not
    enough.

    Args:
        graph: The graph that was searched.
        keep: (E,) the edges at the start.
        order: Indices of edges in the order of removal.
        share: Share to remove, 0 to 1.
    """
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if removed_share(graph, _less(keep, order[:middle])) >= share - _ROUNDING:
            high = middle
        else:
            low = middle + 1
    return tuple(order[:low])


def _less(keep: Sequence[bool], removed: Iterable[int]) -> list[bool]:
    left = list(keep)
    for i in removed:
        left[i] = False
    return left
