"""The edges to keep where what is kept may cost no more than a given price.

A choice of edges leaves a graph: the nodes on a path from an input to an output, and the kept edges between them.
What some choice leaves is *reachable*; fixed edges are part of every choice, and all outputs must be left. An edge
counts whatever its value is: one at 0 is the weakest of its target, not gone. So the reachable prices are a matter of
the graph alone: sums of whole nodes, and of whole edges where edges compute something.

Of the reachable graphs that cost at most what is allowed, and no more than :data:`TOLERANCE` less, the one is
chosen that the learned ranking puts first. Where nodes are too coarse for that, it is the dearest reachable graph
below what is allowed, to a thousandth of that. See :mod:`topolearn.graph.knapsack` for how it is found.
"""

from __future__ import annotations

from collections.abc import Sequence

from topolearn.graph.ir import Graph
from topolearn.graph.knapsack import Knapsack
from topolearn.graph.price import Alive, Prices, cheapest
from topolearn.graph.removal import strengths
from topolearn.graph.topology import Topology

TOLERANCE = 0.05
"""How much less than allowed a choice may cost, as a share, before the ranking gives way to a better fit."""

_GAIN = 1e-3
"""Least gain, as a share of what is allowed, for which a dearer graph is looked for below the tolerance."""


def affordable(
    graph: Graph, order: Sequence[int], prices: Prices, allowed: float, tolerance: float = TOLERANCE
) -> list[bool]:
    """(E,) the edges to keep: the strongest that together cost at most ``allowed``.

    Beginning with the strongest, every node and every edge with a price stays if it fits beside those before it,
    and if what is left then comes within ``tolerance`` of what is allowed. A node is as strong as the edge with
    which it would die if edges went in ``order``. Edges that cost nothing stay wherever both their ends do. Where
    nothing fits, the cheapest path is kept, even if it costs more.

    Args:
        graph: The graph that is searched.
        order: Places of the learnable edges, the weakest first; as
            :func:`~topolearn.graph.removal.removal_order` gives them.
        prices: Of nodes and edges.
        allowed: Largest price.
        tolerance: 0 to 1: how much less than ``allowed`` is near enough, as a share; with 1 the ranking alone decides.
    """
    knapsack = Knapsack(graph, order, prices, allowed)
    best = knapsack.pack(0.0)
    if best is None:
        return cheapest(graph, prices)
    least = (1.0 - tolerance) * allowed
    if best.price < least:
        near = knapsack.pack(least)
        if near is not None:
            return near.keep
        # Too coarse for that: as near as it goes.
        while (better := knapsack.pack(best.price + _GAIN * allowed)) is not None:
            best = better
    return best.keep


def cut(
    graph: Graph, values: Sequence[float], order: Sequence[int], prices: Prices, allowed: float, threshold: float
) -> Topology:
    """The closed topology of the :func:`affordable` edges, but weak ones that save nothing.

    Args:
        graph: The graph that was searched.
        values: (E,) the weights that edges are kept with; where one is 0, its weight in the graph, or 1.
        order: Places of the learnable edges, the weakest first.
        prices: Of nodes and edges.
        allowed: Largest price.
        threshold: Strength below which an edge goes if it computes nothing and no node lives by it.
    """
    keep = affordable(graph, order, prices, allowed)
    weak = [i for i, strength in strengths(graph, values).items() if strength < threshold]
    _drop_idle(graph, keep, weak, prices)
    given = [value or graph.edges[i].weight or 1.0 if keep[i] else value for i, value in enumerate(values)]
    return Topology.of(graph, keep, given)


def _drop_idle(graph: Graph, keep: list[bool], weak: Sequence[int], prices: Prices) -> None:
    """Drop weak edges that compute nothing and keep no node alive."""
    alive = set(Alive.of(graph, keep).edges)
    feeders: dict[str, int] = {}
    readers: dict[str, int] = {}
    for i in alive:
        edge = graph.edges[i]
        feeders[edge.dst] = feeders.get(edge.dst, 0) + 1
        readers[edge.src] = readers.get(edge.src, 0) + 1
    for i in weak:
        edge = graph.edges[i]
        if i not in alive:
            keep[i] = False
        elif prices.edges[i] == 0.0 and feeders[edge.dst] > 1 and readers[edge.src] > 1:
            keep[i] = False
            feeders[edge.dst] -= 1
            readers[edge.src] -= 1
