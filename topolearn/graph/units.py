"""What of a graph lives and dies together, what it costs, and which learnable edges to cut to be rid of it."""

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
        price: Of all of them.
        members: Ids of the nodes, then places of the edges.
        cuts: The ways to be rid of it, each the places of learnable edges that have to go. More than one only where
            fixed edges hang on it on both sides, so that others die with it either way.
    """

    price: float
    members: tuple[str | int, ...]
    cuts: tuple[frozenset[int], ...]


def units(graph: Graph, keep: Sequence[bool], prices: Prices) -> tuple[list[Unit], float]:
    """The units of what is kept, those upstream first, and the price of what is always alive.

    Args:
        graph: The graph.
        keep: (E,) all learnable edges, and the fixed ones that count.
        prices: Of nodes and edges.
    """
    edges = [(i, edge) for i, edge in enumerate(graph.edges) if keep[i]]
    fixed_in = {edge.dst for _, edge in edges if not edge.learnable}
    fixed_out = {edge.src for _, edge in edges if not edge.learnable}
    unfed, unread = _cuts(graph, keep)
    # What shares its cuts shares its fate: (cuts that it shares, member, price, the best of those cuts).
    things: list[tuple[object, str | int, float, tuple[_Cut, ...]]] = []
    for name in graph.nodes:
        both = (unread[name], unfed[name])
        best: tuple[_Cut, ...] = both
        if both[0] is not None and name not in fixed_out:  # takes no other node along
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
    """Id -> the learnable edges without which the node is not fed, and those without which it is not read.

    None where it always is. A node that another feeds over a fixed edge is fed by what feeds that one.
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
    """``cut`` with ``more`` added in place; None where either is."""
    if cut is None or more is None:
        return None
    cut |= more
    return cut


def _frozen(cuts: dict[str, set[int] | None]) -> dict[str, _Cut]:
    return {name: None if cut is None else frozenset(cut) for name, cut in cuts.items()}
