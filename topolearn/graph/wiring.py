"""Nodes, edges, and their wiring: canonical order, candidates, shapes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from topolearn.errors import GraphError, OptionError
from topolearn.frozen import EMPTY, FrozenMap
from topolearn.graph.source import Source
from topolearn.ops import EdgeOp, NodeOp, Shape, ShapeError, Size, edge_op, node_op
from topolearn.ops.basic import Input
from topolearn.ops.shape import Bundle, Stride
from topolearn.task_kinds import DEFAULT_TASK

AGGREGATES = ("sum", "mean", "normalised", "concat")
"""How a node can combine what its in-edges bring."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node: it aggregates what its in-edges bring, then transforms it.

    Attributes:
        id: Matches ``[A-Za-z_][A-Za-z0-9_]*``.
        op: Name of a registered node op.
        params: The op's parameters, as written.
        aggregate: ``sum``; ``mean`` (over the active in-edges); ``normalised`` (batch normalisation of the sum,
            without scale and shift); ``concat`` (along the channels).
        input: The shape that every in-edge must bring; None for inputs and features, and before
            :meth:`Graph.declare_inputs`.
        share: Part of the op -> group of nodes that share its parameters.
    """

    id: str
    op: str
    params: FrozenMap = EMPTY
    aggregate: str = "sum"
    input: Shape | None = None
    share: FrozenMap = EMPTY

    def __post_init__(self) -> None:
        if type(self.params) is not FrozenMap:
            object.__setattr__(self, "params", FrozenMap(self.params))
        if type(self.share) is not FrozenMap:
            object.__setattr__(self, "share", FrozenMap(self.share))

    @property
    def rule(self) -> NodeOp:
        """The op with its parameters; raises OptionError if they are invalid."""
        return node_op(self.op, self.params)


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge: it brings the source's output, through the edge op, times a weight.

    Attributes:
        src: Id of the source.
        dst: Id of the target.
        op: Name of a registered edge op.
        params: The op's parameters, as written.
        learnable: Whether a learner decides about this edge.
        weight: The edge's value without a learner. The learner ``continuous`` starts from it; the other learners start
            from their own constants.
    """

    src: str
    dst: str
    op: str = "identity"
    params: FrozenMap = EMPTY
    learnable: bool = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        if type(self.params) is not FrozenMap:
            object.__setattr__(self, "params", FrozenMap(self.params))
        if type(self.weight) is not float:
            object.__setattr__(self, "weight", float(self.weight))

    @property
    def rule(self) -> EdgeOp:
        """The edge op with its parameters; raises OptionError if they are invalid."""
        return edge_op(self.op, self.params)


@dataclass(frozen=True)
class Wiring:
    """The nodes of a network in topological order, and its edges by destination, then source.

    This is the base of :class:`~topolearn.graph.ir.Graph`, which can also be verified, priced and written.

    The constructor brings nodes and edges into canonical order (inputs first, then Kahn's algorithm, ties in the
    declared order), so that edge i is entry i of every vector of E edge weights. A graph with a cycle or an unknown id
    keeps the declared order; :meth:`Graph.verify` reports the error.

    Attributes:
        name: The graph's name.
        nodes: Id -> node; the constructor also takes an iterable of nodes.
        edges: All edges.
        outputs: Ids of the nodes whose outputs the network returns.
        task: ``classification``, ``segmentation`` …
        data: Name of the default data set.
        sources: Name -> network that the parts of nodes with op ``part`` are from.
    """

    name: str
    nodes: Mapping[str, Node]
    edges: tuple[Edge, ...]
    outputs: tuple[str, ...]
    task: str = DEFAULT_TASK
    data: str | None = None
    sources: Mapping[str, Source] = EMPTY

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", FrozenMap(self.sources))
        given: Iterable[Node] = self.nodes.values() if isinstance(self.nodes, Mapping) else self.nodes
        nodes: dict[str, Node] = {}
        for node in given:
            if node.id in nodes:
                raise GraphError(f"duplicate id '{node.id}'; every node needs its own id", node=node.id)
            nodes[node.id] = node
        # A file declares inputs before nodes. Every graph has the same order, so that it reads back equal.
        nodes = dict(sorted(nodes.items(), key=lambda item: item[1].op != Input.op_name))
        nodes, edges = _canonical(nodes, tuple(self.edges))
        object.__setattr__(self, "nodes", FrozenMap(nodes))
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "outputs", tuple(self.outputs))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Wiring):
            return NotImplemented
        return self is other or (
            (self.name, self.outputs, self.task, self.data, self.sources)
            == (other.name, other.outputs, other.task, other.data, other.sources)
            and tuple(self.nodes.values()) == tuple(other.nodes.values())
            and self.edges == other.edges
        )

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        named = (self.name, self.outputs, self.task, self.data, self.sources)
        return hash((*named, tuple(self.nodes.values()), self.edges))

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Ids of the input nodes."""
        return tuple(node.id for node in self.nodes.values() if node.op == Input.op_name)

    @cached_property
    def image(self) -> Size:
        """Height and width of the first image input; (1, 1) if there is none."""
        if not self.image_inputs:
            return (1, 1)
        _, height, width = self.input_size(self.image_inputs[0])
        return (height, width)

    @cached_property
    def image_inputs(self) -> tuple[str, ...]:
        """Ids of the inputs with height and width; all strides are relative to the first."""
        return tuple(name for name in self.inputs if len(self.input_size(name)) == 3)

    def input_size(self, name: str) -> tuple[int, ...]:
        """Return the shape of the tensor for the input ``name``, without the batch axis.

        It is (channels, height, width), (features,), (tokens, channels), or (tokens,) for ids.
        """
        return self.input_rule(name).shape

    def input_rule(self, name: str) -> Input:
        """Return the op of the input ``name``, which holds its size."""
        rule = self.nodes[name].rule
        assert isinstance(rule, Input)
        return rule

    @cached_property
    def shapes(self) -> Mapping[str, Shape | Bundle]:
        """Id -> shape of the node's output; raises GraphError if an op cannot take its input."""
        shapes: dict[str, Shape | Bundle] = {}
        for node in self.nodes.values():
            sources = [shapes[self.edges[i].src] for i in self.in_edges(node.id)]
            shapes[node.id] = output_shape(self, node, sources)
        return shapes

    @cached_property
    def _in_slices(self) -> dict[str, range]:
        slices = dict.fromkeys(self.nodes, range(0))
        start = 0
        for stop in range(1, len(self.edges) + 1):
            if stop == len(self.edges) or self.edges[stop].dst != self.edges[start].dst:
                slices[self.edges[start].dst] = range(start, stop)
                start = stop
        return slices

    def in_edges(self, node: str) -> range:
        """Return the indices of the node's in-edges, which are consecutive in canonical order."""
        return self._in_slices[node]

    @cached_property
    def candidates(self) -> Mapping[str, tuple[int, ...]]:
        """Id -> indices of its learnable in-edges, for the nodes that have any."""
        found: dict[str, list[int]] = {}
        for index, edge in enumerate(self.edges):
            if edge.learnable:
                found.setdefault(edge.dst, []).append(index)
        return {node: tuple(indices) for node, indices in found.items()}

    @property
    def largest_candidate_set(self) -> int:
        """Size of the largest candidate set; 0 without learnable edges."""
        return max(map(len, self.candidates.values()), default=0)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def __repr__(self) -> str:
        learnable = sum(map(len, self.candidates.values()))
        counts = f"{len(self.nodes)} nodes, {len(self.edges)} edges, {learnable} learnable"
        return f"{type(self).__name__}({self.name!r}, {counts})"


