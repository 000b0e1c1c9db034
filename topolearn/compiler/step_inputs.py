"""The inputs of steps: in-edges' tensors that are summed, mixed or concatenated, or a single one as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from topolearn.compiler.aggregate import mix
from topolearn.compiler.modules import build_edge
from topolearn.compiler.plan import Derivation, FanBranch, NodeStep, Plan, SiblingStep, Value
from topolearn.compiler.run import Run, total
from topolearn.compiler.schedule import Turn
from topolearn.compiler.weights import InEdges, Matrix
from topolearn.graph import Edge
from topolearn.ops import Shape
from topolearn.ops.edges import Resize


def step_input(plan: Plan, turn: Turn) -> StepInput:
    """Make a step's input: (N, C, H, W), (N, C) or (N, T, C), with a branch axis if the step has siblings."""
    step, graph = turn.step, plan.graph
    node = graph.nodes[step.nodes[0]]
    if node.rule.takes_bundle:
        return FeatureInput(turn.reads[0], str(node.params["name"]))
    found: StepInput
    if isinstance(step, SiblingStep):
        found = MixInput(step, turn.reads, graph.edges)
    else:
        learnable = tuple(edge.learnable for edge in plan.in_edges(step))
        edges = InEdges(turn.row, tuple(graph.in_edges(node.id)), turn.reads, learnable)
        assert node.input is not None
        axis = node.input.channel_axis
        found = ConcatInput(edges, axis) if node.aggregate == "concat" else SumInput(step, edges)
    if node.rule.takes_ids:  # ids cannot be multiplied
        return SingleInput(turn.reads[0], (), found)
    if not plan.takes_as_is(step):
        return found
    return SingleInput(turn.reads[0], [graph.in_edges(name)[0] for name in step.nodes], found)


Resizing = tuple[Resize, tuple[Shape, Shape]]
"""A ``resize`` op, the shape of its input and the shape that it must return."""


@final
class FeatureInput:
    """One feature of a backbone's bundle."""

    def __init__(self, slot: int, name: str) -> None:
        self.slot = slot
        self.name = name

    def take(self, run: Run) -> Tensor:
        """Return the feature (N, C, H, W)."""
        feature: Tensor = run.values[self.slot][self.name]
        return feature


@final
class SingleInput:
    """One tensor as it is, if its edges have weight 1; otherwise the input ``otherwise``."""

    def __init__(self, slot: int, edges: Sequence[int], otherwise: StepInput) -> None:
        self.slot = slot
        self.edges = edges
        self.otherwise = otherwise

    def take(self, run: Run) -> Tensor:
        """Return the tensor (N, C, H, W); (N, 1, C, H, W) for siblings that all take it."""
        if not run.weights.are_one(self.edges):
            return self.otherwise.take(run)
        only: Tensor = run.values[self.slot]
        return only.unsqueeze(1) if len(self.edges) > 1 else only


@final
class ConcatInput:
    """The tensors of in-edges, concatenated along the channels; such edges are never learnable."""

    def __init__(self, edges: InEdges, axis: int) -> None:
        self.edges = edges
        self.axis = axis

    def take(self, run: Run) -> Tensor:
        """Return (N, C, H, W) or (N, T, C) with the channels of all tensors."""
        row, numbers = run.weights.of(self.edges)
        ys = run.brought(self.edges)
        if numbers is not None:
            return torch.cat(
                [y if number == 1.0 else y * number for y, number in zip(ys, numbers, strict=True)], self.axis
            )
        assert row is not None
        weights = row.detach().unbind()
        return torch.cat([y * weight.to(y.dtype) for y, weight in zip(ys, weights, strict=True)], self.axis)


