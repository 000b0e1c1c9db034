"""A network that has been read: its data flow, and modules for any part of it."""

from __future__ import annotations

import copy
import hashlib
import warnings
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from topolearn.errors import LiftError, suggest
from topolearn.tracing.draws import same_draws
from topolearn.tracing.flow import Differs, Flow, for_any_batch, for_any_mode, unlike
from topolearn.tracing.record import CountMacs, Opaque, Stopped, Trace, record, tensors_in
from topolearn.tracing.region import Action, Index, Region, Unresolved, hold_copies
from topolearn.tracing.values import Attribute, ByMode, Ref, Unknown, is_plain, leaves, refs

_BATCHES = (2, 3)
"""Batches of the runs that are compared to see which numbers grow with the batch."""

_LARGE_BATCH = 1000
"""Batch of a third run: some networks split a large batch."""


_ALIVE: weakref.WeakValueDictionary[str, Opened] = weakref.WeakValueDictionary()
"""The networks that are open in this process, by fingerprint: a graph that is read back finds its network here."""


class Opened:
    """A network and its data flow.

    Attributes:
        make: Returns the network; it is not changed. A library's builder returns a new one, with random weights.
        blocks: Paths of modules that are not looked into.
        flow: What reads what.
        output: Number of the operation whose output the network returns.
        fingerprint: Hash of the operations, in order, with the shapes of the network's tensors.
    """

    def __init__(
        self, make: Callable[[], nn.Module], model: nn.Module, size: Sequence[int], blocks: Sequence[str] = ()
    ) -> None:
        self.make = make
        self.blocks = tuple(blocks)
        self.flow, self.output = read(model, size, blocks)
        self.fingerprint = _fingerprint(self.flow.trace, model)
        self._sizes = {name: (tensor.numel(), id(tensor)) for name, tensor in _named(model)}
        self._trainable = {id(tensor) for tensor in model.parameters()}
        self._index = Index(self.flow.trace)
        self._steps: dict[tuple[int, int], list[Action]] = {}
        self._numbers = {op.name: number for number, op in enumerate(self.flow.trace.ops)}

    def made_by(self, make: Callable[[], nn.Module]) -> Self:
        """Return the same data flow for a network that another function returns."""
        other = copy.copy(self)
        other.make = make
        _ALIVE[self.fingerprint] = other
        return other

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def number(self, name: str) -> int:
        """Return the number of an operation.

        Raises:
            LiftError: There is no such operation.
        """
        if name not in self._numbers:
            raise LiftError(f"the network has no operation '{name}'")
        return self._numbers[name]

    def name(self, number: int) -> str:
        """Return the name of an operation."""
        return self.flow.trace.ops[number].name

    def dims(self, number: int) -> tuple[int, ...]:
        """Return the dimensions of an operation's output, without the batch."""
        op = self.flow.trace.ops[number]
        assert op.shape is not None
        axis = op.axis or 0
        return op.shape[:axis] + op.shape[axis + 1 :]

    def layout(self, number: int) -> tuple[Any, ...]:
        """Return the dimensions of an operation's output, and the axis of its batch."""
        return *self.dims(number), self.flow.trace.ops[number].axis

    def steps(self, entry: int, exit: int) -> list[Action]:
        """Return the steps from one operation to another: modules where they are whole, else single operations."""
        if (entry, exit) not in self._steps:
            inside = self.flow.inside(entry, exit)
            self._steps[entry, exit] = self._index.steps(inside, Ref(entry), Ref(exit))
        return self._steps[entry, exit]

    def open_steps(self, after: str, until: str, whole: Callable[[str], bool]) -> list[Action]:
        """Return the steps from one operation to another; modules stay whole only if they must, or may.

        Args:
            after: Name of the operation whose output the first step takes.
            until: Name of the operation whose output the last step gives.
            whole: Whether the module at a path may stay whole.
        """
        entry, exit = self.number(after), self.number(until)
        flow = self.flow
        stays = {i for i, call in enumerate(flow.trace.calls) if i in flow.closed or whole(call.path)}
        return self._index.steps(flow.inside(entry, exit), Ref(entry), Ref(exit), stays.__contains__)

    def tensors(self, entry: int, exit: int) -> set[str]:
        """Return the names of the tensors that it takes to get from one operation to another."""
        found: set[str] = set()
        for step in self.steps(entry, exit):
            if isinstance(step.target, str):
                found |= {name for name in self._sizes if name.startswith(f"{step.target}.")}
            found |= {leaf.path for _, leaf in leaves((step.args, dict(step.kwargs))) if isinstance(leaf, Attribute)}
        return found

    def trained(self, entry: int, exit: int) -> set[int]:
        """Return the ids of the tensors between two operations that training changes, such as running statistics.

        A tensor that the network holds in several places has one id.
        """
        changed = {self._sizes[name][1] for name in self.flow.trace.changed if name in self._sizes}
        found = {self._sizes[name][1] for name in self.tensors(entry, exit) if name in self._sizes}
        return found & (self._trainable | changed)

    def params(self, entry: int, exit: int) -> int:
        """Return the number of parameters between two operations."""
        found = dict(self._sizes[name][::-1] for name in self.tensors(entry, exit) if name in self._sizes)
        return sum(count for tensor, count in found.items() if tensor in self._trainable)

    def macs(self, entry: int, exit: int) -> int:
        """Return the multiply-accumulates between two operations, for one input."""
        trace = self.flow.trace
        return sum(trace.ops[number].macs for number in self.flow.inside(entry, exit)) // trace.batch

    def largest(self, entry: int, exit: int) -> str | None:
        """Return the path of the module between two operations that computes the most; None if there is none."""
        trace = self.flow.trace
        inside = self.flow.inside(entry, exit)
        costs: dict[str, int] = {}
        for step in self.steps(entry, exit):
            if isinstance(step.target, str):
                prefix = f"{step.target}."
                costs[step.target] = sum(
                    trace.ops[number].macs
                    for number in inside
                    if f"{trace.calls[trace.ops[number].call].path}.".startswith(prefix)
                )
        return max(costs, key=costs.__getitem__) if costs else None

    def region(self, model: nn.Module, after: str, until: str) -> Region:
        """Return the operations from one tensor to another as a module, with copies of the network's modules.

        Args:
            model: The network, as :attr:`make` returned it.
            after: Name of the operation whose output the region takes.
            until: Name of the operation whose output it gives.

        Raises:
            LiftError: There is no such operation, or the region needs more than its input.
        """
        entry, exit = self.number(after), self.number(until)
        try:
            steps = self.steps(entry, exit)
        except Unresolved as error:
            raise LiftError(f"what leads from '{after}' to '{until}' also needs '{error}'") from None
        op = self.flow.trace.ops[entry]
        axis = op.axis or 0
        factor = max(op.shape[axis] // self.flow.trace.batch, 1) if op.shape else 1
        return hold_copies(Region(Ref(entry), Ref(exit), steps, axis, factor), model)


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Return every parameter and buffer under each of its names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def alive(fingerprint: str) -> Opened | None:
    """Return the open network of this process with a fingerprint, if there is one."""
    return _ALIVE.get(fingerprint)


def read(model: nn.Module, size: Sequence[int], blocks: Sequence[str] = ()) -> tuple[Flow, int]:
    """Read the data flow of a network, without computing any values.

    Args:
        model: The network; it is not changed.
        size: Shape of its input, without the batch.
        blocks: Paths of modules that are not looked into. A copy of the network is then run once to see what they give.

    Returns:
        The data flow, and the number of the operation that gives the output.

    Raises:
        LiftError: The network does not run without values, or not with every batch, or it returns something other than
            one tensor.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a network warns about is for those who run it
        known = measured(model, (_BATCHES[0], *size), blocks) if blocks else {}
        first = _recorded(model, (_BATCHES[0], *size), known, repeated=True)
        second, large = (
            _recorded(model, (batch, *size), known, repeated=False) for batch in (_BATCHES[1], _LARGE_BATCH)
        )
        try:
            training = _repeated(
                model,
                lambda runs: record(
                    model, (_BATCHES[0], *size), training=True, dtype=torch.float64, blocks=known, runs=runs
                ),
            )
        except Stopped:  # it has a precision of its own
            training = _recorded(model, (_BATCHES[0], *size), known, training=True, repeated=True)
    if why := training.whole.get("", first.whole.get("")):
        raise LiftError(
            f"cannot lift this {type(model).__name__}: its own forward pass {why}; put that part into a module of its"
            " own, which then stays whole",
            module="",
        )
    try:
        trace = for_any_batch(first, second)
        for_any_batch(first, large)
    except Differs as error:
        raise LiftError(
            f"cannot lift this {type(model).__name__}: {_where(model, str(error))} does other things with other batch"
            f" sizes; {_as_a_whole(str(error))}",
            module=str(error),
        ) from None
    trace, closed = for_any_mode(trace, training)
    output = _output(model, trace, training)
    if 0 in closed:
        raise LiftError(
            f"cannot lift this {type(model).__name__}: its own forward pass does other things in training than in eval"
            " mode; put that part into a module of its own, which then stays whole",
            module="",
        )
    for index in closed:
        call = trace.calls[index]
        for kind in (leaf.kind for _, leaf in leaves((call.args, dict(call.kwargs))) if isinstance(leaf, Unknown)):
            raise LiftError(
                f"cannot lift this {type(model).__name__}: {_where(model, call.path)} stays whole, but it is given an"
                f" object ({kind}), which a graph cannot give it; give it tensors and numbers",
                module=call.path,
            )
    whole = {trace.calls[index].path for index in closed}
    leaking = _leaking(trace, whole) or _leaking(training, whole)
    if leaking is not None:
        raise LiftError(
            f"cannot lift this {type(model).__name__}: {_where(model, leaking)} stays whole, but more of it is read"
            " than what it returns; if it changes its input in place, let it change a copy",
            module=leaking,
        )
    flow = Flow(trace, closed)
    return flow, flow.head[output]


def _output(model: nn.Module, trace: Trace, training: Trace) -> int:
    """Return the number of the operation that gives the output.

    Raises:
        LiftError: The network does not return one tensor with a batch axis.
    """
    for mode, run in (("eval", trace), ("training", training)):
        found = [leaf for _, leaf in leaves(run.calls[0].output)]
        objects = [leaf.kind for leaf in found if isinstance(leaf, Unknown)]
        tensors = [leaf for leaf in found if isinstance(leaf, Ref | Attribute | Tensor)]
        if objects or len(tensors) != 1:
            returned = f"an object ({objects[0]})" if objects else f"{len(tensors)} tensors"
            advice = "; switch off its second heads (aux_logits=False)" if mode == "training" else ""
            raise LiftError(
                f"cannot lift this {type(model).__name__}: in {mode} mode it returns {returned}, but only networks that"
                f" return one tensor can be lifted{advice}",
                module="",
            )
    (place,) = (leaf for _, leaf in leaves(trace.calls[0].output) if isinstance(leaf, Ref | Attribute | Tensor))
    op = trace.ops[place.op] if isinstance(place, Ref) else trace.ops[0]
    if not isinstance(place, Ref) or op.axis != 0 or op.shape is None or op.shape[0] != trace.batch:
        shape = "" if not isinstance(place, Ref) else f" of shape {op.shape} for a batch of {trace.batch}"
        raise LiftError(
            f"cannot lift this {type(model).__name__}: its output{shape} has no batch axis in front; let it return one"
            " result for each input: (N, …)",
            module="",
        )
    return place.op


def _leaking(trace: Trace, whole: Collection[str]) -> str | None:
    """Return the path of a module that must stay whole, of which more is read than what it returns; None if none is."""
    covered = 0
    for call in trace.calls:
        if call.path not in whole or call.start < covered:  # a part of another such module
            continue
        covered = call.stop
        body, gives = range(call.start, call.stop), set(refs(call.output))
        after = (ref for op in trace.ops[call.stop :] for ref in refs((op.args, dict(op.kwargs))))
        if any(ref.op in body and ref not in gives for ref in after):
            return call.path
    return None


def measured(model: nn.Module, shape: Sequence[int], blocks: Sequence[str]) -> dict[str, Opaque]:
    """Run a copy of a network on random values, and return what some of its modules give.

    Args:
        model: The network; it is not changed.
        shape: Shape of the input.
        blocks: Paths of the modules.

    Raises:
        LiftError: A module is not there, is not run exactly once, does not give one tensor, or the network does not
            run.
    """
    known = dict(model.named_modules())
    for path in blocks:
        if not path or path not in known:
            raise LiftError(f"the network has no module '{path}'{suggest(path, [*filter(None, known)])}", module=path)
        around = next((other for other in blocks if path.startswith(f"{other}.")), None)
        if around is not None:
            raise LiftError(f"cannot lift {_where(model, path)} as a block: it is inside of '{around}'", module=path)
    copied = copy.deepcopy(model).eval()
    first = next(tensor for tensor in copied.parameters() if tensor.is_floating_point())
    outputs: dict[str, list[tuple[Any, int, bool]]] = {path: [] for path in blocks}
    begun: list[tuple[int, list[tuple[Tensor, int]]]] = []
    counter = CountMacs()
    for path in blocks:
        module = copied.get_submodule(path)

        def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
            begun.append((counter.total, [(tensor, tensor._version) for tensor in tensors_in((args, kwargs))]))

        def leave(_: nn.Module, args: Any, kwargs: Any, out: Any, path: str = path) -> None:
            before, given = begun.pop()
            changes = any(tensor._version != version for tensor, version in given)
            outputs[path].append((out, counter.total - before, changes))

        module.register_forward_pre_hook(enter, with_kwargs=True)
        module.register_forward_hook(leave, with_kwargs=True)
    numbers = torch.Generator().manual_seed(0)
    images = torch.randn(*shape, generator=numbers).to(device=first.device, dtype=first.dtype)
    try:
        with same_draws(first.device), torch.no_grad(), counter:
            copied(images)
    except Exception as error:  # whatever a network's code raises
        raise LiftError(
            f"cannot lift this {type(model).__name__}: it does not run: {_first_line(error)}", module=""
        ) from None
    found: dict[str, Opaque] = {}
    for path, calls in outputs.items():
        if len(calls) != 1 or not isinstance(calls[0][0], Tensor):
            why = "it does not return one tensor" if len(calls) == 1 else f"it is called {len(calls)} times"
            raise LiftError(f"cannot lift {_where(model, path)} as a block: {why}", module=path)
        out, macs, changes = calls[0]
        found[path] = Opaque(tuple(out.shape), shape[0], macs, changes)
    return found


def _first_line(error: BaseException | None) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _repeated(model: nn.Module, recorded: Callable[[int], Sequence[Trace]]) -> Trace:
    """Return what a copy of a network does; a module that does other things in a second run stays whole.

    Args:
        model: The network.
        recorded: Returns what a new copy does in a number of runs.

    Raises:
        LiftError: A module does other things in another copy of the network.
    """
    first, again = recorded(2)
    others = unlike(first, again)
    if others and (elsewhere := unlike(first, *recorded(1))):
        path = max(elsewhere, key=len)
        raise LiftError(
            f"cannot lift this {type(model).__name__}: {_where(model, path)} does other things each time, and so it"
            " depends on something outside of the network, such as the time or a global variable; let it depend on its"
            " input and on what it holds",
            module=path,
        )
    return replace(first, whole={**dict.fromkeys(others, "does other things when it is called again"), **first.whole})


def _recorded(
    model: nn.Module, shape: Sequence[int], blocks: Mapping[str, Opaque], *, training: bool = False, repeated: bool
) -> Trace:
    def recorded(runs: int) -> Sequence[Trace]:
        return record(model, shape, training=training, blocks=blocks, runs=runs)

    try:
        return _repeated(model, recorded) if repeated else recorded(1)[0]
    except Stopped as stopped:
        raise LiftError(
            f"cannot lift this {type(model).__name__}: {_where(model, stopped.path)} depends on the values of its"
            f" input, or does not run without values: {_first_line(stopped.__cause__)};"
            f" {_as_a_whole(stopped.path)}",
            module=stopped.path,
        ) from None


def _as_a_whole(path: str) -> str:
    """Say how a network can be lifted although one of its modules cannot be read."""
    if path:
        return f"blocks=['{path}'] takes it as a whole"
    return "put that part into a module, and name the module in blocks=[…]"


def _where(model: nn.Module, path: str) -> str:
    return f"'{path}' ({type(model.get_submodule(path)).__name__})" if path else "its forward pass"


def _fingerprint(trace: Trace, model: nn.Module) -> str:
    def told(value: Any) -> str:
        if isinstance(value, Tensor):
            return f"tensor{tuple(value.shape)}"
        if callable(value):
            return str(getattr(value, "__qualname__", None) or getattr(value, "__name__", type(value).__name__))
        if isinstance(value, ByMode) and not (is_plain(value.training) and is_plain(value.evaluating)):
            return f"{told(value.training)} or {told(value.evaluating)}"
        return repr(value) if is_plain(value) else type(value).__name__

    digest = hashlib.sha256()
    for op in trace.ops:
        parts = [op.name, told(op.function), repr(op.shape and op.shape[1:])]
        parts += [f"{place}={told(leaf)}" for place, leaf in leaves((op.args, dict(op.kwargs)))]
        digest.update("\n".join(parts).encode() + b"\0")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode() + b"\0")
    return digest.hexdigest()[:16]