def _canonical(nodes: dict[str, Node], edges: tuple[Edge, ...]) -> tuple[dict[str, Node], tuple[Edge, ...]]:
    position = {node: index for index, node in enumerate(nodes)}
    try:
        keys = [(position[edge.dst], position[edge.src]) for edge in edges]
    except KeyError:
        return nodes, edges
    if any(dst <= src for dst, src in keys):
        order = _kahn(len(nodes), keys)
        if order is None:
            return nodes, edges
        ids = list(nodes)
        nodes = {ids[index]: nodes[ids[index]] for index in order}
        position = {node: index for index, node in enumerate(nodes)}
        keys = [(position[edge.dst], position[edge.src]) for edge in edges]
    # If no edge points backwards, the declared order is already Kahn's.
    if all(first <= second for first, second in itertools.pairwise(keys)):
        return nodes, edges
    return nodes, tuple(edges[index] for index in sorted(range(len(edges)), key=keys.__getitem__))


def _kahn(count: int, edges: list[tuple[int, int]]) -> list[int] | None:
    """Return the topological order of 0..count-1 by (dst, src) edges, smallest number first; None if cyclic."""
    import networkx as nx

    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from((src, dst) for dst, src in edges)
    try:
        return list(nx.lexicographical_topological_sort(graph))
    except nx.NetworkXUnfeasible:
        return None


def rule_of(node: Node) -> NodeOp:
    """Return ``node.rule``; errors name the node."""
    try:
        return node.rule
    except OptionError as error:
        raise GraphError(f"node '{node.id}': {error.message}", node=node.id) from None


def edge_target(source: Shape, target: Node) -> Shape:
    """Return the shape that an edge from ``source`` must bring: the declared input, or its share of a concat."""
    assert target.input is not None
    return target.input.with_channels(source.channels) if target.aggregate == "concat" else target.input


def output_shape(graph: Wiring, node: Node, sources: Sequence[Shape | Bundle]) -> Shape | Bundle:
    """Return the shape of the node's output; raises GraphError if the op cannot take its input."""
    rule = rule_of(node)
    if isinstance(rule, Input):
        return rule.output(Shape(rule.shape[-1], _input_stride(graph, node.id, rule.size or ())))
    x: Shape | Bundle | None = sources[0] if rule.takes_bundle and sources else node.input
    if x is None:
        raise GraphError(f"node '{node.id}' declares no input; call declare_inputs() first", node=node.id)
    try:
        return rule.sized(x, graph.image).output(x)
    except ShapeError as error:
        raise GraphError(f"node '{node.id}': {error}", node=node.id) from None


def _input_stride(graph: Wiring, name: str, size: tuple[int, ...]) -> Stride:
    if len(size) != 3:
        return None
    height, width = graph.image
    stride = max(1, round(height / size[1]))
    if (-(-height // stride), -(-width // stride)) != (size[1], size[2]):
        raise GraphError(
            f"input '{name}' is {size[1]} x {size[2]}, which is not the first input's {height} x {width}"
            " divided by a whole stride",
            node=name,
        )
    return stride
