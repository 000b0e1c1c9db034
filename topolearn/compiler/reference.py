"""The reference interpreter, a loop over nodes and edges; everything else is tested against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from topolearn.compiler.dag import Inputs, Outputs, Weights
from topolearn.compiler.modules import build_edge
from topolearn.compiler.modules.base import Modules
from topolearn.compiler.plan import depths, edge_key, ends
from topolearn.graph import Graph


class ReferenceDAG(nn.Module):
    """A simple, slow interpreter with the same contract as :class:`topolearn.compiler.dag.DAG`.

    Attributes:
        see: If set, called for each node that adds up its in-edges: its id, and index of each in-edge -> the tensor
            that the edge brings, before weighting.
    """

    def __init__(self, graph: Graph, nodes: Modules, edges: Modules, shared: Modules) -> None:
        super().__init__()
        self.see: Callable[[str, Mapping[int, Tensor]], None] | None = None
        self.graph = graph
        self.nodes = nodes
        self.edges = edges
        self.shared = shared

    def forward(self, inputs: Inputs, weights: Weights) -> Outputs:
        """Run the network; see :meth:`topolearn.compiler.dag.DAG.forward`."""
        graph = self.graph
        y: dict[str, Any] = {graph.inputs[0]: inputs} if isinstance(inputs, Tensor) else dict(inputs)
        images = [name for name in graph.inputs if len(graph.input_size(name)) == 3]
        image = (y[images[0]].shape[-2], y[images[0]].shape[-1]) if images else (1, 1)
        depth = depths(graph)
        for level in range(1, max(depth.values()) + 1):
            x: dict[str, Any] = {}
            for node_id in graph.nodes:
                if depth[node_id] == level:
                    x[node_id] = self.aggregate(node_id, y, weights, image)
            parts = self.shared_parts(x)
            for node_id, tensor in x.items():
                y[node_id] = self.nodes[node_id](tensor, **parts[node_id])
        outputs = {name: y[name] for name in graph.outputs}
        return outputs[graph.outputs[0]] if len(outputs) == 1 else outputs

    def aggregate(self, node_id: str, y: dict[str, Any], weights: Weights, image: tuple[int, int]) -> Any:
        """Combine the tensors of a node's in-edges."""
        graph, node = self.graph, self.graph.nodes[node_id]
        if node.rule.takes_bundle:
            return y[graph.edges[graph.in_edges(node_id)[0]].src][node.params["name"]]
        if node.rule.takes_ids:
            return y[graph.edges[graph.in_edges(node_id)[0]].src]
        brought = self.brought(node_id, y, image)
        if self.see is not None:
            self.see(node_id, brought)
        terms = []
        for i, term in brought.items():
            weight = weights[i]
            if isinstance(weight, Tensor):
                weight = (weight if graph.edges[i].learnable else weight.detach()).to(term.dtype)
            terms.append(weight * term)
        if node.aggregate == "concat":
            assert node.input is not None
            return torch.cat(terms, node.input.channel_axis)
        total = sum(terms[1:], start=terms[0])
        return self.nodes[node_id].aggregate(total) if node.aggregate == "normalised" else total  # type: ignore[operator]

    def brought(self, node_id: str, y: dict[str, Any], image: tuple[int, int]) -> dict[int, Tensor]:
        """Return what each in-edge of a node brings, before weighting, by the edge's index."""
        graph = self.graph
        terms: dict[int, Tensor] = {}
        for i in graph.in_edges(node_id):
            edge = graph.edges[i]
            source, target = ends(graph, edge)
            brought = y[edge.src]
            if edge.op != "identity":
                carry = (
                    self.edges[edge_key(edge)] if edge.rule.has_parameters else build_edge(edge.rule, source, target)
                )
                brought = carry(brought, target.size(image))
            terms[i] = brought
        return terms

    def shared_parts(self, x: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
        """Run the shared parts for the nodes of one depth: one call per group, over the stacked batch."""
        members: dict[tuple[str, str], list[str]] = {}
        for node_id in x:
            node = self.graph.nodes[node_id]
            for part, group in node.share.items():
                if group in self.shared:
                    members.setdefault((part, group), []).append(node_id)
        parts: dict[str, dict[str, Tensor]] = {node_id: {} for node_id in x}
        for (part, group), ids in members.items():
            stacked = torch.cat([self.nodes[node_id].part_input(part, x[node_id]) for node_id in ids])  # type: ignore[operator]
            for node_id, result in zip(ids, self.shared[group](stacked).chunk(len(ids)), strict=True):
                parts[node_id][part] = result
        return parts
