"""Finds the chain in a graph: one learnable in-edge per node, as in an ordinary network."""

from __future__ import annotations

from topolearn.graph.wiring import Wiring
from topolearn.ops import Shape


def chain_edges(graph: Wiring) -> dict[str, int]:
    """Return the learnable in-edge of each node that belongs to the chain.

    If several nodes have the same candidates, as in a ``bipartite``, node i of them reads candidate i. Otherwise a node
    reads its latest candidate, and one of 1 x 1 (``global``) only if there is no other.

    Args:
        graph: A verified graph.

    Returns:
        Id -> index of the edge, for nodes that have candidates.
    """
    sources = {node: tuple(graph.edges[i].src for i in indices) for node, indices in graph.candidates.items()}
    siblings: dict[tuple[str, ...], list[str]] = {}
    for node, names in sources.items():
        siblings.setdefault(names, []).append(node)
    chosen = {}
    for node, names in sources.items():
        alike = siblings[names]
        if len(alike) > 1:
            place = min(alike.index(node), len(names) - 1)
        else:
            maps = [place for place, name in enumerate(names) if not _is_global(graph, name)]
            place = (maps or range(len(names)))[-1]
        chosen[node] = graph.candidates[node][place]
    return chosen


def _is_global(graph: Wiring, name: str) -> bool:
    """Whether a node gives one value per channel for the whole image; a decoder stage cannot work on that alone."""
    shape = graph.shapes[name]
    return isinstance(shape, Shape) and shape.stride == "global"
