"""Removing learnable edges one after another, the weakest first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from topolearn.graph.ir import Graph
from topolearn.graph.price import Alive
from topolearn.graph.topology import Topology

_ROUNDING = 1e-9
"""Shares are sums of fractions: so much less than what was asked for is as much."""


def strengths(graph: Graph, values: Sequence[float]) -> dict[int, float]:
    """Place of each learnable edge -> its |value| over the largest of its target's in-edges, fixed ones included.

    Values compare within one target only, because a normalisation behind it undoes a common scale.

    Args:
        graph: The graph that was searched.
        values: (E,) what the learner thinks of every edge.
    """
    strength: dict[int, float] = {}
    for node, learnable in graph.candidates.items():
        largest = max(abs(values[i]) for i in graph.in_edges(node)) or 1.0
        for i in learnable:
            strength[i] = abs(values[i]) / largest
    return strength


def removal_order(graph: Graph, values: Sequence[float]) -> tuple[int, ...]:
    """The learnable edges by strength, the weakest first; of equals, the later first.

    Args:
        graph: The graph that was searched.
        values: (E,) what the learner thinks of every edge.
    """
    strength = strengths(graph, values)
    return tuple(sorted(strength, key=lambda i: (strength[i], -i)))


def without(graph: Graph, values: Sequence[float], removed: Collection[int]) -> Topology:
    """The closed topology of all edges but ``removed`` and those of value 0, at their values.

    Args:
        graph: The graph that was searched.
        values: (E,) edge weights during the search.
        removed: Places of the removed edges.
    """
    gone = frozenset(removed)
    return Topology.of(graph, [i not in gone and value != 0.0 for i, value in enumerate(values)], values)


def removable(graph: Graph, keep: Sequence[bool], order: Sequence[int]) -> tuple[int, ...]:
    """``order`` without the edges that are never removed, lest an output be cut off from the inputs.

    An edge that the last path to an output needs when its turn comes stays for good, and those behind it go on.
    What is over in the end is one path, or as few as the outputs need.

    Args:
        graph: The graph that was searched.
        keep: (E,) the edges to begin with, which leave a path to every output.
        order: Places of edges in the order in which they would go.
    """
    left = list(keep)
    gone: list[int] = []
    start = 0
    while start < len(order):
        low, high = start, len(order)  # of the runs of edges that can go, the longest
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
    """Share of the learnable edges that are gone: not kept, or dead because a node at one end is.

    Args:
        graph: A graph with learnable edges.
        keep: (E,) which edges are kept.
    """
    learnable = sum(map(len, graph.candidates.values()))
    left = sum(graph.edges[i].learnable for i in Alive.of(graph, keep).edges)
    return (learnable - left) / learnable


def removed_at(graph: Graph, keep: Sequence[bool], order: Sequence[int], share: float) -> tuple[int, ...]:
    """The fewest edges from the front of ``order`` with which at least ``share`` of the learnable ones is gone.

    Edges that die with their nodes count as gone; see :func:`removed_share`. All of ``order`` where that
    is not enough.

    Args:
        graph: The graph that was searched.
        keep: (E,) the edges to begin with.
        order: Places of edges in the order in which they go.
        share: 0 to 1.
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
