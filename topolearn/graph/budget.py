"""Chooses the edges to keep under a budget: what is kept costs at most a given price.

A choice of edges leaves a graph: the nodes on a path from an input to an output, and the kept edges between them. A
graph that some choice leaves is *reachable*. Fixed edges are part of every choice, and all outputs must remain. An
edge of value 0 is the weakest of its target, but it can still be chosen. So the reachable prices depend only on the
graph: they are sums of whole nodes, and of whole edges if edges compute something.

The result is the reachable graph that the learned ranking puts first, among those that cost at most the allowed price
and at most :data:`TOLERANCE` less. If nodes are too coarse for that, the result is the most expensive reachable graph
below the allowed price, to a thousandth of it. :mod:`topolearn.graph.knapsack` does the search.
"""

from __future__ import annotations

from collections.abc import Sequence

from topolearn.graph.ir import Graph
from topolearn.graph.knapsack import Knapsack
from topolearn.graph.price import Alive, Prices, cheapest
from topolearn.graph.removal import strengths
from topolearn.graph.topology import Topology

TOLERANCE = 0.05
"""Share of the allowed price that a choice may leave unused before a closer fit overrides the ranking."""

_GAIN = 1e-3
"""Minimum gain of each further search below the tolerance, as a share of the allowed price."""


def affordable(
    graph: Graph, order: Sequence[int], prices: Prices, allowed: float, tolerance: float = TOLERANCE
) -> list[bool]:
    """Choose the (E,) edges to keep: the strongest that together cost at most ``allowed``.

    Nodes and edges with a price are taken from the strongest on. Each stays if it fits beside those before it, and if
    the result can still come within ``tolerance`` of ``allowed``. A node is as strong as the edge that it would die
    with if edges were removed in ``order``. An edge that costs nothing stays if both its ends do. If nothing fits,
    the cheapest path is kept, even if it costs more.

    Args:
        graph: The graph that is searched.
        order: Indices of the learnable edges, the weakest first, from
            :func:`~topolearn.graph.removal.removal_order`.
        prices: Prices of nodes and edges.
        allowed: Maximum price.
        tolerance: Share of ``allowed``, 0 to 1, that may stay unused; with 1, only the ranking decides.
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
        # Nodes are too coarse for that: get as near as possible.
        while (better := knapsack.pack(best.price + _GAIN * allowed)) is not None:
            best = better
    return best.keep


def cut(
    graph: Graph, values: Sequence[float], order: Sequence[int], prices: Prices, allowed: float, threshold: float
) -> Topology:
    """Return the closed topology of the :func:`affordable` edges, without weak edges that nothing depends on.

    Args:
        graph: The graph that was searched.
        values: (E,) weights of the kept edges; a kept edge of weight 0 gets its weight from the graph, or 1.
        order: Indices of the learnable edges, the weakest first.
        prices: Prices of nodes and edges.
        allowed: Maximum price.
        threshold: An edge weaker than this is removed if it computes nothing and keeps no node alive.
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
