"""What is resized alike is added up first, and resized once."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from topolearn.compiler.plan import Derivation, FanBranch, NodeStep, Plan, Value
from topolearn.ops import Shape
from topolearn.ops.edges import Resize


def resize_late(plan: Plan) -> Plan:
    """Resize sums instead of what is added up, if that is not more often.

    Requires that fans are made, if there are to be any: a ``conv_resize`` that is not split resizes for itself.
    Ensures the same function, because resizing is linear. Faster, because tensors are added up while they are small,
    and one resizing per target does for all its sources. Where one source goes to more targets of a shape than there
    are sources, it is still resized once, and read by all.
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
"""What resizings that one can do for have in common; those of fans' branches, which one step reads, are apart."""


def _kind(value: Value) -> ResizeKind | None:
    if not isinstance(value, Derivation) or not isinstance(value.rule, Resize):
        return None
    return value.rule, value.shapes, isinstance(value.source, FanBranch)
