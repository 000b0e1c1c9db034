"""The edges to keep where what is kept may cost no more than a given price."""

from __future__ import annotations

from collections.abc import Sequence

from topolearn.graph.ir import Graph
from topolearn.graph.price import Alive, Prices, cheapest
from topolearn.graph.removal import removal_order, strengths
from topolearn.graph.topology import Topology

_MISFITS = 16
"""Edges that are found not to fit before :func:`affordable` stops looking for weaker ones that do."""


def affordable(graph: Graph, values: Sequence[float], prices: Prices, allowed: float) -> list[bool]:
    """(E,) the strongest edges that together cost at most ``allowed``.

    Edges go in :func:`~topolearn.graph.removal.removal_order` until the rest fits; then whatever still fits
    comes back, the strongest first. Where the order would cut an output off, it starts from the cheapest
    path instead, which is kept even if it costs more.

    Args:
        graph: The graph that is searched.
        values: (E,) what the learner thinks of every edge; those of value 0 are gone already.
        prices: Of nodes and edges.
        allowed: Largest price.
    """
    order = removal_order(graph, values)
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        if Alive.of(graph, _without(values, order[:middle])).price(prices) <= allowed:
            high = middle
        else:
            low = middle + 1
    keep = _without(values, order[:low])
    if not set(graph.outputs) <= Alive.of(graph, keep).nodes:
        keep = cheapest(graph, prices)
    _fill(graph, keep, [i for i in reversed(order) if not keep[i] and values[i] != 0.0], prices, allowed)
    alive = Alive.of(graph, keep).nodes
    for i in order:
        edge = graph.edges[i]
        if values[i] != 0.0 and prices.edges[i] == 0.0 and edge.src in alive and edge.dst in alive:
            keep[i] = True
    return keep


def cut(graph: Graph, values: Sequence[float], prices: Prices, allowed: float, threshold: float) -> Topology:
    """The closed topology of the :func:`affordable` edges, but weak ones that save nothing.

    Args:
        graph: The graph that was searched.
        values: (E,) edge weights at the end of the search.
        prices: Of nodes and edges.
        allowed: Largest price.
        threshold: Strength below which an edge goes if it computes nothing and no node lives by it.
    """
    keep = affordable(graph, values, prices, allowed)
    weak = [i for i, strength in strengths(graph, values).items() if strength < threshold]
    _drop_idle(graph, keep, weak, prices)
    # The cheapest path may lead over an edge of value 0.
    given = [value or graph.edges[i].weight or 1.0 if keep[i] else value for i, value in enumerate(values)]
    return Topology.of(graph, keep, given)


def _without(values: Sequence[float], removed: Sequence[int]) -> list[bool]:
    keep = [value != 0.0 for value in values]
    for i in removed:
        keep[i] = False
    return keep


def _fill(graph: Graph, keep: list[bool], candidates: Sequence[int], prices: Prices, allowed: float) -> None:
    """Add candidates in their order, leaving out those with which the graph would cost too much."""
    start = 0
    for _ in range(_MISFITS):
        # The longest run of candidates that fits; the one behind it does not.
        low, high = start, len(candidates)
        while low < high:
            middle = (low + high + 1) // 2
            trial = list(keep)
            for i in candidates[start:middle]:
                trial[i] = True
            if Alive.of(graph, trial).price(prices) <= allowed:
                low = middle
            else:
                high = middle - 1
        for i in candidates[start:low]:
            keep[i] = True
        start = low + 1
        if start >= len(candidates):
            return


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
