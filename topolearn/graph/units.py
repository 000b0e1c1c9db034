"""Groups nodes and edges that live and die together, with their price and the learnable edges to cut to drop them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from topolearn.graph.ir import Graph
from topolearn.graph.price import Prices

_Cut = frozenset[int] | None


@dataclass(frozen=True)
class Unit:
    """Nodes and edges with a price that live and die together.

    Attributes:
        price: Total price.
        members: Ids of the nodes, then indices of the edges.
        cuts: The ways to drop the unit; each is the set of learnable edges to cut. There is more than one only if the
            unit has fixed edges on both sides, so that others die with it either way.
    """

    price: float
    members: tuple[str | int, ...]
    cuts: tuple[frozenset[int], ...]


def units(graph: Graph, keep: Sequence[bool], prices: Prices) -> tuple[list[Unit], float]:
    """Return the units of what is kept, in topological order, and the price of what is always alive.

    Args:
        graph: The graph.
        keep: (E,) all learnable edges, and the fixed ones that count.
        prices: Prices of nodes and edges.
    """
    edges = [(i, edge) for i, edge in enumerate(graph.edges) if keep[i]]
    fixed_in = {edge.dst for _, edge in edges if not edge.learnable}
    fixed_out = {edge.src for _, edge in edges if not edge.learnable}
    unfed, unread = _cuts(graph, keep)
    # Members with the same cuts live and die together: (their cuts, member, price, the best of the cuts).
    things: list[tuple[object, str | int, float, tuple[_Cut, ...]]] = []
    for name in graph.nodes:
        both = (unread[name], unfed[name])
        best: tuple[_Cut, ...] = both
        if both[0] is not None and name not in fixed_out:  # no other node dies with it
            best = both[:1]
        elif both[1] is not None and name not in fixed_in:
            best = both[1:]
        things.append((both, name, prices.nodes[name], best))
    for i, edge in edges:
        both = (unread[edge.dst], unfed[edge.src])
        own = (frozenset([i]),)
        things.append((i, i, prices.edges[i], own) if edge.learnable else (both, i, prices.edges[i], both))
    groups: dict[object, list[tuple[str | int, float, tuple[_Cut, ...]]]] = {}
    for key, member, price, cuts in things:
        if price > 0.0:
            groups.setdefault(key, []).append((member, price, cuts))
    base = math.fsum(price for _, price, _ in groups.pop((None, None), []))
    row = {name: number for number, name in enumerate(graph.nodes)}
    found: list[tuple[int, Unit]] = []
    for group in groups.values():
        members = tuple(member for member, _, _ in group)
        ways = min((tuple(cut for cut in cuts if cut is not None) for _, _, cuts in group), key=len)
        unit = Unit(math.fsum(price for _, price, _ in group), members, ways)
        first = members[0]
        found.append((row[first if isinstance(first, str) else graph.edges[first].dst], unit))
    return [unit for _, unit in sorted(found, key=lambda item: item[0])], base


def _cuts(graph: Graph, keep: Sequence[bool]) -> tuple[dict[str, _Cut], dict[str, _Cut]]:
    """Return id -> learnable edges to cut so that nothing feeds the node, and id -> those so that nothing reads it.

    None if the node is always fed, or always read. A node at the end of a fixed edge is fed by what feeds the source.
    """
    unfed: dict[str, set[int] | None] = {name: set() for name in graph.nodes} | dict.fromkeys(graph.inputs)
    unread: dict[str, set[int] | None] = {name: set() for name in graph.nodes} | dict.fromkeys(graph.outputs)
    edges = [(i, edge) for i, edge in enumerate(graph.edges) if keep[i]]
    for i, edge in edges:  # canonical order: all in-edges of a source come first
        unfed[edge.dst] = _joined(unfed[edge.dst], {i} if edge.learnable else unfed[edge.src])
    for i, edge in reversed(edges):
        unread[edge.src] = _joined(unread[edge.src], {i} if edge.learnable else unread[edge.dst])
    return _frozen(unfed), _frozen(unread)


def _joined(cut: set[int] | None, more: set[int] | None) -> set[int] | None:
    """Add ``more`` to ``cut`` in place and return it; None if either is None."""
    if cut is None or more is None:
        return None
    cut |= more
    return cut


def _frozen(cuts: dict[str, set[int] | None]) -> dict[str, _Cut]:
    return {name: None if cut is None else frozenset(cut) for name, cut in cuts.items()}
