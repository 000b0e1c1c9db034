"""Makes the graph of any network: a node for each part that stays together, a sum for each addition of branches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from topolearn.compiler import Network
from topolearn.errors import LiftError
from topolearn.frozen import FrozenMap
from topolearn.graph import Edge, Graph, Node, Source
from topolearn.lifting.draft import IMAGE, node_id
from topolearn.lifting.equal_outputs import compare, outputs
from topolearn.lifting.sources import SOURCE, source_of, with_source
from topolearn.lifting.stretches import Stretch, stretches
from topolearn.lifting.structure import Piece, Pieces, Sum, find_chain
from topolearn.ops import Shape
from topolearn.ops.shape import Size
from topolearn.tracing.flow import common_path
from topolearn.tracing.opened import Opened

_RELUS = (F.relu, torch.relu, torch.Tensor.relu)


def lift_parts(
    model: nn.Module, name: str, size: Sequence[int], origin: Source | None, blocks: Sequence[str] = ()
) -> Network:
    """Return a network over the graph of any network, with copies of its modules.

    Args:
        model: The network; it is not changed.
        name: Name of the graph.
        size: Shape of the network's input, without the batch.
        origin: The library's builder that made the network; None for a network of the user's own.
        blocks: Paths of modules that are not looked into.

    Raises:
        LiftError: The network cannot be read, or the two compute different things.
    """
    try:
        opened = Opened(lambda: model, model, size, blocks)
    except LiftError as error:
        raise _told_apart(model, size, error) from None
    source = source_of(model, opened, origin)
    net = Network(graph_of(opened, name, source, size)).train(model.training)
    compare(model, net, size)
    net.graph = with_source(net.graph, source, model)
    return net


def _told_apart(model: nn.Module, size: Sequence[int], error: LiftError) -> LiftError:
    """Return the error of a network that could not be read: whether it runs at all decides what is wrong."""
    try:
        outputs(model, size)
    except LiftError as failure:
        return failure
    return error


def graph_of(opened: Opened, name: str, source: Source, size: Sequence[int]) -> Graph:
    """Return the graph of a network; all of its weights are those that make it compute the same.

    Args:
        opened: The network.
        name: Name of the graph.
        source: Where the network comes from.
        size: Shape of its input, without the batch.
    """
    chain = merged(opened, find_chain(opened.flow, 0, opened.output))
    sketch = _Sketch(opened, (size[1], size[2]) if len(size) == 3 else (1, 1), _claims(opened, chain))
    given = {"length": size[0], "channels": size[1]} if len(size) == 2 else {"size": tuple(size)}
    sketch.nodes[IMAGE] = Node(IMAGE, "input", FrozenMap(given))
    output = sketch.walk(chain, IMAGE, outermost=True)
    # Outputs alone would not show it: in eval mode, a normalisation that has not been trained changes next to nothing.
    lost = opened.flow.inside(0, opened.output) - sketch.done
    assert not lost, f"no node computes '{opened.name(min(lost))}'"
    return Graph(name, sketch.nodes, tuple(sketch.edges), (output,), sources={SOURCE: source}).verify()


def merged(opened: Opened, chain: Pieces) -> Pieces:
    """Return a chain in which no two parts hold the same parameters: parts that do, and all between, become one."""
    held: list[set[int]] = []
    parts: list[Piece | Sum] = []
    for part in chain:
        if isinstance(part, Sum):
            part = replace(part, terms=tuple(merged(opened, term) for term in part.terms))
            terms = [set().union(*(opened.trained(each.entry, each.exit) for each in term)) for term in part.terms]
            if sum(map(len, terms)) > len(set().union(*terms)):
                part = Piece(part.entry, part.exit)
        own = opened.trained(part.entry, part.exit)
        first = next((index for index, others in enumerate(held) if own & others), None)
        if first is not None:
            part = Piece(parts[first].entry, part.exit)
            own = own.union(*held[first:])
            del parts[first:], held[first:]
        parts.append(part)
        held.append(own)
    return tuple(parts)


def _every_unit(opened: Opened, chain: Pieces, *, outermost: bool) -> Iterator[Stretch]:
    for part in stretches(opened, chain, outermost=outermost):
        if isinstance(part, Stretch):
            yield part
        else:
            for term in part.terms:
                yield from _every_unit(opened, term, outermost=False)


def _claims(opened: Opened, chain: Pieces) -> Counter[str]:
    """How many units with parameters have each module as the innermost one that holds all of them."""
    found = _every_unit(opened, chain, outermost=True)
    return Counter(_common(opened, unit) for unit in found if opened.params(unit.entry, unit.exit))


def _common(opened: Opened, unit: Stretch) -> str:
    """Return the path of the innermost module that holds all of a unit's operations."""
    trace = opened.flow.trace
    inside = opened.flow.inside(unit.entry, unit.exit)
    return common_path({trace.calls[trace.ops[number].call].path for number in inside})