@final
class SumInput:
    """The weighted sum of in-edges' tensors; tensors that need the same resizing are summed first.

    The sums of all groups are then added at the node's own size, the coarsest first. If the result is the same, a
    sum is first resized to the next group's size and continues with that group: most of the resizing is then done on
    small tensors.
    """

    def __init__(self, step: NodeStep, edges: InEdges) -> None:
        found: dict[tuple[Resizing | None, bool], list[int]] = {}
        for place, (value, late) in enumerate(zip(step.sources, step.late, strict=True)):
            resizing = None
            if late:
                assert isinstance(value, Derivation)
                assert isinstance(value.rule, Resize)
                resizing = (value.rule, value.shapes)
            found.setdefault((resizing, _is_normalised(value)), []).append(place)
        groups = [Group(edges.at(places), *key) for key, places in found.items()]
        self.groups = sorted(groups, key=lambda group: -group.coarseness)

    def take(self, run: Run) -> Tensor:
        """Return the sum: (N, C, H, W), (N, C) or (N, T, C)."""
        groups, done = self.groups, []
        waiting, *sums = [group.add(run) for group in groups]
        for coarse, fine, part in zip(groups, groups[1:], sums, strict=False):
            if coarse.passes_through(run, waiting, fine, part):
                waiting = part + coarse.resized(run, waiting, part)
            else:
                done.append(coarse.resized(run, waiting))
                waiting = part
        return total([*done, groups[-1].resized(run, waiting)])


def _is_normalised(value: Value) -> bool:
    """Whether a fan with batch normalisations makes it, resized or not; their scale applies learned weights."""
    branch = value.source if isinstance(value, Derivation) else value
    return isinstance(branch, FanBranch) and branch.fan.rule.batch_norm


@final
class Group:
    """In-edges of a node whose tensors are summed before the sum is resized to the node's height and width.

    Attributes:
        coarseness: Stride of the sum; infinite for a global one, 0 for one that needs no resizing.
    """

    def __init__(self, edges: InEdges, late: Resizing | None, normalised: bool) -> None:
        self.edges = edges
        self.normalised = normalised
        self.rule: Resize | None = None
        self.coarseness = 0.0
        if late is not None:
            self.rule, (shape, wanted) = late
            self.resize = build_edge(self.rule, shape, wanted)
            self.stride = wanted.stride
            self.coarseness = shape.stride if isinstance(shape.stride, int) else math.inf

    def add(self, run: Run) -> Tensor:
        """Return the weighted sum, not resized yet."""
        if self.normalised and run.norm_weights is not None:
            return total(run.brought(self.edges))
        return run.add(self.edges)

    def resized(self, run: Run, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Return the sum at the size of ``like``; None: at the node's own size."""
        if self.rule is None:
            return x
        y: Tensor = self.resize(x, run.size(self.stride) if like is None else like.shape[-2:])
        return y

    def passes_through(self, run: Run, x: Tensor, fine: Group, y: Tensor) -> bool:
        """Whether resizing the sum ``x`` to the size of ``y`` and then further is the same as resizing it at once.

        This holds for a constant. It also holds for a linear interpolation if its points are all points of the finer
        grid, because it is linear between those too.
        """
        rule = self.rule
        if rule is None:  # both are of the node's own size
            return True
        if not run.sizes_known or fine.rule not in (None, rule):
            return False
        lengths = tuple(zip(x.shape[-2:], y.shape[-2:], strict=True))
        grid = (
            rule.mode == "bilinear" and rule.align_corners and all(m == 1 or (n - 1) % (m - 1) == 0 for m, n in lengths)
        )
        return grid or self.coarseness == math.inf


@final
class MixInput:
    """The weighted sums for several nodes; each tensor contributes by one matrix of its edges' weights."""

    def __init__(self, step: SiblingStep, slots: Sequence[int], edges: Sequence[Edge]) -> None:
        self.terms = [(slot, term.stacked, Matrix(term, edges)) for slot, term in zip(slots, step.terms, strict=True)]
        self.alone = len(step.nodes) == 1

    def take(self, run: Run) -> Tensor:
        """Return (N, T, C, H, W) for T siblings, (N, C, H, W) for one node alone."""
        x: Tensor | None = None
        for slot, stacked, matrix in self.terms:
            y = run.values[slot] if stacked else run.values[slot].unsqueeze(1)
            x = mix(run.weights.mixing(matrix, y), y, x)
        assert x is not None
        return x.squeeze(1) if self.alone else x


StepInput = FeatureInput | SingleInput | ConcatInput | SumInput | MixInput
