"""The steps of a schedule, bound to the modules that they run; a forward pass runs them in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from topolearn.compiler.modules import build_edge
from topolearn.compiler.modules.base import Modules
from topolearn.compiler.plan import Derivation, Fan, edge_key, shared_parts
from topolearn.compiler.run import Run
from topolearn.compiler.schedule import Schedule, Turn
from topolearn.compiler.stacking import as_if_repeated, stack, weighted
from topolearn.compiler.step_inputs import step_input
from topolearn.compiler.weights import Constant


@dataclass(frozen=True)
class Binding:
    """The schedule and modules that steps are bound to.

    Attributes:
        schedule: The schedule.
        nodes: Node modules by id.
        edges: Edge modules by key.
        shared: Shared modules by group.
    """

    schedule: Schedule
    nodes: Modules
    edges: Modules
    shared: Modules


@final
class BoundDerivation:
    """Makes a tensor from another by an edge op."""

    def __init__(self, made: Derivation, to: Binding) -> None:
        slot_of = to.schedule.slot_of
        self.source, self.slot = slot_of[made.source], slot_of[made]
        self.stride = made.shapes[1].stride
        self.module = build_edge(made.rule, *made.shapes) if made.module is None else to.edges[made.module]

    def run(self, run: Run) -> None:
        """Fill the tensor's slot."""
        source, size = run.values[self.source], run.size(self.stride)
        if source.dim() == 5:
            value = self.module(source.flatten(0, 1), size).unflatten(0, source.shape[:2])
        else:
            value = self.module(source, size)
        run.fill(self.slot, value)


@final
class BoundFan:
    """Runs the convolutions of a fan's edges, side by side on a branch axis."""

    def __init__(self, fan: Fan, to: Binding) -> None:
        slot_of = to.schedule.slot_of
        edges = [to.schedule.plan.graph.edges[i] for i in fan.edges]
        self.source, self.slots = slot_of[fan.source], [slot_of[branch] for branch in fan.branches]
        self.normalises = fan.rule.batch_norm
        self.edges, self.learnable = Constant(fan.edges), Constant([edge.learnable for edge in edges])
        module = stack([to.edges[edge_key(edge)].get_submodule("unit") for edge in edges])
        assert module is not None, "what ConvResize holds can be stacked"
        self.module = module

    def run(self, run: Run) -> None:
        """Fill the branches' slots."""
        x = run.values[self.source].unsqueeze(1)
        if self.normalises and run.norm_weights is not None:
            with weighted(self.module, run.norm_weights.of_fan(self.edges, self.learnable)):
                made = self.module(x)
        else:
            made = self.module(x)
        for slot, value in zip(self.slots, made.unbind(1), strict=True):
            run.fill(slot, value)


@final
class BoundStep:
    """Takes its input and transforms it, for one node or for siblings."""

    def __init__(self, turn: Turn, to: Binding) -> None:
        ids = turn.step.nodes
        self.count = len(ids)
        self.slot = turn.slot
        self.make = [BoundFan(made, to) if isinstance(made, Fan) else BoundDerivation(made, to) for made in turn.make]
        self.input = step_input(to.schedule.plan, turn)
        self.normalised = to.schedule.plan.graph.nodes[ids[0]].aggregate == "normalised"
        self.nodes, self.node = to.nodes, ids[0]
        self.stacked = stack([to.nodes[name] for name in ids]) if len(ids) > 1 else None

    @property
    def module(self) -> Any:
        """The module that transforms the input; a node's own module may be replaced at any time."""
        return self.nodes[self.node] if self.stacked is None else self.stacked

    def take(self, run: Run) -> Tensor:
        """Return the step's input: (N, C, H, W), with a branch axis if the step has siblings."""
        for made in self.make:
            made.run(run)
        x = self.input.take(run)
        return self.module.aggregate(x) if self.normalised else x

    def fill(self, run: Run, x: Tensor, parts: dict[str, Tensor]) -> None:
        """Fill the step's slot with the output for input ``x`` and the outputs of its shared parts."""
        y: Tensor = self.module(x, **parts)
        if self.count > 1 and y.shape[1] != self.count:
            y = y.expand(-1, self.count, *y.shape[2:])  # it is equal for all siblings
        run.fill(self.slot, y)


@final
class BoundLevel:
    """The steps of one depth."""

    def __init__(self, turns: Sequence[Turn], last_reads: Sequence[int], to: Binding) -> None:
        self.sharing: list[BoundStep] = []
        self.others: list[BoundStep] = []
        members: dict[tuple[str, str], list[BoundStep]] = {}
        for turn in turns:
            step, shared = BoundStep(turn, to), shared_parts(to.schedule.plan.graph, turn.step.nodes[0])
            (self.sharing if shared else self.others).append(step)
            for part_and_group in shared:
                members.setdefault(part_and_group, []).append(step)
        self.members = list(members.items())
        self.shared = to.shared
        self.last_reads = last_reads

    def run(self, run: Run) -> None:
        """Run all steps, those that share parts first, then drop the tensors that nothing reads afterwards."""
        if self.sharing:
            self.run_sharing(run)
        for step in self.others:
            step.fill(run, step.take(run), {})
        for slot in self.last_reads:
            run.values[slot] = None

    def run_sharing(self, run: Run) -> None:
        """Run the steps that share parts; each part runs once over the stacked batch of its members."""
        xs = {step.slot: step.take(run) for step in self.sharing}
        parts: dict[int, dict[str, Tensor]] = {step.slot: {} for step in self.sharing}
        for (part, group), steps in self.members:
            given = [step.module.part_input(part, xs[step.slot]) for step in steps]
            counts = [step.count for step in steps]
            for step, result in zip(steps, _outputs(self.shared[group], given, counts), strict=True):
                parts[step.slot][part] = result
        for step in self.sharing:
            step.fill(run, xs[step.slot], parts[step.slot])


def _outputs(module: nn.Module, given: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
    """Run a shared module once and return its output for each step, given the steps' numbers of siblings."""
    if len(given) == 1 and counts[0] > 1 and given[0].shape[1] == 1:
        return [as_if_repeated(module, given[0].squeeze(1), counts[0]).unsqueeze(1)]
    batches = [
        x.expand(-1, count, *x.shape[2:]).flatten(0, 1) if count > 1 else x
        for x, count in zip(given, counts, strict=True)
    ]
    results = module(batches[0] if len(batches) == 1 else torch.cat(batches)).split([x.shape[0] for x in batches])
    return [y.unflatten(0, (-1, count)) if count > 1 else y for y, count in zip(results, counts, strict=True)]
