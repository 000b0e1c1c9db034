"""How many edges go into and out of a node, before and after pruning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from topolearn.graph import Graph


@dataclass(frozen=True)
class Degree:
    """Number of in-edges or of out-edges of a node.

    Attributes:
        before: In the graph that was searched; as ``after`` where there was none.
        after: In the graph itself; 0 for a node that is gone.
    """

    before: int
    after: int

    def text(self, arrow: str = "→") -> str:
        """One number, or both where they differ."""
        return f"{self.before}{arrow}{self.after}" if self.before != self.after else f"{self.after}"


def degrees(graph: Graph, searched: Graph | None = None) -> dict[str, tuple[Degree, Degree]]:
    """Id -> in-degree and out-degree of every node of either graph.

    Args:
        graph: What there is.
        searched: The graph that it was learned in.
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
