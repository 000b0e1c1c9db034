"""The compiled network: runs a plan over the modules of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topolearn.compiler.aggregate import FanOut, Sink, WeightedSum, weighted_sum
from topolearn.compiler.modules import build_edge
from topolearn.compiler.plan import NodeStep, make_plan
from topolearn.graph import Graph

Inputs = Tensor | Mapping[str, Tensor]
Outputs = Tensor | dict[str, Tensor]
Weights = Tensor | Sequence[float]


class DAG(nn.Module):
    """A graph's forward pass for given effective edge weights.

    Effective means that the divisor of ``mean`` is already in them. A fixed edge's entry is its
    weight in the graph, and gets no gradient.

    It owns no tensors: the modules are the network's, whose ``state_dict`` keeps the graph's layout.
    """

    def __init__(self, graph: Graph, nodes: nn.ModuleDict, edges: nn.ModuleDict, shared: nn.ModuleDict) -> None:
        super().__init__()
        self.nodes = nodes
        self.edges = edges
        self.shared = shared
        self.plan = make_plan(graph)
        self._transforms: dict[int, nn.Module] = {}
        for level in self.plan.levels:
            for step in level:
                for d in step.derive:
                    self._transforms[d.slot] = build_edge(d.rule, *d.shapes) if d.module is None else edges[d.module]

    def forward(self, inputs: Inputs, weights: Weights) -> Outputs:
        """Run the network.

        Args:
            inputs: (N, C, H, W) or (N, features); a mapping by input id where there are several.
            weights: (E,) effective edge weights; Python numbers are constants, and those equal to 0
                cost nothing.

        Returns:
            The output, or a dict by node id where there are several.
        """
        return _Run(self, inputs, weights).outputs()


class _Run:
    """One forward pass."""

    def __init__(self, dag: DAG, inputs: Inputs, weights: Weights) -> None:
        self.dag = dag
        plan = dag.plan
        self.values: list[Any] = [None] * plan.slots
        self.sinks: list[Sink | None] = [None] * plan.slots
        # Compilers trace plain arithmetic and fuse it; they would refuse the sinks' side effects.
        self.traced = torch.compiler.is_compiling()
        self.eager_grad = torch.is_grad_enabled() and not self.traced
        self.rows: Sequence[Tensor | None]
        self.numbers: Sequence[Sequence[float] | None]
        if isinstance(weights, Tensor):
            self.rows = torch.split(weights, list(plan.in_degrees))
            on_host = weights.device.type == "cpu" and not self.traced
            self.numbers = _split(weights.tolist(), plan.in_degrees) if on_host else [None] * len(plan.in_degrees)
        else:
            self.rows = [None] * len(plan.in_degrees)
            self.numbers = _split(weights, plan.in_degrees)
        given = {plan.inputs[0][0]: inputs} if isinstance(inputs, Tensor) else inputs
        for name, slot in plan.inputs:
            self.values[slot] = given[name]
        image = None if plan.reference is None else given[plan.reference]
        self.image = (1, 1) if image is None else (image.shape[-2], image.shape[-1])

    def outputs(self) -> Outputs:
        plan = self.dag.plan
        for level, dying in zip(plan.levels, plan.last_reads, strict=True):
            grouped = [step for step in level if step.shared]
            if grouped:
                self.run_grouped(grouped)
            for step in level:
                if not step.shared:
                    self.fill(step.slot, self.dag.nodes[step.node](self.aggregate(step)))
            for slot in dying:
                self.values[slot] = None
        if len(plan.outputs) == 1:
            output: Tensor = self.values[plan.outputs[0][1]]
            return output
        return {name: self.values[slot] for name, slot in plan.outputs}

    def run_grouped(self, steps: list[NodeStep]) -> None:
        """Run nodes of one depth, each shared part once over the stacked batch of its members."""
        xs = {step.node: self.aggregate(step) for step in steps}
        members: dict[tuple[str, str], list[NodeStep]] = {}
        for step in steps:
            for part, group in step.shared:
                members.setdefault((part, group), []).append(step)
        parts: dict[str, dict[str, Tensor]] = {step.node: {} for step in steps}
        for (part, group), sharing in members.items():
            stacked = [self.dag.nodes[step.node].part_input(part, xs[step.node]) for step in sharing]  # type: ignore[operator]
            results = self.dag.shared[group](torch.cat(stacked)).chunk(len(stacked))
            for step, result in zip(sharing, results, strict=True):
                parts[step.node][part] = result
        for step in steps:
            self.fill(step.slot, self.dag.nodes[step.node](xs[step.node], **parts[step.node]))

    def aggregate(self, step: NodeStep) -> Tensor:
        for d in step.derive:
            self.fill(d.slot, self.dag._transforms[d.slot](self.values[d.source], self.size(d.stride)))
        if step.feature is not None:
            feature: Tensor = self.values[step.sources[0]][step.feature]
            return feature
        ys = [self.values[slot] for slot in step.sources]
        row, numbers = self.rows[step.row], self.numbers[step.row]
        if step.unit and (row is not None or numbers == [1.0]):
            return ys[0]  # type: ignore[no-any-return]
        if step.aggregate == "concat":
            return torch.cat(self.scaled(ys, row, numbers), 1)
        if self.traced:
            x = _traced_sum(ys, row, numbers, step.learnable)
        elif not self.eager_grad:
            x = weighted_sum(ys, row, numbers)
        else:
            sinks = [self.sinks[slot] for slot in step.sources]
            x = WeightedSum.apply(row, numbers, step.learnable, sinks, *ys)
        if step.aggregate == "normalised":
            x = self.dag.nodes[step.node].aggregate(x)  # type: ignore[operator]
        return x

    def scaled(self, ys: list[Tensor], row: Tensor | None, numbers: Sequence[float] | None) -> list[Tensor]:
        """The sources of a concat, whose edges are never learnable."""
        if numbers is not None:
            return [y if number == 1.0 else y * number for y, number in zip(ys, numbers, strict=True)]
        assert row is not None
        return [y * weight.to(y.dtype) for y, weight in zip(ys, row.detach().unbind(), strict=True)]

    def fill(self, slot: int, value: Any) -> None:
        if self.eager_grad and self.dag.plan.shared_reads[slot] and value.requires_grad:
            sink = Sink()
            value = FanOut.apply(value, sink)
            self.sinks[slot] = sink
        self.values[slot] = value

    def size(self, stride: Any) -> tuple[Any, Any]:
        if not isinstance(stride, int):
            return (1, 1)
        return ((self.image[0] + stride - 1) // stride, (self.image[1] + stride - 1) // stride)


def _split(numbers: Sequence[float], counts: Sequence[int]) -> list[list[float]]:
    rows, start = [], 0
    for count in counts:
        rows.append(list(numbers[start : start + count]))
        start += count
    return rows


def _traced_sum(
    ys: list[Tensor], row: Tensor | None, numbers: Sequence[float] | None, learnable: Sequence[bool]
) -> Tensor:
    """``sum_k w_k y_k`` as plain arithmetic."""
    weights: list[Any]
    if numbers is not None:
        weights = list(numbers)
    else:
        assert row is not None
        weights = [w if wanted else w.detach() for w, wanted in zip(row.unbind(), learnable, strict=True)]
        weights = [w.to(y.dtype) for w, y in zip(weights, ys, strict=True)]
    active = [(y, w) for y, w in zip(ys, weights, strict=True) if not (isinstance(w, float) and w == 0.0)]
    if not active:
        return torch.zeros_like(ys[0])
    common = active[0][1]
    if isinstance(common, float) and all(weight == common for _, weight in active):
        total = _sum([y for y, _ in active])
        return total if common == 1.0 else total * common
    return _sum([y if isinstance(w, float) and w == 1.0 else y * w for y, w in active])


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
