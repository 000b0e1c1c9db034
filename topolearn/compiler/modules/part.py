"""The modules of parts of lifted networks."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import nn

from topolearn.errors import GraphError, LiftError, suggest
from topolearn.graph import Graph, Node
from topolearn.ops.part import NetworkPart
from topolearn.tracing.builders import open_source
from topolearn.tracing.opened import Opened

ANY_SIDE = 64
"""Height and width of the images with which a network is read if its graph takes any size."""


def with_networks(graph: Graph, networks: Mapping[str, nn.Module]) -> Graph:
    """Return a graph whose sources have their networks.

    Args:
        graph: A graph.
        networks: Name of a source -> its network.

    Raises:
        GraphError: There is no such source, or its network is another one.
    """
    sources = dict(graph.sources)
    for name, network in networks.items():
        if name not in sources:
            raise GraphError(f"the graph has no source '{name}'{suggest(name, sources)}")
        try:
            opened = Opened(partial(_same, network), network, reading_size(graph), sources[name].blocks)
        except LiftError as error:
            raise GraphError(f"source '{name}': {error.message}") from None
        if opened.fingerprint != sources[name].fingerprint:
            raise GraphError(
                f"source '{name}' is another {type(network).__name__} than the one that the graph was lifted from; make"
                " it with the same options as when it was lifted"
            )
        sources[name] = sources[name].opened(opened)
    return graph.replace(sources=sources)


def _same(network: nn.Module) -> nn.Module:
    return network


def reading_size(graph: Graph) -> tuple[int, ...]:
    """Return the shape of the input, without the batch, for which the network of a graph's source is read.

    Parts are made for the size of the graph's input. Ordinary nodes take images of any size, so a graph without parts
    may have another one than when it was lifted.
    """
    size = graph.input_size(graph.inputs[0])
    has_parts = any(node.op == NetworkPart.op_name for node in graph.nodes.values())
    return size if has_parts or len(size) < 3 else (size[0], ANY_SIDE, ANY_SIDE)


class Sources:
    """The networks that one graph takes parts from, each opened and built once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._built: dict[str, tuple[Opened, nn.Module]] = {}

    def build(self, node: Node) -> nn.Module:
        """Build the module of a ``part`` node.

        Raises:
            GraphError: Its network is missing or is another one, or it has no such part.
        """
        rule = node.rule
        assert isinstance(rule, NetworkPart)
        try:
            opened, model = self._open(rule.source)
            module = opened.region(model, rule.after, rule.until)
            found = sum(parameter.numel() for parameter in module.parameters())
            if found != rule.params:
                raise LiftError(f"it has {found:,} parameters, but the graph says {rule.params:,}; lift it again")
        except LiftError as error:
            raise GraphError(f"node '{node.id}': {error.message}", node=node.id) from None
        return module

    def _open(self, name: str) -> tuple[Opened, nn.Module]:
        if name not in self._built:
            opened = open_source(self.graph.sources[name], reading_size(self.graph))
            self._built[name] = (opened, opened.make())
        return self._built[name]
