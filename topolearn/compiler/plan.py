"""The plan of a network: which tensor is made from which, computed once from the graph.

Tensors live in numbered slots. An edge op without parameters runs once per source and target
shape, however many edges share it; nodes run by depth, so that nodes of one depth that share
parameters can run as one call. Siblings run as one step and fill one slot, stacked on a branch axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from topolearn.graph import Edge, Graph, Node
from topolearn.graph.wiring import edge_target
from topolearn.ops import Shape, Stride
from topolearn.ops.base import EdgeOp
from topolearn.ops.edges import ConvResize, Resize


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
class Fan:
    """What several edges make from one node's output before they resize it, as one computation.

    The edges of a dense decoder: each convolves the same tensor with filters of its own.

    Attributes:
        source: Slot it reads.
        slots: Slots it fills, one per edge.
        modules: Keys of the edges' modules among the network's ``edges``.
        edges: Numbers of the edges.
        learnable: Which of them are learnable.
    """

    source: int
    slots: tuple[int, ...]
    modules: tuple[str, ...]
    edges: tuple[int, ...]
    learnable: tuple[bool, ...]


@dataclass(frozen=True)
class Group:
    """In-edges that are added up before they are brought to the node's height and width.

    Resizing is linear, so that one for the sum does for all of them.

    Attributes:
        places: Which of the node's in-edges.
        resize: The op that resizes the sum; None where it is as it must be.
        shapes: Shape of the sum and the shape it must bring.
        normalised: Whether fans made all of it, with batch normalisations, which take learned weights as their scale.
    """

    places: tuple[int, ...]
    resize: Resize | None
    shapes: tuple[Shape, Shape] | None
    normalised: bool

    @property
    def coarseness(self) -> float:
        """Stride of the sum, infinite for what is global; 0 for one that is as it must be."""
        if self.shapes is None:
            return 0.0
        stride = self.shapes[0].stride
        return stride if isinstance(stride, int) else math.inf


@dataclass(frozen=True)
class NodeStep:
    """Aggregate, then transform.

    Attributes:
        node: Id.
        row: Number of the node in canonical order; its in-edges' weights are row ``row``.
        derive: What to make first.
        sources: One slot per in-edge.
        groups: All in-edges, by what their sum still needs; the coarsest first, the node's own size last.
        learnable: (n,) which in-edges are learnable.
        aggregate: The node's ``aggregate``.
        unit: Whether the only in-edge is fixed at weight 1, so that its tensor is taken as it is.
        slot: Slot of the output.
        feature: Name of the feature to take from a bundle.
        shared: (part, group) pairs.
    """

    node: str
    row: int
    derive: tuple[Derivation | Fan, ...]
    sources: tuple[int, ...]
    groups: tuple[Group, ...]
    learnable: tuple[bool, ...]
    aggregate: str
    unit: bool
    slot: int
    feature: str | None
    shared: tuple[tuple[str, str], ...]


NO_EDGE = -1


@dataclass(frozen=True)
class Term:
    """What one tensor brings to a set of targets.

    Attributes:
        slot: Slot of the tensor.
        stacked: Whether that tensor has a branch axis; else it is a single source.
        edges: (T, S) numbers of the edges, :data:`NO_EDGE` where there is none.
        learnable: (T, S) which of them are learnable.
    """

    slot: int
    stacked: bool
    edges: tuple[tuple[int, ...], ...]
    learnable: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True)
class SiblingStep:
    """Aggregate for several nodes at once, or for one that reads siblings; then transform.

    Attributes:
        nodes: Ids, of equal ops.
        derive: What to make first.
        terms: What the tensors read bring, each with the matrix of its edges.
        aggregate: The nodes' ``aggregate``.
        unit: Whether every node takes the same single tensor over a fixed edge at weight 1.
        slot: Slot of the output, which has a branch axis where there are several nodes.
        shared: (part, group) pairs.
    """

    nodes: tuple[str, ...]
    derive: tuple[Derivation | Fan, ...]
    terms: tuple[Term, ...]
    aggregate: str
    unit: bool
    slot: int
    shared: tuple[tuple[str, str], ...]


Step = NodeStep | SiblingStep


def sources_of(step: Step) -> tuple[int, ...]:
    """The slots that a step reads, apart from those it derives tensors from."""
    return step.sources if isinstance(step, NodeStep) else tuple(term.slot for term in step.terms)


@dataclass(frozen=True)
class Plan:
    """What a network does, step by step.

    Attributes:
        inputs: (id, slot) of the inputs.
        levels: Steps by depth, those that share parts first; steps of one level do not depend on each other.
        outputs: (id, slot) of the outputs.
        slots: Number of slots.
        in_degrees: Number of in-edges per node, in canonical order.
        first_edges: Place of each node's first in-edge, in canonical order.
        shared_reads: Per slot, whether more than one weighted sum reads it.
        learned_reads: Per slot, whether one of them does so over a learnable edge.
        last_reads: Per level, the slots that nothing reads afterwards.
        reference: Id of the input whose height and width strides refer to, None where all are vectors.
    """

    inputs: tuple[tuple[str, int], ...]
    levels: tuple[tuple[Step, ...], ...]
    outputs: tuple[tuple[str, int], ...]
    slots: int
    in_degrees: tuple[int, ...]
    first_edges: tuple[int, ...]
    shared_reads: tuple[bool, ...]
    learned_reads: tuple[bool, ...]
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


def make_plan(graph: Graph, siblings: Sequence[Sequence[str]] = ()) -> Plan:
    """The plan of a verified graph.

    Args:
        graph: The graph.
        siblings: Sets of nodes to run as one; see :func:`topolearn.compiler.siblings.find_siblings`.
    """
    return _Planner(graph, siblings).plan()


class _Planner:
    def __init__(self, graph: Graph, siblings: Sequence[Sequence[str]]) -> None:
        self.graph = graph
        self.slots = 0
        self.output_slot: dict[str, int] = {}
        self.place: dict[str, int] = {}  # of a node that has siblings: its position on the branch axis
        self.width: dict[int, int] = {}  # of a slot with a branch axis
        self.derived: dict[tuple[object, ...], int] = {}
        self.fans: dict[tuple[object, ...], list[int]] = {}  # by what edges of one computation have in common
        self.fanned: dict[str, int] = {}  # key of an edge whose fan has been planned -> its slot
        self.resized_late: set[str] = set()  # keys of ``resize`` edges whose tensors are added up first
        self.sets = {first: (first, *others) for first, *others in siblings}
        self.followers = {name for _, *others in siblings for name in others}

    def new_slot(self) -> int:
        self.slots += 1
        return self.slots - 1

    def plan(self) -> Plan:
        graph = self.graph
        depth = depths(graph)
        rows = {node: row for row, node in enumerate(graph.nodes)}
        for name in graph.nodes:
            if name in self.followers:
                continue
            slot = self.new_slot()
            members = self.sets.get(name, (name,))
            self.output_slot.update(dict.fromkeys(members, slot))
            if len(members) > 1:
                self.place.update({member: place for place, member in enumerate(members)})
                self.width[slot] = len(members)
        self.find_fans()
        self.find_late_resizes()
        levels: list[list[Node]] = [[] for _ in range(max(depth.values()))]
        for node in graph.nodes.values():
            if node.op != "input" and node.id not in self.followers:
                levels[depth[node.id] - 1].append(node)
        # In the order they run: a derived tensor is made by the first step that runs, not the first declared.
        for level in levels:
            level.sort(key=lambda node: not self.shared_parts(node))
        steps = [tuple(self.step(node, rows[node.id]) for node in level) for level in levels]
        outputs = tuple((name, self.output_slot[name]) for name in graph.outputs)
        reads = _weighted_reads(steps, self.slots)
        images = [name for name in graph.inputs if len(graph.input_size(name)) == 3]
        return Plan(
            inputs=tuple((name, self.output_slot[name]) for name in graph.inputs),
            levels=tuple(steps),
            outputs=outputs,
            slots=self.slots,
            in_degrees=tuple(len(graph.in_edges(node)) for node in graph.nodes),
            first_edges=tuple(graph.in_edges(node).start for node in graph.nodes),
            shared_reads=tuple(len(learnable) > 1 for learnable in reads),
            learned_reads=tuple(map(any, reads)),
            last_reads=_last_reads(steps, {slot for _, slot in outputs}),
            reference=images[0] if images else None,
        )

    def step(self, node: Node, row: int) -> Step:
        edges = [self.graph.edges[i] for i in self.graph.in_edges(node.id)]
        if node.id in self.sets or any(edge.src in self.place for edge in edges):
            return self.sibling_step(self.sets.get(node.id, (node.id,)))
        rule = node.rule
        if rule.takes_bundle:
            source = self.output_slot[edges[0].src]
            slot, name = self.output_slot[node.id], str(node.params["name"])
            return NodeStep(node.id, row, (), (source,), (), (False,), node.aggregate, True, slot, name, ())
        derive: list[Derivation | Fan] = []
        late = self.resizes_sums(node)
        sources = tuple(
            self.fan(edge, derive) if late and isinstance(edge.rule, ConvResize) else self.source(edge, derive)
            for edge in edges
        )
        unit = len(edges) == 1 and not edges[0].learnable and edges[0].weight == 1.0
        return NodeStep(
            node=node.id,
            row=row,
            derive=tuple(derive),
            sources=sources,
            groups=self.groups(node, edges) if late else (),
            learnable=tuple(edge.learnable for edge in edges),
            aggregate=node.aggregate,
            unit=unit and node.aggregate != "normalised" and self.late_resize(edges[0]) is None,
            slot=self.output_slot[node.id],
            feature=None,
            shared=self.shared_parts(node),
        )

    def sibling_step(self, ids: tuple[str, ...]) -> SiblingStep:
        graph = self.graph
        derive: list[Derivation | Fan] = []
        tables: dict[int, list[list[int]]] = {}
        for target, name in enumerate(ids):
            for number in graph.in_edges(name):
                edge = graph.edges[number]
                slot = self.source(edge, derive)
                width = self.width.get(slot, 1)
                table = tables.setdefault(slot, [[NO_EDGE] * width for _ in ids])
                table[target][self.place.get(edge.src, 0)] = number
        terms = tuple(
            Term(
                slot,
                slot in self.width,
                tuple(map(tuple, table)),
                tuple(tuple(number != NO_EDGE and graph.edges[number].learnable for number in row) for row in table),
            )
            for slot, table in tables.items()
        )
        first = graph.nodes[ids[0]]
        numbers = [graph.in_edges(name) for name in ids]
        only = [graph.edges[each[0]] for each in numbers if len(each) == 1]
        plain = len(only) == len(ids) and not any(edge.learnable or edge.weight != 1.0 for edge in only)
        return SiblingStep(
            nodes=ids,
            derive=tuple(derive),
            terms=terms,
            aggregate=first.aggregate,
            unit=plain and len(terms) == 1 and not terms[0].stacked,
            slot=self.output_slot[ids[0]],
            shared=self.shared_parts(first),
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

    def groups(self, node: Node, edges: Sequence[Edge]) -> tuple[Group, ...]:
        """A node's in-edges, by what each group's sum still needs; the coarsest first, the node's own size last."""
        found: dict[tuple[Resize | None, tuple[Shape, Shape] | None, bool], list[int]] = {}
        for place, edge in enumerate(edges):
            resize, shapes = self.late_resize(edge), None
            normalised = isinstance(edge.rule, ConvResize) and edge.rule.batch_norm
            if resize is not None:
                shape, wanted = self.ends(edge)
                if shape.stride == wanted.stride:
                    resize = None
                else:
                    shapes = (Shape(wanted.channels, shape.stride), wanted)
            found.setdefault((resize, shapes, normalised), []).append(place)
        groups = [Group(tuple(places), *key) for key, places in found.items()]
        return tuple(sorted(groups, key=lambda group: -group.coarseness))

    def fan(self, edge: Edge, derive: list[Derivation | Fan]) -> int:
        """The slot of what a ``conv_resize`` edge makes before it resizes; its fan is made with the first of them."""
        if edge_key(edge) not in self.fanned:
            members = self.fans[self.fan_key(edge)]
            slots = tuple(self.new_slot() for _ in members)
            edges = [self.graph.edges[i] for i in members]
            keys, learnable = tuple(map(edge_key, edges)), tuple(each.learnable for each in edges)
            self.fanned.update(zip(keys, slots, strict=True))
            derive.append(Fan(self.output_slot[edge.src], slots, keys, tuple(members), learnable))
        return self.fanned[edge_key(edge)]

    def fan_key(self, edge: Edge) -> tuple[object, ...]:
        """What the edges of one fan have in common."""
        x = self.graph.nodes[edge.dst].input
        assert x is not None
        return edge.src, edge.params, x.channels

    def find_fans(self) -> None:
        """Group the ``conv_resize`` edges that are resized after their sum."""
        for node in self.graph.nodes.values():
            if self.resizes_sums(node):
                for i in self.graph.in_edges(node.id):
                    edge = self.graph.edges[i]
                    if isinstance(edge.rule, ConvResize):
                        self.fans.setdefault(self.fan_key(edge), []).append(i)

    def find_late_resizes(self) -> None:
        """Find the ``resize`` edges of which one resizing per target does for all, and is no more than one per source.

        Where one source goes to more targets of a shape than there are sources, it is resized once and read by all.
        """
        found: dict[tuple[object, ...], list[Edge]] = {}
        for node in self.graph.nodes.values():
            if self.resizes_sums(node):
                for edge in (self.graph.edges[i] for i in self.graph.in_edges(node.id)):
                    if isinstance(edge.rule, Resize):
                        shape, wanted = self.ends(edge)
                        if shape.stride != wanted.stride:
                            found.setdefault((edge.params, shape, wanted), []).append(edge)
        for edges in found.values():
            if len({edge.dst for edge in edges}) <= len({edge.src for edge in edges}):
                self.resized_late.update(map(edge_key, edges))

    def late_resize(self, edge: Edge) -> Resize | None:
        """The resizing that an edge leaves to be done after its sum; None where it brings what is to be added up."""
        if isinstance(edge.rule, ConvResize):
            return Resize(mode=edge.rule.mode, align_corners=edge.rule.align_corners)
        return edge.rule if edge_key(edge) in self.resized_late and isinstance(edge.rule, Resize) else None

    def ends(self, edge: Edge) -> tuple[Shape, Shape]:
        """The shape of an edge's source and the one it must bring."""
        shape = self.graph.shapes[edge.src]
        assert isinstance(shape, Shape)
        return shape, edge_target(shape, self.graph.nodes[edge.dst])

    def resizes_sums(self, node: Node) -> bool:
        """Whether a node runs as a step of its own that adds up; a concat has nothing to add up before it resizes."""
        if node.op == "input" or node.aggregate == "concat" or node.rule.takes_bundle:
            return False
        sources = (self.graph.edges[i].src for i in self.graph.in_edges(node.id))
        return node.id not in self.sets and node.id not in self.followers and not any(s in self.place for s in sources)

    def source(self, edge: Edge, derive: list[Derivation | Fan]) -> int:
        """The slot that the edge reads; what has to be made for it is added to ``derive``."""
        source = self.output_slot[edge.src]
        shape, wanted = self.ends(edge)
        rule = edge.rule
        if edge.op == "identity" or (not rule.has_parameters and shape == wanted and edge.op in ("align", "resize")):
            return source
        if edge_key(edge) in self.resized_late:
            return source
        if rule.has_parameters:
            slot = self.new_slot()
            derive.append(Derivation(source, slot, rule, (shape, wanted), edge_key(edge)))
            return slot
        key = (source, edge.op, edge.params, wanted)
        if key not in self.derived:
            self.derived[key] = self.new_slot()
            if source in self.width:
                self.width[self.derived[key]] = self.width[source]
            derive.append(Derivation(source, self.derived[key], rule, (shape, wanted), None))
        return self.derived[key]


def _weighted_reads(levels: Sequence[Sequence[Step]], slots: int) -> list[list[bool]]:
    """Per slot, for each weighted sum that reads it, whether it does so over a learnable edge."""
    reads: list[list[bool]] = [[] for _ in range(slots)]
    for level in levels:
        for step in level:
            if isinstance(step, NodeStep) and not step.unit and step.aggregate != "concat":
                for slot, learnable in zip(step.sources, step.learnable, strict=True):
                    reads[slot].append(learnable)
    return reads


def _last_reads(levels: Sequence[Sequence[Step]], keep: set[int]) -> tuple[tuple[int, ...], ...]:
    last: dict[int, int] = {}
    for number, level in enumerate(levels):
        for step in level:
            for slot in (*sources_of(step), *(d.source for d in step.derive)):
                last[slot] = number
    dying: list[list[int]] = [[] for _ in levels]
    for slot, number in last.items():
        if slot not in keep:
            dying[number].append(slot)
    return tuple(tuple(slots) for slots in dying)
