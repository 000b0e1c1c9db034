"""The plan of a network: which nodes run together, and how each tensor that they read is made.

A tensor is named by how it is made: as a node's output, as the result of an edge op on another tensor, or as a branch
of a fan. Tensors with the same name are made once, however many steps read them. Weights, aggregation and parameters
are not part of the plan: they are the graph's. :mod:`topolearn.compiler.lowering` makes plans and speeds them up;
:mod:`topolearn.compiler.schedule` puts their tensors into numbered slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from topolearn.graph import Edge, Graph
from topolearn.graph.wiring import edge_target
from topolearn.ops import Shape
from topolearn.ops.base import EdgeOp
from topolearn.ops.edges import ConvResize

Value: TypeAlias = "NodeOutput | Derivation | FanBranch"
"""A tensor, named by how it is made."""


@dataclass(frozen=True)
class NodeOutput:
    """The output of a node; under the id of a first sibling, the outputs of all siblings along a branch axis."""

    node: str


@dataclass(frozen=True)
class Derivation:
    """A tensor that an edge op makes from another.

    Attributes:
        source: The tensor that the op reads.
        rule: The edge op.
        shapes: Shape of the source, and the shape that the op must return.
        module: Key of the op's module in the network's ``edges``; None if the op has no parameters.
    """

    source: Value
    rule: EdgeOp = field(hash=False)  # a plug-in's may hold lists
    shapes: tuple[Shape, Shape]
    module: str | None


@dataclass(frozen=True)
class Fan:
    """The convolutions of several ``conv_resize`` edges on one tensor, before resizing, as one computation.

    In a dense decoder, several edges convolve the same tensor, each with its own filters.

    Attributes:
        source: The tensor that the edges read.
        rule: The edges' op.
        edges: Numbers of the edges.
    """

    source: Value
    rule: ConvResize
    edges: tuple[int, ...]

    @property
    def branches(self) -> tuple[FanBranch, ...]:
        """The tensors that the fan makes, one per edge."""
        return tuple(FanBranch(self, place) for place in range(len(self.edges)))


@dataclass(frozen=True)
class FanBranch:
    """The tensor that one of a fan's edges makes."""

    fan: Fan
    place: int


@dataclass(frozen=True)
class NodeStep:
    """Aggregates the tensors of one node's in-edges, then transforms the result.

    Attributes:
        node: Id of the node.
        sources: The tensor of each in-edge.
        late: Whether each is a resizing that is done after the sum, once for all tensors that need the same one.
    """

    node: str
    sources: tuple[Value, ...]
    late: tuple[bool, ...]

    @property
    def nodes(self) -> tuple[str]:
        """The node's id, as a tuple of one."""
        return (self.node,)

    @property
    def reads(self) -> tuple[Value, ...]:
        """The tensors that the step reads, one per in-edge."""
        pairs = zip(self.sources, self.late, strict=True)
        return tuple(value.source if late and isinstance(value, Derivation) else value for value, late in pairs)


NO_EDGE = -1


@dataclass(frozen=True)
class Term:
    """The contributions of one tensor to a set of targets.

    Attributes:
        source: The tensor.
        stacked: Whether the tensor has a branch axis; if not, it is a single source.
        edges: (T, S) numbers of the edges; :data:`NO_EDGE` marks a missing edge.
    """

    source: Value
    stacked: bool
    edges: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SiblingStep:
    """Aggregates for several nodes at once, or for one node that reads siblings, then transforms the result.

    Attributes:
        nodes: Ids of nodes with equal ops. With several, the output has a branch axis.
        terms: The tensors that the step reads, each with the matrix of its edges.
    """

    nodes: tuple[str, ...]
    terms: tuple[Term, ...]

    @property
    def reads(self) -> tuple[Value, ...]:
        """The tensors that the step reads, one per term."""
        return tuple(term.source for term in self.terms)


PlanStep = NodeStep | SiblingStep


@dataclass(frozen=True)
class Plan:
    """The steps of a network, in order.

    Attributes:
        graph: The graph.
        levels: Steps by depth: steps of one level do not depend on each other, and can share parts.
    """

    graph: Graph
    levels: tuple[tuple[PlanStep, ...], ...]

    @property
    def sums(self) -> tuple[NodeStep, ...]:
        """The steps that sum the tensors of one node's in-edges."""
        nodes = self.graph.nodes
        steps = (step for level in self.levels for step in level if isinstance(step, NodeStep))
        return tuple(
            step for step in steps if nodes[step.node].aggregate != "concat" and not nodes[step.node].rule.takes_bundle
        )

    def replace_sums(self, change: Callable[[NodeStep], NodeStep]) -> Plan:
        """Return the plan with each of its :attr:`sums` replaced by ``change(step)``."""
        changed: dict[str, PlanStep] = {step.node: change(step) for step in self.sums}
        levels = (tuple(changed.get(step.nodes[0], step) for step in level) for level in self.levels)
        return Plan(self.graph, tuple(levels))

    def in_edges(self, step: PlanStep) -> list[Edge]:
        """Return the in-edges of a step's nodes."""
        return [self.graph.edges[i] for name in step.nodes for i in self.graph.in_edges(name)]

    def takes_as_is(self, step: PlanStep) -> bool:
        """Whether each of the step's nodes takes the same single tensor over a fixed edge at weight 1."""
        edges = self.in_edges(step)
        plain = not any(step.late) if isinstance(step, NodeStep) else not any(term.stacked for term in step.terms)
        return (
            plain
            and len(step.reads) == 1
            and len(edges) == len(step.nodes)
            and self.graph.nodes[edges[0].dst].aggregate != "normalised"
            and not any(edge.learnable or edge.weight != 1.0 for edge in edges)
        )


def edge_key(edge: Edge) -> str:
    """Return the key of an edge's module in the network's ``edges``."""
    return f"{edge.src}__{edge.dst}"


def ends(graph: Graph, edge: Edge) -> tuple[Shape, Shape]:
    """Return the shape of an edge's source and the shape that its op must return."""
    shape = graph.shapes[edge.src]
    assert isinstance(shape, Shape)
    return shape, edge_target(shape, graph.nodes[edge.dst])


def shared_parts(graph: Graph, name: str) -> tuple[tuple[str, str], ...]:
    """Return a node's (part, group) pairs; a part that its input's shape does not need is left out."""
    node = graph.nodes[name]
    if not node.share:
        return ()
    assert node.input is not None
    return tuple(
        (part, group) for part, group in node.share.items() if node.rule.part_cost(part, node.input, graph.image).params
    )


def depths(graph: Graph) -> dict[str, int]:
    """Return id -> number of edges on the longest path from an input."""
    depth = dict.fromkeys(graph.nodes, 0)
    for edge in graph.edges:  # canonical order: a source's depth is final when its out-edges come
        depth[edge.dst] = max(depth[edge.dst], depth[edge.src] + 1)
    return depth
