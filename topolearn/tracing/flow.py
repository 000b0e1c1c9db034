"""The data flow of a network: what does not depend on the batch and the mode of the run that it was read from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor

from topolearn.tracing.record import Call, Operation, Trace
from topolearn.tracing.values import Attribute, BatchMultiple, ByMode, InputType, Ref, Unknown, leaves, mapped, refs


def common_path(paths: Iterable[str]) -> str:
    """Return the path of the innermost module that holds all of some modules."""
    common: list[str] = []
    for names in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common)


class Differs(Exception):
    """Raised where two runs did different things."""


def for_any_batch(first: Trace, second: Trace) -> Trace:
    """Replace the numbers that grow with the batch, given two runs with different batches.

    Raises:
        Differs: The runs differ otherwise, outside of modules that stay whole; holds the path of the module.
    """

    def settle(one: Any, other: Any) -> Any:
        whole = type(one) is type(other) is int and one % first.batch == 0
        if whole and one * second.batch == other * first.batch:
            return BatchMultiple(one // first.batch)
        if isinstance(one, Ref) and isinstance(other, Ref) and _origin(first, one) == _origin(second, other):
            return one
        raise Differs

    trace, differing = _settled(first, second, settle)
    for index in sorted(differing):
        inside: int | None = index
        while inside is not None and trace.calls[inside].path not in trace.whole:
            inside = trace.calls[inside].parent
        if inside is None:
            raise Differs(trace.calls[index].path)
    shapes = {op.name: op.shape for op in second.ops}
    ops = tuple(replace(op, axis=_axis(op.shape, shapes.get(op.name), first, second)) for op in trace.ops)
    return replace(trace, ops=ops)


def _origin(trace: Trace, ref: Ref) -> tuple[str, tuple[Any, ...]]:
    """Return what an output is called in every run: a module that stays whole may do more in one of them."""
    op = trace.ops[ref.op]
    call: int | None = op.call
    while call is not None:
        if trace.calls[call].path in trace.whole:
            return trace.calls[call].path, ()
        call = trace.calls[call].parent
    return op.name, ref.place


def _axis(one: tuple[int, ...] | None, other: tuple[int, ...] | None, first: Trace, second: Trace) -> int | None:
    """Return the only axis that differs in two shapes, if it grows with the batch."""
    if one is None or other is None or len(one) != len(other):
        return None
    grows = [axis for axis, sizes in enumerate(zip(one, other, strict=True)) if sizes[0] != sizes[1]]
    if len(grows) != 1 or one[grows[0]] * second.batch != other[grows[0]] * first.batch:
        return None
    return grows[0]


def unlike(first: Trace, second: Trace) -> set[str]:
    """Return the paths of the modules whose own forward pass did other things in a second run of the same kind."""

    def settle(one: Any, other: Any) -> Any:
        if isinstance(one, Ref) and isinstance(other, Ref):
            return one  # a module between them may do more
        raise Differs

    return {first.calls[index].path for index in _settled(first, second, settle)[1]}


def for_any_mode(evaluating: Trace, training: Trace) -> tuple[Trace, frozenset[int]]:
    """Replace the constants that depend on the mode or the precision.

    Args:
        evaluating: A run in eval mode and float32.
        training: A run in training mode, in float64 if the network takes that.

    Returns:
        The run in eval mode, with its constants replaced. And the calls of modules whose own forward pass does other
        things in training.
    """

    def settle(one: Any, other: Any) -> Any:
        if isinstance(one, BatchMultiple) and other == one.factor * training.batch:
            return one
        if isinstance(one, Ref) and isinstance(other, Ref):
            return one  # operations in the same order; a module between them may do more in training
        if any(isinstance(leaf, Ref | Attribute | Tensor | Unknown) for leaf in (one, other)):
            raise Differs
        return InputType() if (one, other) == (torch.float32, torch.float64) else ByMode(other, one)

    trace, differing = _settled(evaluating, training, settle)
    whole = {**training.whole, **evaluating.whole}
    closed = differing | {index for index, call in enumerate(trace.calls) if call.path in whole}
    changing = {call.path for call in training.calls if call.changes}
    for call in trace.calls:
        call.changes |= call.path in changing
    return replace(trace, changed=training.changed, whole=whole), frozenset(closed)


def _settled(first: Trace, second: Trace, settle: Callable[[Any, Any], Any]) -> tuple[Trace, set[int]]:
    """Compare two runs, module by module.

    Args:
        first: A run.
        second: Another run.
        settle: Returns what takes the place of two leaves that differ, or raises :class:`Differs`.

    Returns:
        The first run, with leaves that differ replaced. And the calls of modules whose own forward pass differs.
    """
    theirs = _by_key(second)
    ops, calls, differing = list(first.ops), list(first.calls), set()
    bodies, other_bodies = _bodies(first), _bodies(second)
    for key, index in _by_key(first).items():
        body, other_body = bodies[index], other_bodies[theirs[key]] if key in theirs else []
        try:
            if [_what(first, entry) for entry in body] != [_what(second, entry) for entry in other_body]:
                raise Differs
            for (is_op, number), (_, other) in zip(body, other_body, strict=True):
                if is_op:
                    ops[number] = _matched(ops[number], second.ops[other], settle)
                else:
                    calls[number] = _matched(calls[number], second.calls[other], _or_unknown(settle))
        except Differs:
            differing.add(index)
    return replace(first, ops=tuple(ops), calls=tuple(calls)), differing


def _or_unknown(settle: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Let functions that a module is given differ: what it does with them is seen in its operations."""

    def settle_all(one: Any, other: Any) -> Any:
        if isinstance(one, Unknown) and callable(other):
            return one
        return Unknown(type(one).__name__) if callable(one) and callable(other) else settle(one, other)

    return settle_all


