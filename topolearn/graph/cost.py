"""Counts parameters and multiply-accumulates of a graph with the cost rules of its ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from topolearn.graph.verify import EdgeKind, edge_kinds
from topolearn.graph.wiring import Edge, Node, Wiring, edge_target
from topolearn.ops import Bundle, Cost, Shape, Size
from topolearn.ops.basic import Input


@dataclass(frozen=True)
class GraphCost:
    """The cost of a graph for one input of its reference size.

    Attributes:
        params: Number of parameters; a shared part counts once.
        macs: Multiply-accumulates of convolutions and linear layers; a shared part counts once per use.
        nodes: Id -> cost of the node, including its shared parts.
        edges: Cost of each edge, in canonical order.
    """

    params: int
    macs: int
    nodes: Mapping[str, Cost]
    edges: tuple[Cost, ...]


def graph_cost(graph: Wiring) -> GraphCost:
    """Return the cost of a verified graph."""
    shapes, image = graph.shapes, graph.image
    nodes: dict[str, Cost] = {}
    groups: dict[str, int] = {}
    repeated = 0
    for node in graph.nodes.values():
        rule = node.rule
        if isinstance(rule, Input):
            nodes[node.id] = Cost()
            continue
        x = shapes[graph.edges[graph.in_edges(node.id)[0]].src] if rule.takes_bundle else node.input
        nodes[node.id] = rule.cost(x, image)
        for part, group in node.share.items():
            assert isinstance(x, Shape)
            params = rule.part_cost(part, x, image).params
            if group in groups:
                repeated += params
            groups[group] = params
    known: dict[EdgeKind, Cost] = {}
    edges = []
    for edge, kind in zip(graph.edges, edge_kinds(graph), strict=True):
        if kind not in known:
            known[kind] = _edge_cost(edge, shapes[edge.src], graph.nodes[edge.dst], image)
        edges.append(known[kind])
    costs = [*nodes.values(), *edges]
    return GraphCost(
        params=sum(cost.params for cost in costs) - repeated,
        macs=sum(cost.macs for cost in costs),
        nodes=nodes,
        edges=tuple(edges),
    )


def _edge_cost(edge: Edge, source: Shape | Bundle, target: Node, image: Size) -> Cost:
    if target.input is None or not isinstance(source, Shape):
        return Cost()
    return edge.rule.cost(source, edge_target(source, target), image)
