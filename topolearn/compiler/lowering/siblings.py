"""A pass that runs nodes which do the same work side by side as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from topolearn.compiler.plan import (
    NO_EDGE,
    Derivation,
    NodeOutput,
    NodeStep,
    Plan,
    PlanStep,
    SiblingStep,
    Term,
    Value,
    depths,
)
from topolearn.graph import Graph
from topolearn.ops import Shape

Siblings = tuple[str, ...]


def merge_siblings(plan: Plan, sets: Sequence[Siblings]) -> Plan:
    """Merge each set of siblings into one step; their readers mix them with a matrix of edge weights.

    Requires the steps of the plain plan, and sets from :func:`find_siblings`. Ensures the same function: siblings'
    outputs are side by side in one tensor, and each entry of a matrix is one edge. It is faster, because a few large
    operations take less time than many small ones.

    Args:
        plan: The plain plan.
        sets: Ids of the nodes to run as one.
    """
    home = {name: (siblings, place) for siblings in sets for place, name in enumerate(siblings)}
    alone = {step.node: step for level in plan.levels for step in level if isinstance(step, NodeStep)}

    def merged(step: PlanStep) -> PlanStep:
        siblings, _ = home.get(step.nodes[0], (step.nodes, 0))
        edges = plan.graph.in_edges(siblings[0])
        if len(siblings) == 1 and not any(plan.graph.edges[i].src in home for i in edges):
            return step
        return SiblingStep(siblings, _terms(plan.graph, [alone[name] for name in siblings], home))

    levels = (tuple(merged(step) for step in level if _leads(step, home)) for level in plan.levels)
    return Plan(plan.graph, tuple(levels))


Homes = Mapping[str, tuple[Siblings, int]]
"""Id of a node with siblings -> its set, and its position in the set."""


def _leads(step: PlanStep, home: Homes) -> bool:
    """Whether the node has no siblings or is the first of them; all of them run in the first one's place."""
    return home.get(step.nodes[0], ((), 0))[1] == 0


def _terms(graph: Graph, steps: Sequence[NodeStep], home: Homes) -> tuple[Term, ...]:
    """Return the terms of these steps: each tensor that they read, with the matrix of its edges."""
    found: dict[Value, list[list[int]]] = {}
    for target, step in enumerate(steps):
        for number, source in zip(graph.in_edges(step.node), step.sources, strict=True):
            node = graph.edges[number].src
            siblings, place = home.get(node, ((node,), 0))
            value = _stacked(source, siblings[0])
            if value not in found:
                found[value] = [[NO_EDGE] * len(siblings) for _ in steps]
            found[value][target][place] = number
    return tuple(Term(value, len(table[0]) > 1, tuple(map(tuple, table))) for value, table in found.items())


def _stacked(value: Value, first: str) -> Value:
    """Return the same value made from the output of a whole set of siblings."""
    return replace(value, source=NodeOutput(first)) if isinstance(value, Derivation) else NodeOutput(first)


def find_siblings(graph: Graph, stackable: Callable[[Siblings], bool]) -> tuple[Siblings, ...]:
    """Find sets of nodes of one op with equal parameters and equal shapes at one depth.

    Nodes of one depth have no path between them. A set is skipped if mixing its sources as a whole would read more
    than twice as much as its edges read one by one.

    Args:
        graph: A verified graph.
        stackable: Whether the modules of these nodes can run as one.
    """
    alone, depth = _alone(graph), depths(graph)
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
    """Return the nodes that cannot have siblings: their tensor is needed separately, or their op is special."""
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