CalledT = TypeVar("CalledT", Operation, Call)


def _matched(one: CalledT, other: CalledT, settle: Callable[[Any, Any], Any]) -> CalledT:
    """Return a copy of a call with each differing argument replaced by ``settle(one, other)``.

    Raises:
        Differs: The arguments differ in more than their leaves.
    """
    given, others = ((each.args, dict(each.kwargs)) for each in (one, other))
    found = dict(leaves(others))
    places = [place for place, _ in leaves(given)]
    if places != list(found):
        raise Differs
    order = iter(places)

    def change(leaf: Any) -> Any:
        twin = found[next(order)]
        return leaf if _equal(leaf, twin) else settle(leaf, twin)

    args, kwargs = mapped(change, given)
    return replace(one, args=args, kwargs=kwargs)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return one is other or (type(one) is type(other) and one.device == other.device and torch.equal(one, other))
    try:
        return one is other or (type(one) is type(other) and bool(_meaning(one) == _meaning(other)))
    except Exception:  # objects of any class, such as arrays
        return False


def _meaning(value: Any) -> Any:
    """Return what two functions have in common that compute the same: each run has other objects."""
    if isinstance(value, partial):
        return _meaning(value.func), value.args, value.keywords
    if isinstance(value, MethodType):
        return value.__func__, type(value.__self__)
    return value


Entry = tuple[bool, int]
"""Whether something in a module's forward pass is an operation, else a call of another module; its number."""


def _what(trace: Trace, entry: Entry) -> Any:
    is_op, number = entry
    return _meaning(trace.ops[number].function) if is_op else trace.calls[number].path


def _by_key(trace: Trace) -> dict[tuple[Any, ...], int]:
    """Number of each call by its path, its place among calls of this path, and the same of the calls around it."""
    counts: dict[Any, int] = defaultdict(int)
    keys: list[tuple[Any, ...]] = []
    for call in trace.calls:
        around = keys[call.parent] if call.parent is not None else ()
        count = counts[around, call.path]
        counts[around, call.path] += 1
        keys.append((*around, (call.path, count)))
    return {key: index for index, key in enumerate(keys)}


