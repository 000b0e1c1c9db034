"""The plan of a network: which tensor is made from which, computed once from the graph.

Tensors live in numbered slots. An edge op without parameters runs once per source and target
shape, however many edges share it; nodes run by depth, so that nodes of one depth that share
parameters can run as one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topolearn.graph import Edge, Graph, Node
from topolearn.graph.verify import edge_target
from topolearn.ops import Shape, Stride
from topolearn.ops.base import EdgeOp


@dataclass(frozen=True)
class Derivation:
    """A tensor that an edge op makes from a node's output.

    Attributes:
        source: Slot it reads.
        slot: Slot it fills.
        rule: The edge op.
        shapes: Shape of the source's output and the shape it must bring.
        module: Key of its module among the network's ``edges``; None where the op has no parameters.
    """

    source: int
    slot: int
    rule: EdgeOp
    shapes: tuple[Shape, Shape]
    module: str | None

    @property
    def stride(self) -> Stride:
        """Stride of the target."""
        return self.shapes[1].stride


@dataclass(frozen=True)
class NodeStep:
    """Aggregate, then transform.

    Attributes:
        node: Id.
        row: Number of the node in canonical order; its in-edges' weights are row ``row``.
        derive: What to make first.
        sources: One slot per in-edge.
        learnable: (n,) which in-edges are learnable.
        aggregate: The node's ``aggregate``.
        unit: Whether the only in-edge is fixed at weight 1, so that its tensor is taken as it is.
        slot: Slot of the output.
        feature: Name of the feature to take from a bundle.
        shared: (part, group) pairs.
    """

    node: str
    row: int
    derive: tuple[Derivation, ...]
    sources: tuple[int, ...]
    learnable: tuple[bool, ...]
    aggregate: str
    unit: bool
    slot: int
    feature: str | None
    shared: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plan:
    """What a network does, step by step.

    Attributes:
        inputs: (id, slot) of the inputs.
        levels: Steps by depth, those that share parts first; steps of one level do not depend on each other.
        outputs: (id, slot) of the outputs.
        slots: Number of slots.
        in_degrees: Number of in-edges per node, in canonical order.
        shared_reads: Per slot, whether more than one weighted sum reads it.
        last_reads: Per level, the slots that nothing reads afterwards.
        reference: Id of the input whose height and width strides refer to, None where all are vectors.
    """

    inputs: tuple[tuple[str, int], ...]
    levels: tuple[tuple[NodeStep, ...], ...]
    outputs: tuple[tuple[str, int], ...]
    slots: int
    in_degrees: tuple[int, ...]
    shared_reads: tuple[bool, ...]
    last_reads: tuple[tuple[int, ...], ...]
    reference: str | None


def edge_key(edge: Edge) -> str:
    """Key of an edge's module in the network's ``edges``."""
    return f"{edge.src}__{edge.dst}"


def depths(graph: Graph) -> dict[str, int]:
    """Id -> number of edges on the longest path from an input."""
    depth = dict.fromkeys(graph.nodes, 0)
    for edge in graph.edges:  # canonical order: a source's depth is final when its out-edges come
        depth[edge.dst] = max(depth[edge.dst], depth[edge.src] + 1)
    return depth


def make_plan(graph: Graph) -> Plan:
    """The plan of a verified graph."""
    return _Planner(graph).plan()


class _Planner:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.slots = 0
        self.output_slot: dict[str, int] = {}
        self.derived: dict[tuple[object, ...], int] = {}

    def new_slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    def plan(self) -> Plan:
        graph = self.graph
        depth = depths(graph)
        rows = {node: row for row, node in enumerate(graph.nodes)}
        for name in graph.nodes:
            self.output_slot[name] = self.new_slot()
        levels: list[list[Node]] = [[] for _ in range(max(depth.values()))]
        for node in graph.nodes.values():
            if node.op != "input":
                levels[depth[node.id] - 1].append(node)
        # In the order they run: a derived tensor is made by the first step that runs, not the first declared.
        for level in levels:
            level.sort(key=lambda node: not self.shared_parts(node))
        steps = [tuple(self.step(node, rows[node.id]) for node in level) for level in levels]
        outputs = tuple((name, self.output_slot[name]) for name in graph.outputs)
        images = [name for name in graph.inputs if len(graph.input_size(name)) == 3]
        return Plan(
            inputs=tuple((name, self.output_slot[name]) for name in graph.inputs),
            levels=tuple(steps),
            outputs=outputs,
            slots=self.slots,
            in_degrees=tuple(len(graph.in_edges(node)) for node in graph.nodes),
            shared_reads=_shared_reads(steps, self.slots),
            last_reads=_last_reads(steps, {slot for _, slot in outputs}),
            reference=images[0] if images else None,
        )

    def step(self, node: Node, row: int) -> NodeStep:
        edges = [self.graph.edges[i] for i in self.graph.in_edges(node.id)]
        rule = node.rule
        if rule.takes_bundle:
            source = self.output_slot[edges[0].src]
            slot, name = self.output_slot[node.id], str(node.params["name"])
            return NodeStep(node.id, row, (), (source,), (False,), node.aggregate, True, slot, name, ())
        derive: list[Derivation] = []
        sources = tuple(self.source(edge, node, derive) for edge in edges)
        unit = len(edges) == 1 and not edges[0].learnable and edges[0].weight == 1.0
        return NodeStep(
            node=node.id,
            row=row,
            derive=tuple(derive),
            sources=sources,
            learnable=tuple(edge.learnable for edge in edges),
            aggregate=node.aggregate,
            unit=unit and node.aggregate != "normalised",
            slot=self.output_slot[node.id],
            feature=None,
            shared=self.shared_parts(node),
        )

    def shared_parts(self, node: Node) -> tuple[tuple[str, str], ...]:
        """(part, group) pairs; a part that this shape of input does not need has nothing to share."""
        if not node.share:
            return ()
        assert node.input is not None
        return tuple(
            (part, group)
            for part, group in node.share.items()
            if node.rule.part_cost(part, node.input, self.graph.image).params
        )

    def source(self, edge: Edge, target: Node, derive: list[Derivation]) -> int:
        """The slot that the edge reads; what has to be made for it is added to ``derive``."""
        source = self.output_slot[edge.src]
        shape = self.graph.shapes[edge.src]
        assert isinstance(shape, Shape)
        wanted = edge_target(shape, target)
        rule = edge.rule
        if edge.op == "identity" or (not rule.has_parameters and shape == wanted and edge.op in ("align", "resize")):
            return source
        if rule.has_parameters:
            slot = self.new_slot()
            derive.append(Derivation(source, slot, rule, (shape, wanted), edge_key(edge)))
            return slot
        key = (source, edge.op, edge.params, wanted)
        if key not in self.derived:
            self.derived[key] = self.new_slot()
            derive.append(Derivation(source, self.derived[key], rule, (shape, wanted), None))
        return self.derived[key]


def _shared_reads(levels: Sequence[Sequence[NodeStep]], slots: int) -> tuple[bool, ...]:
    reads = [0] * slots
    for level in levels:
        for step in level:
            if not step.unit and step.aggregate != "concat":
                for slot in step.sources:
                    reads[slot] += 1
    return tuple(count > 1 for count in reads)


def _last_reads(levels: Sequence[Sequence[NodeStep]], keep: set[int]) -> tuple[tuple[int, ...], ...]:
    last: dict[int, int] = {}
    for number, level in enumerate(levels):
        for step in level:
            for slot in (*step.sources, *(d.source for d in step.derive)):
                last[slot] = number
    dying: list[list[int]] = [[] for _ in levels]
    for slot, number in last.items():
        if slot not in keep:
            dying[number].append(slot)
    return tuple(tuple(slots) for slots in dying)
