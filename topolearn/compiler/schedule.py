"""Schedules a plan: when each tensor is made, in which slot it is kept, and when it is dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topolearn.compiler.plan import Derivation, Fan, FanBranch, NodeOutput, Plan, PlanStep, Value, shared_parts


@dataclass(frozen=True)
class Turn:
    """A step with the numbers of its slots.

    Attributes:
        step: The step.
        make: Tensors to make before the step, in this order.
        reads: Slots that the step reads, in the order of ``step.reads``.
        slot: Slot that the step fills.
        row: Number of the step's (first) node in canonical order.
    """

    step: PlanStep
    make: tuple[Derivation | Fan, ...]
    reads: tuple[int, ...]
    slot: int
    row: int


@dataclass(frozen=True)
class Schedule:
    """A plan with numbered slots.

    Attributes:
        plan: The plan.
        slot_of: Slot of each tensor.
        levels: Steps in running order, by depth; at one depth, steps that share parts come first.
        last_reads: Per level, the slots that nothing reads afterwards.
        shared_reads: Per slot, whether more than one weighted sum reads it.
        learned_reads: Per slot, whether a weighted sum reads it over a learnable edge.
        in_degrees: Number of in-edges per node, in canonical order.
    """

    plan: Plan
    slot_of: dict[Value, int]
    levels: tuple[tuple[Turn, ...], ...]
    last_reads: tuple[tuple[int, ...], ...]
    shared_reads: tuple[bool, ...]
    learned_reads: tuple[bool, ...]
    in_degrees: tuple[int, ...]

    @property
    def slots(self) -> int:
        """Number of slots."""
        return len(self.shared_reads)


def make_schedule(plan: Plan) -> Schedule:
    """Give each tensor a slot; the first step that reads a tensor makes it."""
    graph = plan.graph
    slots: dict[Value, int] = {NodeOutput(name): number for number, name in enumerate(graph.inputs)}
    rows = {name: row for row, name in enumerate(graph.nodes)}
    levels = []
    for level in plan.levels:
        turns = []
        for step in sorted(level, key=lambda step: not shared_parts(graph, step.nodes[0])):
            make: list[Derivation | Fan] = []
            for value in step.reads:
                _prepare(value, slots, make)
            reads = tuple(slots[value] for value in step.reads)
            slot = slots[NodeOutput(step.nodes[0])] = len(slots)
            turns.append(Turn(step, tuple(make), reads, slot, rows[step.nodes[0]]))
        levels.append(tuple(turns))
    reads_of = _weighted_reads(plan, slots)
    return Schedule(
        plan=plan,
        slot_of=slots,
        levels=tuple(levels),
        last_reads=_last_reads(levels, slots, {slots[NodeOutput(name)] for name in graph.outputs}),
        shared_reads=tuple(len(learnable) > 1 for learnable in reads_of),
        learned_reads=tuple(map(any, reads_of)),
        in_degrees=tuple(len(graph.in_edges(name)) for name in graph.nodes),
    )


def _prepare(value: Value, slots: dict[Value, int], make: list[Derivation | Fan]) -> None:
    """Give a tensor and its sources slots, if they have none yet, and add what has to be made to ``make``."""
    if value in slots:
        return
    assert not isinstance(value, NodeOutput), "nodes of an earlier level have run"
    made = value.fan if isinstance(value, FanBranch) else value
    _prepare(made.source, slots, make)
    for new in made.branches if isinstance(made, Fan) else (made,):
        slots[new] = len(slots)
    make.append(made)


def _weighted_reads(plan: Plan, slots: dict[Value, int]) -> list[list[bool]]:
    """Return, per slot and weighted sum that reads it, whether the edge is learnable."""
    reads: list[list[bool]] = [[] for _ in slots]
    for step in plan.sums:
        if not plan.takes_as_is(step):
            for value, edge in zip(step.reads, plan.in_edges(step), strict=True):
                reads[slots[value]].append(edge.learnable)
    return reads


def _last_reads(
    levels: Sequence[Sequence[Turn]], slots: dict[Value, int], keep: set[int]
) -> tuple[tuple[int, ...], ...]:
    last: dict[int, int] = {}
    for number, level in enumerate(levels):
        for turn in level:
            last.update(dict.fromkeys((*turn.reads, *(slots[made.source] for made in turn.make)), number))
    dying: list[list[int]] = [[] for _ in levels]
    for slot, number in last.items():
        if slot not in keep:
            dying[number].append(slot)
    return tuple(map(tuple, dying))
