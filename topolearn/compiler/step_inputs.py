"""What a step takes: the tensors that its in-edges bring, added up, mixed, side by side, or the only one as it is."""

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
    """How a step takes its input: (N, C, H, W), (N, C) or (N, T, C), with a branch axis where it has siblings."""
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
    if node.rule.takes_ids:  # ids are no numbers to multiply
        return SingleInput(turn.reads[0], (), found)
    if not plan.takes_as_is(step):
        return found
    return SingleInput(turn.reads[0], [graph.in_edges(name)[0] for name in step.nodes], found)


Resizing = tuple[Resize, tuple[Shape, Shape]]
"""A ``resize``, the shape of what it takes and the one it must bring."""


@final
class FeatureInput:
    """One feature of a backbone's bundle."""

    def __init__(self, slot: int, name: str) -> None:
        self.slot = slot
        self.name = name

    def take(self, run: Run) -> Tensor:
        """(N, C, H, W) the feature."""
        feature: Tensor = run.values[self.slot][self.name]
        return feature


@final
class SingleInput:
    """One tensor as it is, where it comes over edges of weight 1; else as ``otherwise`` takes it."""

    def __init__(self, slot: int, edges: Sequence[int], otherwise: StepInput) -> None:
        self.slot = slot
        self.edges = edges
        self.otherwise = otherwise

    def take(self, run: Run) -> Tensor:
        """(N, C, H, W) the tensor; (N, 1, C, H, W) for siblings, who all take it."""
        if not run.weights.are_one(self.edges):
            return self.otherwise.take(run)
        only: Tensor = run.values[self.slot]
        return only.unsqueeze(1) if len(self.edges) > 1 else only


@final
class ConcatInput:
    """What in-edges bring, one after another along the channels; they are never learnable."""

    def __init__(self, edges: InEdges, axis: int) -> None:
        self.edges = edges
        self.axis = axis

    def take(self, run: Run) -> Tensor:
        """(N, C, H, W) or (N, T, C) with the channels of all."""
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
    """The weighted sum of what in-edges bring; what needs the same resizing is added up first.

    The sums of all groups, the coarsest first, are added up at the node's own size. A sum goes to the size of the
    next group, and on with that one's, where nothing is lost on the way: most of the resizing is then done where
    tensors are small.
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
        """(N, C, H, W), (N, C) or (N, T, C) the sum."""
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
    """Whether a fan makes it, resized or not, with batch normalisations, which take learned weights as their scale."""
    branch = value.source if isinstance(value, Derivation) else value
    return isinstance(branch, FanBranch) and branch.fan.rule.batch_norm


@final
class Group:
    """In-edges of a node that are added up before they are brought to its height and width together.

    Attributes:
        coarseness: Stride of the sum, infinite for what is global; 0 for one that is as it must be.
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
        """The weighted sum, not resized yet."""
        if self.normalised and run.norm_weights is not None:
            return total(run.brought(self.edges))
        return run.add(self.edges)

    def resized(self, run: Run, x: Tensor, like: Tensor | None = None) -> Tensor:
        """The sum at the size of ``like``; None: at the node's own."""
        if self.rule is None:
            return x
        y: Tensor = self.resize(x, run.size(self.stride) if like is None else like.shape[-2:])
        return y

    def passes_through(self, run: Run, x: Tensor, fine: Group, y: Tensor) -> bool:
        """Whether resizing the sum ``x`` to the size of ``y``, and on with it, is the same as resizing it at once.

        So it is with a constant; and with a linear interpolation whose points are all points of the finer grid,
        for it is linear between those too.
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
    """What each tensor brings to several nodes, by one matrix of its edges' weights."""

    def __init__(self, step: SiblingStep, slots: Sequence[int], edges: Sequence[Edge]) -> None:
        self.terms = [(slot, term.stacked, Matrix(term, edges)) for slot, term in zip(slots, step.terms, strict=True)]
        self.alone = len(step.nodes) == 1

    def take(self, run: Run) -> Tensor:
        """(N, T, C, H, W) for T siblings; for one node alone (N, C, H, W)."""
        x: Tensor | None = None
        for slot, stacked, matrix in self.terms:
            y = run.values[slot] if stacked else run.values[slot].unsqueeze(1)
            x = mix(run.weights.mixing(matrix, y), y, x)
        assert x is not None
        return x.squeeze(1) if self.alone else x


StepInput = FeatureInput | SingleInput | ConcatInput | SumInput | MixInput
