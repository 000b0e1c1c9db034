"""The plan of a network: which nodes run together, and how each tensor that they read is made.

A tensor is named by how it is made: as the output of a node, as what an edge op derives from another tensor, as a
branch of a fan. What is named alike is made once, however many steps read it. The plan says nothing else: weights,
aggregation and parameters are the graph's. :mod:`topolearn.compiler.lowering` makes plans, and makes them faster;
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
    """What a node computes; of siblings under the id of the first: what all of them do, along a branch axis."""

    node: str


@dataclass(frozen=True)
class Derivation:
    """A tensor that an edge op makes from another.

    Attributes:
        source: What it reads.
        rule: The edge op.
        shapes: Shape of what it reads and the shape it must bring.
        module: Key of its module among the network's ``edges``; None where the op has no parameters.
    """

    source: Value
    rule: EdgeOp = field(hash=False)  # a plug-in's may hold lists
    shapes: tuple[Shape, Shape]
    module: str | None


@dataclass(frozen=True)
class Fan:
    """What several ``conv_resize`` edges make from one tensor before they resize it, as one computation.

    The edges of a dense decoder: each convolves the same tensor with filters of its own.

    Attributes:
        source: What it reads.
        rule: The edges' op.
        edges: Their numbers.
    """

    source: Value
    rule: ConvResize
    edges: tuple[int, ...]

    @property
    def branches(self) -> tuple[FanBranch, ...]:
        """What it makes, one tensor per edge."""
        return tuple(FanBranch(self, place) for place in range(len(self.edges)))


@dataclass(frozen=True)
class FanBranch:
    """What one of a fan's edges makes."""

    fan: Fan
    place: int


@dataclass(frozen=True)
class NodeStep:
    """Aggregate what one node's in-edges bring, then transform.

    Attributes:
        node: Id.
        sources: What each in-edge brings.
        late: Whether each is a resizing that is left to be done after the sum, once for all that need the same.
    """

    node: str
    sources: tuple[Value, ...]
    late: tuple[bool, ...]

    @property
    def nodes(self) -> tuple[str]:
        """The node, as the only one."""
        return (self.node,)

    @property
    def reads(self) -> tuple[Value, ...]:
        """The tensors that it reads, one per in-edge."""
        pairs = zip(self.sources, self.late, strict=True)
        return tuple(value.source if late and isinstance(value, Derivation) else value for value, late in pairs)


NO_EDGE = -1


@dataclass(frozen=True)
class Term:
    """What one tensor brings to a set of targets.

    Attributes:
        source: The tensor.
        stacked: Whether it has a branch axis; else it is a single source.
        edges: (T, S) numbers of the edges, :data:`NO_EDGE` where there is none.
    """

    source: Value
    stacked: bool
    edges: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class SiblingStep:
    """Aggregate for several nodes at once, or for one that reads siblings; then transform.

    Attributes:
        nodes: Ids, of equal ops. Where there are several, the output has a branch axis.
        terms: What the tensors read bring, each with the matrix of its edges.
    """

    nodes: tuple[str, ...]
    terms: tuple[Term, ...]

    @property
    def reads(self) -> tuple[Value, ...]:
        """The tensors that it reads, one per term."""
        return tuple(term.source for term in self.terms)


PlanStep = NodeStep | SiblingStep


@dataclass(frozen=True)
class Plan:
    """What a network does, step by step.

    Attributes:
        graph: The graph.
        levels: Steps by depth: those of one level do not depend on each other, and can share parts.
    """

    graph: Graph
    levels: tuple[tuple[PlanStep, ...], ...]

    @property
    def sums(self) -> tuple[NodeStep, ...]:
        """The steps that add up what a node's in-edges bring, one by one."""
        nodes = self.graph.nodes
        steps = (step for level in self.levels for step in level if isinstance(step, NodeStep))
        return tuple(
            step for step in steps if nodes[step.node].aggregate != "concat" and not nodes[step.node].rule.takes_bundle
        )

    def replace_sums(self, change: Callable[[NodeStep], NodeStep]) -> Plan:
        """The plan with ``change(step)`` in the place of each of its :attr:`sums`."""
        changed: dict[str, PlanStep] = {step.node: change(step) for step in self.sums}
        levels = (tuple(changed.get(step.nodes[0], step) for step in level) for level in self.levels)
        return Plan(self.graph, tuple(levels))

    def in_edges(self, step: PlanStep) -> list[Edge]:
        """The in-edges of a step's nodes."""
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
    """Key of an edge's module in the network's ``edges``."""
    return f"{edge.src}__{edge.dst}"


def ends(graph: Graph, edge: Edge) -> tuple[Shape, Shape]:
    """The shape of an edge's source and the one it must bring."""
    shape = graph.shapes[edge.src]
    assert isinstance(shape, Shape)
    return shape, edge_target(shape, graph.nodes[edge.dst])


def shared_parts(graph: Graph, name: str) -> tuple[tuple[str, str], ...]:
    """(part, group) pairs of a node; a part that this shape of input does not need has nothing to share."""
    node = graph.nodes[name]
    if not node.share:
        return ()
    assert node.input is not None
    return tuple(
        (part, group) for part, group in node.share.items() if node.rule.part_cost(part, node.input, graph.image).params
    )


def depths(graph: Graph) -> dict[str, int]:
    """Id -> number of edges on the longest path from an input."""
    depth = dict.fromkeys(graph.nodes, 0)
    for edge in graph.edges:  # canonical order: a source's depth is final when its out-edges come
        depth[edge.dst] = max(depth[edge.dst], depth[edge.src] + 1)
    return depth
