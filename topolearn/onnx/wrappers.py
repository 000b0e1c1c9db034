"""Modules that are exported: a network with constant edge weights, and the class map that may follow it."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from topolearn.compiler import DAG, Network
from topolearn.compiler.modules.base import resize
from topolearn.errors import ExportError
from topolearn.graph import Graph
from topolearn.ops import Shape
from topolearn.task_kinds import kind_of


def constant_weights(net: Network) -> list[float]:
    """Return the (E,) effective weights of a network in eval mode."""
    with torch.no_grad():
        weights = net.effective_weights()
    return [float(weight) for weight in (weights.tolist() if isinstance(weights, Tensor) else weights)]


@final
class Baked(nn.Module):
    """A network with constant edge weights that takes its inputs as positional arguments."""

    def __init__(self, net: Network, weights: list[float]) -> None:
        super().__init__()
        # DAG, also if the network uses the reference interpreter.
        tables = (net.nodes, net.edges, net.shared)
        self.dag = DAG(net.graph, *(table.as_attributes() for table in tables))
        self.names = net.graph.inputs
        self.outputs = net.graph.outputs
        self.weights = tuple(weights)

    def forward(self, *inputs: Tensor) -> Any:
        """Return what the network computes: one tensor, or a tuple of several."""
        given = inputs[0] if len(self.names) == 1 else dict(zip(self.names, inputs, strict=True))
        result = self.dag(given, self.weights)
        return tuple(result[name] for name in self.outputs) if isinstance(result, dict) else result


@final
class ClassMap(nn.Module):
    """The class of every pixel of the image, from a network that returns one map of logits.

    Raises:
        ExportError: The network is not of this kind.
    """

    def __init__(self, net: Baked, graph: Graph) -> None:
        super().__init__()
        shape = graph.shapes[graph.outputs[0]]
        assert isinstance(shape, Shape)
        if kind_of(graph.task).target != "mask" or len(graph.outputs) > 1 or not shape.is_map or shape.channels < 2:
            given = " and ".join(str(graph.shapes[name]) for name in graph.outputs)
            raise ExportError(
                f"output 'argmax' is the class of every pixel, but graph '{graph.name}' is for {graph.task} and gives"
                f" {given}; export its 'logits'"
            )
        self.net = net
        self.image = graph.inputs.index(graph.image_inputs[0])
        # Decided by the stride, not by the actual sizes, so that an export with dynamic sizes stays exact.
        self.coarse = shape.stride != 1
        self.dtype = torch.uint8 if shape.channels <= 256 else torch.int64

    def logits(self, *inputs: Tensor) -> Tensor:
        """Return logits (N, classes, H, W) at the image's size, resized as for the loss and the metrics."""
        logits: Tensor = self.net(*inputs)
        if not self.coarse:
            return logits
        height, width = inputs[self.image].shape[-2:]
        return resize(logits, (height, width), "bilinear", align_corners=True)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return classes (N, H, W)."""
        return self.logits(*inputs).argmax(1).to(self.dtype)
