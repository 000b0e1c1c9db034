"""Passes transform a Graph into another; each is a frozen dataclass and says whether it preserves the function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from topolearn.errors import GraphError
from topolearn.frozen import FrozenMap
from topolearn.graph.ir import Graph
from topolearn.graph.topology import Topology
from topolearn.graph.wiring import Edge, Node
from topolearn.ops import Shape
from topolearn.ops.basic import Relu
from topolearn.ops.resnext import FAN_IN


class Pass(ABC):
    """A transformation of graphs.

    Class attributes:
        preserves_function: Whether the network computes the same before and after.
    """

    preserves_function: ClassVar[bool]

    @abstractmethod
    def __call__(self, graph: Graph) -> Graph:
        """Return the transformed graph; nodes and edges that stay keep their relative order."""


def apply_passes(graph: Graph, *passes: Pass) -> Graph:
    """Run passes in order and verify the graph after each."""
    for step in passes:
        graph = step(graph).verify()
    return graph


@dataclass(frozen=True)
class FixPoint(Pass):
    """Run passes in turn, again and again, until they change nothing: one pass can give another something to do.

    The passes may only remove things; otherwise this may never end. Counts as a pass that changes the function,
    because its passes may.

    Attributes:
        passes: The passes, in order; the graph is verified after each.
    """

    passes: tuple[Pass, ...]

    preserves_function: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> Graph:
        """Run the passes; returns the same graph if they change nothing."""
        while (changed := apply_passes(graph, *self.passes)) != graph:
            graph = changed
        return graph


@dataclass(frozen=True)
class KeepEdges(Pass):
    """Keep the edges of a topology as fixed edges with its weights; remove the others, and nodes without in-edges.

    Preserves the function of the network that is masked by the same topology. A ``concat`` that loses a source
    becomes a sum of ``align`` edges with channel offsets, so that the other sources keep their channels.

    Attributes:
        topology: The edges to keep; the pass closes it first.
    """

    topology: Topology

    preserves_function: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> Graph:
        """Remove what the topology does not keep."""
        closed = self.topology.close(graph)
        edges: list[Edge] = []
        nodes: dict[str, Node] = {}
        for node in graph.nodes.values():
            indices = graph.in_edges(node.id)
            kept = [i for i in indices if closed.keep[i]]
            if indices and not kept:
                continue
            chosen = [replace(graph.edges[i], learnable=False, weight=closed.weights[i]) for i in kept]
            if node.aggregate == "concat" and len(kept) < len(indices):
                node, chosen = _offset_sum(graph, node, kept, chosen, nodes, edges)
            nodes[node.id] = node
            edges.extend(chosen)
        return EliminateDead()(graph.replace(nodes=nodes, edges=tuple(edges)))


def _offset_sum(
    graph: Graph, node: Node, kept: list[int], chosen: list[Edge], nodes: dict[str, Node], edges: list[Edge]
) -> tuple[Node, list[Edge]]:
    """Turn a concat node that lost a source into a sum; a resized source first gets its own node for resizing."""
    offsets, offset = {}, 0
    for i in graph.in_edges(node.id):
        offsets[i] = offset
        source = graph.shapes[graph.edges[i].src]
        assert isinstance(source, Shape)
        offset += source.channels
    placed = []
    for i, edge in zip(kept, chosen, strict=True):
        source_id, source = edge.src, graph.shapes[edge.src]
        if edge.op != "identity":
            assert isinstance(source, Shape)
            assert node.input is not None
            source_id = f"{edge.src}_to_{node.id}"
            while source_id in graph.nodes or source_id in nodes:
                source_id += "_"
            nodes[source_id] = Node(source_id, "identity", input=node.input.with_channels(source.channels))
            edges.append(replace(edge, dst=source_id, weight=1.0))
        placed.append(Edge(source_id, node.id, "align", FrozenMap({"offset": offsets[i]}), False, edge.weight))
    op = "identity" if node.op == "concat" else node.op
    return replace(node, aggregate="sum", op=op), placed


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Remove every node that has no path from an input, or no path to an output.

    Preserves the function of a graph in which a node without in-edges sends nothing. The first image input stays as
    long as any image input does, because all strides are relative to it.
    """

    preserves_function: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> Graph:
        """Remove dead nodes and their edges."""
        reached = set(graph.inputs)
        for edge in graph.edges:
            if edge.src in reached:
                reached.add(edge.dst)
        useful = set(graph.outputs)
        for edge in reversed(graph.edges):
            if edge.dst in useful and edge.src in reached:
                useful.add(edge.src)
        alive = reached & useful
        if alive.intersection(graph.image_inputs):
            alive.add(graph.image_inputs[0])
        if not set(graph.outputs) <= alive:
            missing = next(output for output in graph.outputs if output not in alive)
            raise GraphError(f"no path from an input to the output '{missing}' is left", node=missing)
        if len(alive) == len(graph.nodes):
            return graph
        return graph.replace(
            nodes={name: node for name, node in graph.nodes.items() if name in alive},
            edges=tuple(edge for edge in graph.edges if edge.src in alive and edge.dst in alive),
        )


