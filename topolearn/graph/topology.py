"""The Topology class: which edges of a graph are kept, and with which weights."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from topolearn.errors import GraphError
from topolearn.graph.ir import Graph


@dataclass(frozen=True)
class Topology:
    """A choice of edges of one graph, with weights.

    Attributes:
        keep: (E,) whether each edge stays.
        weights: (E,) weight of each edge; for dropped edges it only ranks them, in case :meth:`close` must bring
            one back.
    """

    keep: tuple[bool, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "keep", tuple(bool(kept) for kept in self.keep))
        object.__setattr__(self, "weights", tuple(float(weight) for weight in self.weights))
        if len(self.keep) != len(self.weights):
            raise GraphError(f"a topology needs as many weights ({len(self.weights)}) as edges ({len(self.keep)})")

    @classmethod
    def of(
        cls, graph: Graph, keep: Sequence[bool], weights: Sequence[float], active: Sequence[bool] | None = None
    ) -> Topology:
        """Return the closed topology that computes what a search over ``graph`` computed with these edges.

        A ``mean`` node that divided by n active in-edges during the search and keeps k of them now divides by k. So the
        weights of its kept edges are multiplied by k / n.

        Args:
            graph: The graph that was searched.
            keep: (E,) whether each edge stays.
            weights: (E,) the weights during the search.
            active: (E,) which edges the divisor of ``mean`` counted; None: all in-edges.
        """
        closed = cls(tuple(keep), tuple(weights)).close(graph)
        scaled = list(closed.weights)
        for node in graph.nodes.values():
            if node.aggregate != "mean":
                continue
            indices = graph.in_edges(node.id)
            # A frozen network divides by the number of non-zero weights, which excludes kept edges of weight 0.
            kept = sum(closed.keep[i] and closed.weights[i] != 0.0 for i in indices)
            searched = len(indices) if active is None else sum(bool(active[i]) for i in indices)
            if kept and searched and kept != searched:
                for i in indices:
                    scaled[i] *= kept / searched
        return cls(closed.keep, tuple(scaled))

    def edge_weights(self) -> list[float]:
        """Return the (E,) weights of kept edges, with 0 for dropped ones."""
        return [weight if kept else 0.0 for kept, weight in zip(self.keep, self.weights, strict=True)]

    def close(self, graph: Graph) -> Topology:
        """Return the topology without the out-edges of nodes that keep no in-edge, repeated until none is left.

        If an output is cut off from the inputs, its strongest path is kept, with a warning. The strongest path is the
        one with the largest |weight| of its weakest learnable edge. An edge of weight 0 on it gets its weight from the
        graph.
        """
        if len(self.keep) != len(graph.edges):
            raise GraphError(f"a topology of {len(self.keep)} edges does not fit a graph of {len(graph.edges)}")
        keep, weights = list(self.keep), list(self.weights)
        active = _cascade(graph, keep)
        for output in graph.outputs:
            if output not in active:
                path = _strongest_path(graph, output, weights)
                names = " -> ".join([graph.edges[path[0]].src, *(graph.edges[i].dst for i in path)])
                warnings.warn(
                    f"no path from an input to '{output}' is left; keeping the strongest: {names}", stacklevel=2
                )
                for i in path:
                    keep[i] = True
                    weights[i] = weights[i] or graph.edges[i].weight or 1.0
                active = _cascade(graph, keep)
        return Topology(tuple(keep), tuple(weights))


def _cascade(graph: Graph, keep: list[bool]) -> set[str]:
    """Set ``keep`` to False for edges out of inactive nodes, in place; return the active nodes."""
    active = set(graph.inputs)
    for i, edge in enumerate(graph.edges):  # canonical order: all in-edges of a source come first
        if keep[i]:
            if edge.src in active:
                active.add(edge.dst)
            else:
                keep[i] = False
    return active


def _strongest_path(graph: Graph, output: str, weights: list[float]) -> list[int]:
    strength = dict.fromkeys(graph.inputs, math.inf)
    last: dict[str, int] = {}
    for i, edge in enumerate(graph.edges):
        if edge.src not in strength:
            continue
        through = min(strength[edge.src], abs(weights[i]) if edge.learnable else math.inf)
        if edge.dst not in strength or through >= strength[edge.dst]:
            strength[edge.dst] = through
            last[edge.dst] = i
    path = []
    node = output
    while node in last:
        path.append(last[node])
        node = graph.edges[last[node]].src
    return path[::-1]
