"""A graph under construction, and where the tensors of its source network go."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from topolearn.errors import GraphError, LiftError, OptionError
from topolearn.frozen import FrozenMap
from topolearn.graph import Edge, Graph, Node
from topolearn.lifting.module_reader import ModuleReader, refusal
from topolearn.ops import NODE_OPS, Shape, ShapeError
from topolearn.ops.shape import Size

IMAGE = "image"


@dataclass(frozen=True)
class Block:
    """A residual block ``relu(shortcut(x) + F(x))``, where F is a node op.

    Attributes:
        id: Id of F's node.
        op: Op of F.
        params: Parameters of the op.
        shortcut: Paths of a projection's convolution and batch normalisation; None: the identity.
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
        name: Name of the graph.
        image: Height and width of the graph's input.
        nodes: The nodes so far.
        edges: The edges so far.
        places: Path of a module of the source -> path of our counterpart.
        shapes: Id of a node -> shape of its output.
    """

    source: ModuleReader
    name: str
    image: Size
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def node(self, name: str, op: str, params: Mapping[str, Any], x: Shape | None = None) -> str:
        """Add a node that takes ``x`` and return its id; parameters at their defaults are left out."""
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
        """Add a node with one in-edge, from ``x``, and return its id."""
        self.node(name, op, params, self.shapes[x])
        self.edges.append(Edge(x, name))
        return name

    def place(self, ours: str, theirs: str, **parts: str) -> None:
        """Record where tensors go: from parts of the source's module ``theirs`` to parts of our module ``ours``.

        Args:
            ours: Path of a module of the compiled network.
            theirs: Path of a module of the source.
            parts: Name of a part of ``ours`` -> name of its counterpart in ``theirs``.
        """
        for our_part, their_part in parts.items():
            self.places[joined(theirs, their_part)] = f"{ours}.{our_part}"

    def residual_stage(self, name: str, x: str, blocks: Sequence[Block]) -> str:
        """Add a stage with the activation after each addition, and return the id of its last node.

        A block becomes a node for its branch F and one for its sum ``relu(x + w F(x))``. The edge weight w is learnable
        and starts at 1; longer edges from earlier sums are learnable and start at 0. If a block has no identity
        shortcut, its branch is fixed, because the stage needs its shape. The stage ends in an identity node with the
        stage's name.

        Args:
            name: Name of the stage.
            x: The node that the stage reads.
            blocks: Blocks of the stage.
        """
        sums = [x]  # earlier sums with the shape of the next one
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
        """End a stage without activations with an identity that sums its members; its edges are learnable, at 1."""
        self.node(name, "identity", {}, self.shapes[members[-1]])
        self.edges += [Edge(member, name, learnable=True) for member in members]
        return name

    def graph(self) -> Graph:
        """Return the finished graph.

        Raises:
            LiftError: The graph is not valid.
        """
        try:
            return Graph(self.name, self.nodes, tuple(self.edges), (next(reversed(self.nodes)),)).verify()
        except GraphError as error:
            raise LiftError(f"cannot lift this network: its graph is not valid: {error.message}") from None

    def transfer(self, net: nn.Module) -> None:
        """Copy the tensors of the source into ``net``, compiled from the graph.

        Raises:
            LiftError: A tensor of the source has no place, or one of ours gets no value.
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
        theirs, ours_by_name = dict(self.source.model.named_parameters()), dict(net.named_parameters())
        for name, parameter in theirs.items():
            path, _, leaf = name.rpartition(".")
            ours_by_name[joined(self.places[path], leaf)].requires_grad_(parameter.requires_grad)


def joined(*parts: str) -> str:
    """Join the parts that are not empty to a path."""
    return ".".join(part for part in parts if part)


def node_id(path: str) -> str:
    """Turn a module's path into a node id: ``layer1.0`` -> ``layer1_0``."""
    return re.sub(r"[^A-Za-z0-9]+", "_", path)