def _bodies(trace: Trace) -> list[list[Entry]]:
    """What the forward pass of each call does itself, in order."""
    bodies: list[list[tuple[int, bool, int]]] = [[] for _ in trace.calls]
    for number, op in enumerate(trace.ops[1:], start=1):
        bodies[op.call].append((number, True, number))
    for index, call in enumerate(trace.calls):
        if call.parent is not None:
            bodies[call.parent].append((call.start, False, index))
    return [[(is_op, number) for _, is_op, number in sorted(body)] for body in bodies]


class Flow:
    """What reads what in a network, between its operations; a module that must stay whole counts as one.

    Attributes:
        trace: What the network does.
        closed: Numbers of the calls of modules that must stay whole.
        head: Operation -> the last operation of the module that must stay whole, or itself.
        sources: Operation -> the operations that it reads.
        readers: Operation -> the operations that read it.
        members: The last operation of a module that must stay whole -> its operations; any other one -> itself.
    """

    def __init__(self, trace: Trace, closed: Iterable[int] = ()) -> None:
        self.trace = trace
        self.closed = frozenset(closed)
        count = len(trace.ops)
        self.head = list(range(count))
        covered: set[int] = set()
        bodies = [range(trace.calls[call].start, trace.calls[call].stop) for call in self.closed]
        for body in sorted(bodies, key=len, reverse=True):  # a module inside of another one is part of that
            if covered.isdisjoint(body):
                covered.update(body)
                for number in body:
                    self.head[number] = body[-1]
        self.members: dict[int, list[int]] = defaultdict(list)
        for number, head in enumerate(self.head):
            self.members[head].append(number)
        reads: list[set[int]] = [set() for _ in range(count)]
        places: dict[int, set[Ref]] = defaultdict(set)
        for number, op in enumerate(trace.ops):
            for ref in refs((op.args, dict(op.kwargs))):
                if self.head[ref.op] != self.head[number]:
                    reads[self.head[number]].add(self.head[ref.op])
                    places[self.head[ref.op]].add(ref)
        self._places = places
        moving = {0}
        for number in range(1, count):
            if reads[number] & moving:
                moving.add(number)
        self.sources = [sorted(found & moving) if number in moving else [] for number, found in enumerate(reads)]
        self._fixed = [found - moving if number in moving else found for number, found in enumerate(reads)]
        self.readers: list[list[int]] = [[] for _ in range(count)]
        for number, found in enumerate(self.sources):
            for source in found:
                self.readers[source].append(number)

    def is_tensor(self, number: int) -> bool:
        """Whether everything that reads an operation reads it as one tensor, its whole output, with a batch axis."""
        return self.trace.ops[number].axis is not None and self._places[number] <= {Ref(number)}

    def between(self, entry: int, exit: int) -> set[int]:
        """Return the operations on a path from ``entry`` to ``exit``, with ``exit`` and without ``entry``."""
        found, waiting = {exit}, [exit]
        while waiting:
            for source in self.sources[waiting.pop()]:
                if source != entry and source not in found:
                    found.add(source)
                    waiting.append(source)
        return found

    def inside(self, entry: int, exit: int) -> set[int]:
        """Return all operations that it takes to compute ``exit`` from ``entry``, those without an input too."""
        found = self.between(entry, exit)
        waiting = list(found)
        while waiting:
            for source in self._fixed[waiting.pop()]:
                if source not in found:
                    found.add(source)
                    waiting.append(source)
        return {member for number in found for member in self.members[number]}

    def added(self, number: int) -> tuple[int, ...]:
        """Return the two operations of equal shape that an addition adds; () for any other operation."""
        op = self.trace.ops[number]
        given = (*op.args, *op.kwargs.values())
        if self.head[number] != number or len(self.members[number]) > 1 or not _adds(op):
            return ()
        if len(given) != 2 or not all(isinstance(leaf, Ref) and not leaf.place for leaf in given):
            return ()
        terms = tuple(self.head[leaf.op] for leaf in given)
        layouts = {(self.trace.ops[term].shape, self.trace.ops[term].axis) for term in terms}
        if layouts != {(op.shape, op.axis)} or any(term and not self.sources[term] for term in terms):
            return ()
        return terms


def _adds(op: Operation) -> bool:
    return op.name.rpartition(".")[2].partition("_")[0] in ("add", "radd", "iadd")
