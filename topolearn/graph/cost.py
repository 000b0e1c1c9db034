"""Parameters and multiply-accumulates of a graph, from the ops' cost rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from topolearn.graph.ir import Graph
from topolearn.graph.verify import edge_target
from topolearn.ops import Cost, Shape
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
    known: dict[tuple[object, ...], Cost] = {}
    edges = []
    for edge in graph.edges:
        target, source = graph.nodes[edge.dst], shapes[edge.src]
        if target.input is None or not isinstance(source, Shape):
            edges.append(Cost())
            continue
        wanted = edge_target(source, target)
        key = (edge.op, edge.params, source, wanted)
        if key not in known:
            known[key] = edge.rule.cost(source, wanted, image)
        edges.append(known[key])
    costs = [*nodes.values(), *edges]
    return GraphCost(
        params=sum(cost.params for cost in costs) - repeated,
        macs=sum(cost.macs for cost in costs),
        nodes=nodes,
        edges=tuple(edges),
    )
