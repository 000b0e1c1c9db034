"""A pass that runs the convolutions of ``conv_resize`` edges on the same tensor as one."""

from __future__ import annotations

from dataclasses import replace

from topolearn.compiler.plan import Derivation, Fan, FanBranch, NodeStep, Plan, Value
from topolearn.ops import Shape
from topolearn.ops.edges import ConvResize, Resize


def make_fans(plan: Plan) -> Plan:
    """Split each summed ``conv_resize`` into a branch of a fan and a resizing.

    Requires nothing. Ensures the same function: ``conv_resize`` is a convolution, then a resizing. It is faster,
    because one convolution with the filters of all edges reads their source once, and its gradient does too.
    """
    members: dict[tuple[Value, ConvResize, int], list[int]] = {}
    for step in plan.sums:
        for number, value in zip(plan.graph.in_edges(step.node), step.sources, strict=True):
            if isinstance(value, Derivation) and isinstance(value.rule, ConvResize):
                members.setdefault((value.source, value.rule, value.shapes[1].channels), []).append(number)
    fans = [Fan(source, rule, tuple(sorted(numbers))) for (source, rule, _), numbers in members.items()]
    branches = {number: branch for fan in fans for number, branch in zip(fan.edges, fan.branches, strict=True)}

    def split(step: NodeStep) -> NodeStep:
        numbers = plan.graph.in_edges(step.node)
        values = zip(numbers, step.sources, strict=True)
        return replace(step, sources=tuple(_resized(branches.get(i), value) for i, value in values))

    return plan.replace_sums(split) if fans else plan


def _resized(branch: FanBranch | None, value: Value) -> Value:
    """Return the value of a ``conv_resize`` edge, made from its branch of a fan; other values as they are."""
    if branch is None:
        return value
    assert isinstance(value, Derivation)
    rule, (shape, wanted) = branch.fan.rule, value.shapes
    if shape.stride == wanted.stride:
        return branch
    resize = Resize(mode=rule.mode, align_corners=rule.align_corners)
    return Derivation(branch, resize, (Shape(wanted.channels, shape.stride), wanted), None)
