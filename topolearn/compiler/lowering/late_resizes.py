"""A pass that sums tensors with the same resizing first, and resizes the sum once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from topolearn.compiler.plan import Derivation, FanBranch, NodeStep, Plan, Value
from topolearn.ops import Shape
from topolearn.ops.edges import Resize


def resize_late(plan: Plan) -> Plan:
    """Resize sums instead of their terms, if that needs no more resizings.

    Requires that :func:`make_fans` ran before, if it is used at all: a ``conv_resize`` that is not split resizes its
    own output. Ensures the same function, because resizing is linear. It is faster, because tensors are summed while
    they are small, and one resizing per target serves all its sources. If sources go to more targets of a shape than
    there are sources, each source is still resized once for all of them.
    """
    sources: defaultdict[ResizeKind, set[Value]] = defaultdict(set)
    targets: defaultdict[ResizeKind, set[str]] = defaultdict(set)
    for step in plan.sums:
        for value in step.sources:
            kind = _kind(value)
            if kind is not None:
                sources[kind].add(value)
                targets[kind].add(step.node)
    late = {kind for kind in sources if len(targets[kind]) <= len(sources[kind])}

    def put_off(step: NodeStep) -> NodeStep:
        return replace(step, late=tuple(_kind(value) in late for value in step.sources))

    return plan.replace_sums(put_off)


ResizeKind = tuple[Resize, tuple[Shape, Shape], bool]
"""Resizings with the same kind can be merged; those of fans' branches, which only one step reads, are separate kinds.
"""


def _kind(value: Value) -> ResizeKind | None:
    if not isinstance(value, Derivation) or not isinstance(value.rule, Resize):
        return None
    return value.rule, value.shapes, isinstance(value.source, FanBranch)