@dataclass
class _Sketch:
    """The graph of a network that is being read."""

    opened: Opened
    image: Size
    claims: Counter[str]
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    done: set[int] = field(default_factory=set)  # operations that the nodes compute

    def walk(self, chain: Pieces, x: str, *, outermost: bool = False) -> str:
        """Add the nodes of a chain that starts at node ``x``, and return the last one."""
        earlier: list[str] = [x]  # sums with the shape of the next one
        fresh_sum = False
        for part in stretches(self.opened, chain, outermost=outermost):
            if isinstance(part, Sum):
                x = self.add(part, x, earlier)
                fresh_sum = True
                continue
            if fresh_sum and (rest := self.activate(x, part)) is not None:
                fresh_sum = False
                if rest.entry == rest.exit:
                    continue
                part = rest
            fresh_sum = False
            before = x
            x = self.part(part, x)
            if part.can_go:
                x = self.bypass(part, before, x)
            earlier = [x]
        return x

    def shape(self, number: int) -> Shape:
        return Shape.of_dims(self.opened.dims(number), self.image)

    def put(self, node: Node) -> str:
        """Add a node, under another id if its own is taken."""
        name, count = node.id, 1
        while name in self.nodes:
            count += 1
            name = f"{node.id}_{count}"
        self.nodes[name] = Node(name, node.op, node.params, node.aggregate, node.input, node.share)
        return name

    def part(self, unit: Stretch, x: str) -> str:
        """Add a node for a unit, and return its id."""
        opened = self.opened
        params: dict[str, Any] = {"source": SOURCE}
        if unit.entry:
            params["after"] = opened.name(unit.entry)
        params |= {"until": opened.name(unit.exit), "gives": _fields(self.shape(unit.exit))}
        params |= {"params": opened.params(unit.entry, unit.exit), "macs": opened.macs(unit.entry, unit.exit)}
        name = self.put(Node(self.title(unit), "part", FrozenMap(params), input=self.shape(unit.entry)))
        self.edges.append(Edge(x, name))
        self.done |= opened.flow.inside(unit.entry, unit.exit)
        return name

    def title(self, unit: Stretch) -> str:
        """Return an id for a unit: its module's path, or that of the module in it that computes the most."""
        common = _common(self.opened, unit)
        if not common or self.claims[common] > 1:
            common = self.opened.largest(unit.entry, unit.exit) or common or self.opened.name(unit.exit)
        return _id(common)

    def add(self, part: Sum, x: str, earlier: list[str]) -> str:
        """Add the node of a sum and those of its terms; edges from terms that can go are learnable."""
        ends = [self.walk(term, x) if term else x for term in part.terms]
        name = self.put(Node(_id(self.opened.name(part.exit)), "identity", input=self.shape(part.exit)))
        if x in ends:
            self.edges += [Edge(source, name, learnable=True, weight=0.0) for source in earlier if source != x]
            stays = ends.index(x)
        else:
            costs = [sum(self.opened.macs(each.entry, each.exit) for each in term) for term in part.terms]
            stays = costs.index(min(costs))
            earlier.clear()
        self.edges += [Edge(end, name, learnable=index != stays) for index, end in enumerate(ends)]
        earlier.append(name)
        self.done |= set(part.additions)
        return name

    def activate(self, x: str, unit: Stretch) -> Stretch | None:
        """Let the sum ``x`` compute the relu that a unit starts with, and return the rest; None if it does not."""
        flow = self.opened.flow
        readers = flow.readers[unit.entry]
        if len(readers) != 1 or flow.members[readers[0]] != readers:  # a module may end in a relu, and do more
            return None
        if flow.trace.ops[readers[0]].function not in _RELUS:
            return None
        self.nodes[x] = Node(x, "relu", input=self.nodes[x].input)
        self.done.add(readers[0])
        return Stretch(readers[0], unit.exit)

    def bypass(self, unit: Stretch, before: str, after: str) -> str:
        """Add a sum of a unit, at weight 1, and of its input, at weight 0."""
        name = self.put(Node(f"{after}_sum", "identity", input=self.shape(unit.exit)))
        self.edges += [Edge(before, name, learnable=True, weight=0.0), Edge(after, name, learnable=True)]
        return name


def _id(path: str) -> str:
    name = node_id(path).strip("_") or "part"
    return name if re.match(r"[A-Za-z_]", name) else f"n{name}"


def _fields(shape: Shape) -> dict[str, Any]:
    if shape.dims is not None:
        return {"dims": shape.dims}
    if shape.is_tokens:
        return {"channels": shape.channels, "length": shape.length}
    return {"channels": shape.channels, "stride": shape.stride}
