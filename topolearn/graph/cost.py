"""Parameters and multiply-accumulates of a graph, from the ops' cost rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from topolearn.graph.ir import Edge, Graph, Node
from topolearn.graph.topology import Topology
from topolearn.graph.verify import EdgeKind, edge_kinds, edge_target
from topolearn.ops import Bundle, Cost, Shape, Size
from topolearn.ops.basic import Input


@dataclass(frozen=True)
class GraphCost:
    """What a graph costs for one input of its reference size.

    Attributes:
        params: Number of parameters; a part that nodes share counts once.
        macs: Multiply-accumulates of convolutions and linear layers; a shared part counts once per use.
        nodes: Id -> cost of the node alone, its shared parts included.
        edges: Cost of each edge, in canonical order.
    """

    params: int
    macs: int
    nodes: Mapping[str, Cost]
    edges: tuple[Cost, ...]


def graph_cost(graph: Graph) -> GraphCost:
    """Cost of a verified graph."""
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


def one_level_params(graph: Graph, topology: Topology) -> int:
    """Parameters that are left when nodes without a kept out-edge go, and no others.

    The rule by which Ahmed & Torresani (2018) prune: "no outgoing edge". It looks one level ahead: a
    node that only dead nodes read stays, which
    :class:`~topolearn.graph.passes.EliminateDead` removes too.

    Args:
        graph: The graph that was searched.
        topology: What is kept of its edges.
    """
    read = {edge.src for edge, kept in zip(graph.edges, topology.keep, strict=True) if kept}
    stays = {*read, *graph.outputs}
    cost = graph.cost
    total, counted = 0, set()
    for node in graph.nodes.values():
        if node.id not in stays:
            continue
        total += cost.nodes[node.id].params
        for part, group in node.share.items():
            if group in counted:
                assert isinstance(node.input, Shape)
                total -= node.rule.part_cost(part, node.input, graph.image).params
            counted.add(group)
    for edge, kept, price in zip(graph.edges, topology.keep, cost.edges, strict=True):
        total += price.params if kept and edge.dst in stays else 0
    return total


def _edge_cost(edge: Edge, source: Shape | Bundle, target: Node, image: Size) -> Cost:
    if target.input is None or not isinstance(source, Shape):
        return Cost()
    return edge.rule.cost(source, edge_target(source, target), image)
