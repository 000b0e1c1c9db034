"""A graph under construction, and where the tensors of the network that it is made from go."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from topolearn.errors import GraphError, LiftError, OptionError
from topolearn.frozen import FrozenMap
from topolearn.graph import Edge, Graph, Node
from topolearn.lifting.source import Source, refusal
from topolearn.ops import NODE_OPS, Shape, ShapeError
from topolearn.ops.shape import Size

IMAGE = "image"


@dataclass(frozen=True)
class Block:
    """A residual block ``relu(shortcut(x) + F(x))``, F a node op.

    Attributes:
        id: Of the node of F.
        op: F's op.
        params: Its parameters.
        shortcut: Paths of the convolution and the batch normalisation of a projection; None: the identity.
    """

    id: str
    op: str
    params: Mapping[str, Any]
    shortcut: tuple[str, str] | None


@dataclass
class Draft:
    """The graph of a network that is being lifted.

    Attributes:
        source: The network.
        name: Of the graph.
        image: Height and width of its input.
        nodes: So far.
        edges: So far.
        places: Path of a module of the source -> path of the module of ours that stands for it.
        shapes: Id of a node -> shape of its output.
    """

    source: Source
    name: str
    image: Size
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def node(self, name: str, op: str, params: Mapping[str, Any], x: Shape | None = None) -> str:
        """Add a node that takes ``x``; parameters at their defaults are not written. Returns its id."""
        if name in self.nodes:
            raise LiftError(f"two modules would both become node '{name}'; rename one of them")
        fields = NODE_OPS[op].model_fields
        given = {key: value for key, value in params.items() if value != fields[key].default}
        node = Node(name, op, FrozenMap(given), input=x)
        try:
            shape = node.rule.output(Shape(params["size"][0]) if x is None else x)
        except (OptionError, ShapeError) as error:
            raise LiftError(f"cannot lift what would be node '{name}': {error}") from None
        assert isinstance(shape, Shape)
        self.nodes[name], self.shapes[name] = node, shape
        return name

    def after(self, x: str, name: str, op: str, **params: Any) -> str:
        """Add a node that reads ``x`` alone, as it is."""
        self.node(name, op, params, self.shapes[x])
        self.edges.append(Edge(x, name))
        return name

    def place(self, ours: str, theirs: str, **parts: str) -> None:
        """Say where tensors go: part ``parts`` of their module ``theirs`` into that part of our module ``ours``.

        Args:
            ours: Path of a module of the compiled network.
            theirs: Path of a module of the source.
            parts: Name of a module of ours -> name of the one of theirs that it stands for.
        """
        for our_part, their_part in parts.items():
            self.places[joined(theirs, their_part)] = f"{ours}.{our_part}"

    def residual_stage(self, name: str, x: str, blocks: Sequence[Block]) -> str:
        """A stage with the activation after each addition.

        A block is a node for its branch F and one for its sum ``relu(x + w F(x))``: w is learnable at 1,
        and so are longer edges from earlier sums, at 0. The branch of a block without identity shortcut
        is fixed: the stage needs its shape. At the end stands an identity by the stage's name.

        Args:
            name: Of the stage.
            x: The node that it reads.
            blocks: Its blocks.
        """
        sums = [x]  # of the shape that the next sum has
        for block in blocks:
            branch, total = self.after(x, block.id, block.op, **block.params), f"{block.id}_add"
            self.node(total, "relu", {}, self.shapes[branch])
            if block.shortcut is None:
                self.edges += [Edge(earlier, total, learnable=True, weight=0.0) for earlier in sums[:-1]]
                self.edges += [Edge(x, total), Edge(branch, total, learnable=True)]
            else:
                self.edges += [Edge(x, total, "project"), Edge(branch, total)]
                conv, norm = block.shortcut
                self.place(f"edges.{x}__{total}.unit", "", conv=conv, bn=norm)
                sums = []
            sums.append(total)
            x = total
        return self.after(x, name, "identity")

    def complete_stage(self, name: str, members: Sequence[str]) -> str:
        """End a stage without activations: an identity that sums up all its members, each edge learnable at 1."""
        self.node(name, "identity", {}, self.shapes[members[-1]])
        self.edges += [Edge(member, name, learnable=True) for member in members]
        return name

    def graph(self) -> Graph:
        """The finished graph.

        Raises:
            LiftError: It would not be a valid one.
        """
        try:
            return Graph(self.name, self.nodes, tuple(self.edges), (next(reversed(self.nodes)),)).verify()
        except GraphError as error:
            raise LiftError(f"cannot lift this network: its graph is not valid: {error.message}") from None

    def transfer(self, net: nn.Module) -> None:
        """Copy the tensors of the source into ``net``, compiled from the graph.

        Raises:
            LiftError: A tensor of theirs has no place, or one of ours gets none.
        """
        wanted = net.state_dict()
        found = {}
        for name, tensor in self.source.model.state_dict().items():
            path, _, leaf = name.rpartition(".")
            ours = joined(self.places[path], leaf) if path in self.places else None
            if ours not in wanted:
                module = self.source.model.get_submodule(path)
                raise refusal(path, module, f"its tensor '{leaf}' has no place in the graph")
            found[ours] = tensor
        for name in wanted:
            if name not in found:
                raise LiftError(f"cannot lift this network: it has no tensor for '{name}'", module="")
        net.load_state_dict(found)


def joined(*parts: str) -> str:
    """A path of those parts that are not empty."""
    return ".".join(part for part in parts if part)


def node_id(path: str) -> str:
    """A module's path as a node's id: ``layer1.0`` -> ``layer1_0``."""
    return re.sub(r"[^A-Za-z0-9]+", "_", path)