@dataclass(frozen=True)
class RemoveIdleRelus(Pass):
    """Remove every ``relu`` with an input that is never negative: dropped residual blocks leave such nodes.

    Such a node has one in-edge, a fixed ``identity`` of weight w > 0 from a source known to be non-negative, and gives
    w times that source. Its out-edges start from the source instead, and their weights are multiplied by w. If the
    target already reads the source by the same op, the two weights are added.

    A node stays if it is an output, or if one of its out-edges is learnable, has parameters, ends in a ``concat``
    (because that orders its channels by source), or would have to merge with an edge of another op.
    """

    preserves_function: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> Graph:
        """Remove all such nodes in topological order, so that one removal can enable the next."""
        if not any(isinstance(node.rule, Relu) for node in graph.nodes.values()):
            return graph
        into = {name: {graph.edges[i].src: graph.edges[i] for i in graph.in_edges(name)} for name in graph.nodes}
        non_negative: dict[str, bool] = {}
        idle: set[str] = set()
        for node in graph.nodes.values():  # a source is known before its readers
            edges = tuple(into[node.id].values())
            non_negative[node.id] = node.rule.non_negative(_sum_is_non_negative(node, edges, non_negative))
            if node.id in graph.outputs or not _is_idle(node, edges, non_negative):
                continue
            targets = [target for target in graph.nodes.values() if node.id in into[target.id]]
            if all(_takes_instead(target, into[target.id], node.id, edges[0].src) for target in targets):
                for target in targets:
                    _reroute(target, into[target.id], node.id, edges[0])
                idle.add(node.id)
        if not idle:
            return graph
        return graph.replace(
            nodes={name: node for name, node in graph.nodes.items() if name not in idle},
            edges=tuple(edge for name, edges in into.items() if name not in idle for edge in edges.values()),
        )


def _sum_is_non_negative(node: Node, edges: tuple[Edge, ...], non_negative: dict[str, bool]) -> bool:
    """Whether what the node aggregates is known to be non-negative."""
    return node.aggregate != "normalised" and all(
        non_negative[edge.src] and edge.rule.positive_linear and edge.weight >= 0 and not edge.learnable
        for edge in edges
    )


def _is_idle(node: Node, edges: tuple[Edge, ...], non_negative: dict[str, bool]) -> bool:
    """Whether the node only multiplies its one source by a positive weight."""
    return (
        isinstance(node.rule, Relu)
        and node.aggregate in ("sum", "mean")  # a mean over one active edge divides by 1
        and len(edges) == 1
        and edges[0].op == "identity"
        and edges[0].weight > 0
        and not edges[0].learnable
        and non_negative[edges[0].src]
    )


def _takes_instead(target: Node, edges: dict[str, Edge], old: str, new: str) -> bool:
    """Whether ``target`` can read ``new`` instead of ``old``."""
    edge, present = edges[old], edges.get(new)
    if target.aggregate == "concat" or edge.learnable or not edge.rule.positive_linear:
        return False
    if present is None:
        return True
    if present.learnable or (present.op, present.params) != (edge.op, edge.params):
        return False
    # During a search the learner decides which edges a mean counts, so edges cannot be merged.
    return target.aggregate != "mean" or not any(other.learnable for other in edges.values())


def _reroute(target: Node, edges: dict[str, Edge], old: str, through: Edge) -> None:
    """Let ``target`` read the source of ``through`` instead of ``old``; ``edges`` are its in-edges by source."""
    counted = sum(edge.weight != 0 for edge in edges.values())
    edge = edges.pop(old)
    present = edges.get(through.src)
    weight = edge.weight * through.weight + (0.0 if present is None else present.weight)
    edges[through.src] = replace(edge, src=through.src, weight=weight)
    now = sum(edge.weight != 0 for edge in edges.values())
    if target.aggregate == "mean" and 0 < now != counted:
        edges.update({src: replace(edge, weight=edge.weight * now / counted) for src, edge in edges.items()})


@dataclass(frozen=True)
class BindFanIn(Pass):
    """Replace ``residual_scale: fan_in`` by a number.

    That number is min(fan_in, C). C is the size of the largest candidate set, which is the cardinality of a
    branch-level ResNeXt. Without a learner, or if the learner has no fan-in, the number is C.

    Attributes:
        fan_in: Number of in-edges that each node keeps; None if no learner limits it.
    """

    fan_in: int | None = None

    preserves_function: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> Graph:
        """Replace every ``fan_in``; returns the same graph if there is none."""
        if not any(_unbound(node) for node in graph.nodes.values()):
            return graph
        largest = graph.largest_candidate_set or max(len(graph.in_edges(node)) for node in graph.nodes)
        scale = float(largest if self.fan_in is None else min(self.fan_in, largest))

        def bound(node: Node) -> Node:
            if not _unbound(node):
                return node
            params: dict[str, Any] = {k: scale if v == FAN_IN else v for k, v in node.params.items()}
            return replace(node, params=FrozenMap(params))

        return graph.replace(nodes=[bound(node) for node in graph.nodes.values()])


def _unbound(node: Node) -> bool:
    return node.params.get("residual_scale") == FAN_IN


@dataclass(frozen=True)
class UnitWeights(Pass):
    """Set the weight of every edge to 1, except for edges with a given weight.

    For a network that is trained again from the start, without its gates. Changes the function.

    Attributes:
        others: The exceptions as (source, target, weight); edges that the graph does not have are ignored.
    """

    preserves_function: ClassVar[bool] = False

    others: frozenset[tuple[str, str, float]] = frozenset()

    @classmethod
    def after_search(cls, graph: Graph) -> UnitWeights:
        """Return the pass for a graph pruned from ``graph``; fixed edges keep their weights from ``graph``."""
        return cls(frozenset((edge.src, edge.dst, edge.weight) for edge in graph.edges if not edge.learnable))

    def __call__(self, graph: Graph) -> Graph:
        """Set the weights."""
        weights = {(src, dst): weight for src, dst, weight in self.others}
        return graph.replace(
            edges=tuple(replace(edge, weight=weights.get((edge.src, edge.dst), 1.0)) for edge in graph.edges)
        )
