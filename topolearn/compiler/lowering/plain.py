"""The plain plan, which is simple to check, and the plan that runs: the plain one after all passes."""

from __future__ import annotations

from collections.abc import Sequence

from topolearn.compiler.lowering.fans import make_fans
from topolearn.compiler.lowering.late_resizes import resize_late
from topolearn.compiler.lowering.siblings import Siblings, merge_siblings
from topolearn.compiler.plan import Derivation, NodeOutput, NodeStep, Plan, PlanStep, Value, depths, edge_key, ends
from topolearn.graph import Edge, Graph


def make_plan(graph: Graph, siblings: Sequence[Siblings] = ()) -> Plan:
    """Make the plan that runs.

    Args:
        graph: A verified graph.
        siblings: Sets of nodes to run as one; see :func:`topolearn.compiler.lowering.find_siblings`.
    """
    return resize_late(make_fans(merge_siblings(plain_plan(graph), siblings)))


def plain_plan(graph: Graph) -> Plan:
    """Make one step per node, by depth; each in-edge's op makes its tensor from the source's output.

    Args:
        graph: A verified graph.
    """
    depth = depths(graph)
    levels: list[list[PlanStep]] = [[] for _ in range(max(depth.values()))]
    for node in graph.nodes.values():
        if node.op != "input":
            sources = tuple(_brought(graph, graph.edges[i]) for i in graph.in_edges(node.id))
            levels[depth[node.id] - 1].append(NodeStep(node.id, sources, (False,) * len(sources)))
    return Plan(graph, tuple(map(tuple, levels)))


def _brought(graph: Graph, edge: Edge) -> Value:
    """Return the value of an edge: its source, if the op has nothing to do, else a derivation."""
    source = NodeOutput(edge.src)
    if edge.op == "identity":
        return source
    shape, wanted = ends(graph, edge)
    if shape == wanted and edge.op in ("align", "resize"):
        return source
    return Derivation(source, edge.rule, (shape, wanted), edge_key(edge) if edge.rule.has_parameters else None)
