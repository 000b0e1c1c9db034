"""Where a lifted network comes from: what its graph says about that, and what finds the network again."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from topolearn.graph import Graph, Source
from topolearn.tracing.builders import builder
from topolearn.tracing.opened import Opened

SOURCE = "net"
"""Name of the network in the graph's ``sources``."""


def source_of(model: nn.Module, opened: Opened, origin: Source | None) -> Source:
    """Describe a network that has been read.

    Args:
        model: The network.
        opened: The same network, read.
        origin: The library's builder that made it; None for a network of the user's own.
    """
    source = Source("own", type(model).__name__) if origin is None else origin
    params = sum(parameter.numel() for parameter in model.parameters())
    return replace(source, params=params, fingerprint=opened.fingerprint, blocks=opened.blocks, net=opened)


def with_source(graph: Graph, source: Source, model: nn.Module) -> Graph:
    """Return a graph that finds its network again, even if the user changes or deletes the network."""
    if source.library == "own":
        kept = copy.deepcopy(model)
        opened = source.net.made_by(lambda: kept)
    else:
        opened = source.net.made_by(builder(source))
    return graph.replace(sources={SOURCE: source.opened(opened)})
