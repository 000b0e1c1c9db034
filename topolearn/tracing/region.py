"""A part of a network with one tensor in and one out, as a module that holds copies of the network's own modules."""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from topolearn.tracing.record import Call, Trace, never_in_place
from topolearn.tracing.values import (
    Attribute,
    BatchMultiple,
    ByMode,
    Device,
    InputType,
    Ref,
    Unknown,
    leaves,
    mapped,
    refs,
)


@dataclass(frozen=True, slots=True)
class Action:
    """One step of a region's forward pass.

    Attributes:
        target: A function; or the path of a module.
        args: Positional arguments.
        kwargs: Keyword arguments.
        gives: Where each tensor of the output goes: its place in the output -> the operation's output.
        done: Outputs that no later step reads.
        copies: Whether it takes copies of tensors, because it changes them.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    gives: tuple[tuple[tuple[Any, ...], Ref], ...]
    done: tuple[Ref, ...] = ()
    copies: bool = False

    def __deepcopy__(self, memo: Any) -> Action:
        return self


class Region(nn.Module):
    """Runs some operations of a network, from one tensor to another.

    Its parameters have the names that they have in the network.

    Attributes:
        entry: Its input.
        exit: Its output.
        steps: What it does.
        axis: The axis of its input that grows with the batch.
        factor: The size of this axis is the batch size times this.
    """

    def __init__(self, entry: Ref, exit: Ref, steps: Iterable[Action], axis: int, factor: int) -> None:
        super().__init__()
        self.entry = entry
        self.exit = exit
        self.steps = tuple(steps)
        self.axis = axis
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Compute the region's output from its input."""
        values: dict[Ref, Any] = {self.entry: x}

        def given(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return values[leaf]
            if isinstance(leaf, Attribute):
                return get_path(self, leaf.path)
            if isinstance(leaf, BatchMultiple):
                return leaf.factor * x.shape[self.axis] // self.factor
            if isinstance(leaf, ByMode):
                return leaf.training if self.training else leaf.evaluating
            if isinstance(leaf, InputType):
                return x.dtype
            return x.device if isinstance(leaf, Device) else leaf

        for step in self.steps:
            target = get_path(self, step.target) if isinstance(step.target, str) else step.target
            args, kwargs = mapped(given, (step.args, dict(step.kwargs)))
            if step.copies:
                args, kwargs = mapped(_copied, (args, kwargs))
            out = target(*args, **kwargs)
            for place, ref in step.gives:
                values[ref] = at(out, place)
            for ref in step.done:
                del values[ref]
        result: Tensor = values[self.exit]
        return result


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def at(value: Any, place: tuple[Any, ...]) -> Any:
    """Return the item of a nested value at a place."""
    for key in place:
        value = value[key]
    return value


def get_path(root: Any, path: str) -> Any:
    """Return the module or tensor at a dotted path."""
    for name in path.split("."):
        root = getattr(root, name)
    return root


def itself(value: Tensor) -> Tensor:
    """Return the tensor itself: what a module does that returns its input."""
    return value


class Unresolved(Exception):
    """Raised where a region needs a tensor from outside."""


class Index:
    """What reads each output in a trace, to find the steps of many regions.

    Attributes:
        trace: What the network does.
        reads: Operation -> the outputs that it reads.
        uses: Operation -> (reader, output) for each of its outputs that an operation reads.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.reads = [frozenset(refs((op.args, dict(op.kwargs)))) for op in trace.ops]
        self.uses: list[list[tuple[int, Ref]]] = [[] for _ in trace.ops]
        for number, found in enumerate(self.reads):
            for ref in found:
                self.uses[ref.op].append((number, ref))
        self._given: list[set[Ref]] = [set() for _ in trace.ops]  # to modules
        self._bodies: list[list[tuple[int, int, int]]] = [[] for _ in trace.calls]
        for index, call in enumerate(trace.calls):
            for ref in refs((call.args, dict(call.kwargs))):
                self._given[ref.op].add(ref)
            if call.parent is not None:
                self._bodies[call.parent].append((call.start, 0, index))
        for number, op in enumerate(trace.ops):
            if number:
                self._bodies[op.call].append((number, 1, number))
        for body in self._bodies:
            body.sort()

    def steps(
        self, inside: set[int], entry: Ref, exit: Ref, whole: Callable[[int], bool] = lambda call: True
    ) -> list[Action]:
        """Return the steps of a region: whole modules where all of their operations are inside, else single operations.

        Args:
            inside: Numbers of the region's operations.
            entry: The region's input.
            exit: The region's output.
            whole: Whether the module of a call, by its number, may stay whole; by default, all may.

        Raises:
            Unresolved: It needs more than its input.
        """
        numbers = sorted(inside)
        steps: list[Action] = []
        available = {entry}

        def count(start: int, stop: int) -> int:
            return bisect_left(numbers, stop) - bisect_left(numbers, start)

        def emit(index: int) -> None:
            call = self.trace.calls[index]
            found = count(call.start, call.stop)
            if not found:
                return
            if call.path and found == call.stop - call.start and whole(index):
                gives = tuple((place, leaf) for place, leaf in leaves(call.output) if isinstance(leaf, Ref))
                given = {leaf for _, leaf in gives}
                takes = (call.args, dict(call.kwargs))
                if (
                    set(refs(takes)) <= available
                    and self._read_after(call, exit) <= given
                    and self._read_by(call) <= set(refs(takes))
                    and not any(isinstance(leaf, Unknown) for _, leaf in leaves(takes))
                ):
                    steps.append(Action(call.path, call.args, call.kwargs, gives, copies=call.changes))
                    available.update(given)
                    return
            for _, kind, number in self._bodies[index]:
                if kind == 0:
                    emit(number)
                elif number in inside:
                    if not self.reads[number] <= available:
                        raise Unresolved(self.trace.ops[number].name)
                    op = self.trace.ops[number]
                    outputs = {ref for _, ref in self.uses[number]} | self._given[number]
                    outputs |= {exit} if exit.op == number else set()
                    gives = tuple((ref.place, ref) for ref in sorted(outputs, key=str))
                    steps.append(Action(op.function or itself, op.args, op.kwargs, gives))
                    available.update(outputs)

        emit(0)
        if exit not in available:
            raise Unresolved(self.trace.ops[exit.op].name)
        return _freed(steps, exit)

    def _read_by(self, call: Call) -> set[Ref]:
        """Return the outputs of operations before a call that are read in it."""
        return {ref for number in range(call.start, call.stop) for ref in self.reads[number] if ref.op < call.start}

    def _read_after(self, call: Call, exit: Ref) -> set[Ref]:
        """Return the outputs of the operations in a call that are read after it."""
        body = range(call.start, call.stop)
        found = {ref for number in body for reader, ref in self.uses[number] if reader >= call.stop}
        return found | {exit} if exit.op in body else found


def _freed(steps: list[Action], exit: Ref) -> list[Action]:
    """Note in each step which values no later step needs."""
    last: dict[Ref, int] = {}
    for index, step in enumerate(steps):
        for ref in refs((step.args, dict(step.kwargs))):
            last[ref] = index
        for _, ref in step.gives:
            last.setdefault(ref, index)
    done: dict[int, list[Ref]] = {}
    for ref, index in last.items():
        if ref != exit:
            done.setdefault(index, []).append(ref)
    return [replace(step, done=tuple(done.get(index, ()))) for index, step in enumerate(steps)]


def hold_copies(region: Region, model: nn.Module) -> Region:
    """Give a region copies of the network's modules and tensors; the network is not changed."""
    memo: dict[int, Any] = {}
    for step in region.steps:
        if isinstance(step.target, str):
            module = copy.deepcopy(model.get_submodule(step.target), memo)
            never_in_place(module)
            mount(region, step.target, module)
        for leaf in (leaf for _, leaf in leaves((step.args, dict(step.kwargs))) if isinstance(leaf, Attribute)):
            tensor = get_path(model, leaf.path)
            mount(region, leaf.path, copy.deepcopy(tensor, memo))
    return region


def mount(root: nn.Module, path: str, item: Any) -> None:
    """Put a module or a tensor at a dotted path below a module; modules on the way are made if they are missing."""
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root._modules[parent]  # type: ignore[assignment]
    if isinstance(item, nn.Module):
        root.add_module(name, item)
    elif isinstance(item, nn.Parameter):
        root.register_parameter(name, item)
    else:
        root.register_buffer(name, item, persistent=False)
