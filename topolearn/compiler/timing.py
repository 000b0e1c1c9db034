"""Measures the time that each node and edge of a graph takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from topolearn.compiler.modules import build_edge, build_node
from topolearn.compiler.modules.part import Sources
from topolearn.graph import BindFanIn, Edge, Graph, Node
from topolearn.graph.price import Prices
from topolearn.graph.wiring import edge_target
from topolearn.ops import Shape
from topolearn.ops.part import NetworkPart
from topolearn.tracing.region import Region

WARM, RUNS = 3, 15
"""Number of untimed and timed calls; the median of the timed ones counts."""


def measure(graph: Graph, device: torch.device | str = "cpu", *, batch: int = 1) -> Prices:
    """Measure the milliseconds of every node and edge, in eval mode and float32, at the graph's reference size.

    The time of an edge is that of its op and of adding the result to the target's sum. Inputs and a backbone's
    features take no time. Equal nodes and equal edges are measured once. The savings of a runtime that fuses them are
    not counted.

    Args:
        graph: A verified graph.
        device: Device to measure on.
        batch: Inputs per call.

    Raises:
        GraphError: It has parts of a network that cannot be built.
    """
    return _Stopwatch(BindFanIn()(graph), torch.device(device), batch).prices()


class _Stopwatch:
    def __init__(self, graph: Graph, device: torch.device, batch: int) -> None:
        self.graph, self.device, self.batch = graph, device, batch
        self.known: dict[Hashable, float] = {}
        self.sources = Sources(graph)

    def prices(self) -> Prices:
        """Measure all nodes and edges."""
        graph = self.graph
        nodes = {node.id: self.node(node) for node in graph.nodes.values()}
        return Prices("milliseconds", nodes, tuple(map(self.edge, graph.edges)))

    def node(self, node: Node) -> float:
        """Return the milliseconds of a node's transform."""
        if node.op == "input" or node.rule.takes_bundle or node.input is None:
            return 0.0
        key = (node.op, node.params, node.input)
        if key not in self.known:
            is_part = node.op == NetworkPart.op_name
            built = self.sources.build(node) if is_part else build_node(node.rule, node.input)
            module = built.to(self.device).float().eval()
            x = self.tensor(node.input)
            if isinstance(module, Region):  # windows of an image may stand in its batch
                x = x.repeat(module.factor, *(1 for _ in x.shape[1:])).movedim(0, module.axis)
            self.known[key] = self.median(lambda: module(x))
        return self.known[key]

    def edge(self, edge: Edge) -> float:
        """Return the milliseconds of an edge's op and of the addition."""
        source, target = self.graph.shapes[edge.src], self.graph.nodes[edge.dst]
        if not isinstance(source, Shape) or target.input is None:
            return 0.0
        if source.is_ids:  # passed on as they are
            return 0.0
        aimed = edge_target(source, target)
        key = (edge.op, edge.params, source, aimed)
        if key not in self.known:
            y, total, size = self.tensor(source), self.tensor(aimed), aimed.size(self.graph.image)
            if edge.op == "identity":
                self.known[key] = self.median(lambda: total.add(y, alpha=0.5))
            else:
                module = build_edge(edge.rule, source, aimed).to(self.device).eval()
                self.known[key] = self.median(lambda: total.add(module(y, size), alpha=0.5))
        return self.known[key]

    def tensor(self, shape: Shape) -> Tensor:
        """Make a random tensor of a shape."""
        if shape.vocabulary is not None:
            return torch.randint(shape.vocabulary, (self.batch, shape.area(self.graph.image)), device=self.device)
        if shape.dims is not None:
            return torch.randn(self.batch, *shape.dims, device=self.device)
        if shape.is_tokens:
            return torch.randn(self.batch, shape.area(self.graph.image), shape.channels, device=self.device)
        spatial = shape.size(self.graph.image) if shape.is_map else ()
        return torch.randn(self.batch, shape.channels, *spatial, device=self.device)

    @torch.no_grad()
    def median(self, call: Callable[[], object]) -> float:
        """Return the median milliseconds of a call."""
        times = []
        for number in range(WARM + RUNS):
            self.synchronise()
            start = time.perf_counter()
            call()
            self.synchronise()
            if number >= WARM:
                times.append(time.perf_counter() - start)
        return 1e3 * statistics.median(times)

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
