"""Which nodes do the same work side by side, and can run as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from topolearn.graph import Graph
from topolearn.ops import Shape

Siblings = tuple[str, ...]


def find_siblings(graph: Graph, depth: dict[str, int], stackable: Callable[[Siblings], bool]) -> tuple[Siblings, ...]:
    """Sets of nodes of one op with equal parameters and equal shapes at one depth.

    Nodes of one depth have no path between them. A set is left alone where mixing its sources as a
    whole would read more than twice what its edges read one by one.

    Args:
        graph: A verified graph.
        depth: Id -> longest path from an input.
        stackable: Whether the modules of these nodes can run as one.
    """
    alone = _alone(graph)
    alike: dict[tuple[int, tuple[object, ...]], list[str]] = {}
    for node in graph.nodes.values():
        if node.id in alone:
            continue
        kind = (node.op, node.params, node.aggregate, node.input, node.share)
        alike.setdefault((depth[node.id], kind), []).append(node.id)
    found: list[Siblings] = []
    home: dict[str, str] = {}  # node -> the first of its set
    for _, ids in sorted(alike.items(), key=lambda item: item[0][0]):
        siblings = tuple(ids)
        if len(siblings) > 1 and _is_dense(graph, siblings, home) and stackable(siblings):
            found.append(siblings)
            home.update(dict.fromkeys(siblings, siblings[0]))
    return tuple(found)


def _alone(graph: Graph) -> set[str]:
    """Nodes whose tensor someone needs by itself, or that are made in a way of their own."""
    alone = set(graph.outputs)
    for edge in graph.edges:
        if edge.rule.has_parameters:
            alone |= {edge.src, edge.dst}
        if graph.nodes[edge.dst].aggregate == "concat":
            alone.add(edge.src)
    for node in graph.nodes.values():
        ends = (node.input, graph.shapes[node.id])
        are_maps = all(isinstance(shape, Shape) and shape.stride is not None for shape in ends)
        if node.op == "input" or node.rule.takes_bundle or node.aggregate == "concat" or not are_maps:
            alone.add(node.id)
    return alone


def _is_dense(graph: Graph, siblings: Sequence[str], home: dict[str, str]) -> bool:
    edges = [graph.edges[i] for name in siblings for i in graph.in_edges(name)]
    tensors = {(home.get(edge.src, edge.src), edge.op, edge.params) for edge in edges}
    return len(tensors) * len(siblings) <= 2 * len(edges)
