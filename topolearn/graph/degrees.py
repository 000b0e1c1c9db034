"""Counts the edges into and out of each node, before and after pruning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from topolearn.graph import Graph


@dataclass(frozen=True)
class Degree:
    """Number of in-edges or out-edges of a node.

    Attributes:
        before: Number in the searched graph; the same as ``after`` if there is no searched graph.
        after: Number in the graph itself; 0 for a removed node.
    """

    before: int
    after: int

    def text(self, arrow: str = "→") -> str:
        """Return one number, or both if they differ."""
        return f"{self.before}{arrow}{self.after}" if self.before != self.after else f"{self.after}"


def degrees(graph: Graph, searched: Graph | None = None) -> dict[str, tuple[Degree, Degree]]:
    """Return the in-degree and out-degree of every node of either graph, by id.

    Args:
        graph: The graph.
        searched: The searched graph that ``graph`` was pruned from.
    """
    now = _count(graph)
    was = now if searched is None else _count(searched)
    found = {}
    for name in {**was, **now}:
        after = now.get(name, (0, 0))
        before = was.get(name, after)  # a node that pruning added
        found[name] = (Degree(before[0], after[0]), Degree(before[1], after[1]))
    return found


def _count(graph: Graph) -> dict[str, tuple[int, int]]:
    out = Counter(edge.src for edge in graph.edges)
    return {name: (len(graph.in_edges(name)), out[name]) for name in graph.nodes}
