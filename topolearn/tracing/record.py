"""Records what a network does in one run: its operations, and which module each of them belongs to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from topolearn.tracing.draws import drawn, same_draws
from topolearn.tracing.in_place import Shared, out_of_place, storage_of, with_item
from topolearn.tracing.values import Attribute, Device, Ref, Unknown, is_plain, leaves, mapped

META = torch.device("meta")


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of a torch function.

    Attributes:
        name: The path of the module in whose forward pass it is, and the function's name: ``layer1.0.add``.
        function: What was called; None for the input, and for a module that returns its input as it is.
        args: Positional arguments, with :class:`Ref` and other leaves for tensors.
        kwargs: Keyword arguments.
        call: Number of the innermost module call that it is in.
        shape: Shape of its output, or None if that is not one tensor.
        macs: Multiply-accumulates.
        axis: The axis of its output that grows with the batch; None if there is none, or not only one, or if it is not
            known.
    """

    name: str
    function: Callable[..., Any] | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    call: int
    shape: tuple[int, ...] | None
    macs: int = 0
    axis: int | None = None


@dataclass(slots=True)
class Call:
    """One call of a module.

    Attributes:
        path: The module's path; "" for the network.
        parent: Number of the call that it is in; None for the network.
        args: Positional arguments.
        kwargs: Keyword arguments.
        start: Number of the first operation in it.
        stop: Number after its last operation.
        output: What it returned, with a :class:`Ref` for each tensor.
        changes: Whether it changes a tensor that it is given, in place.
    """

    path: str
    parent: int | None
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    start: int
    stop: int = -1
    output: Any = None
    changes: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """What one run did.

    Attributes:
        ops: The operations, in order. Operation 0 is the input.
        calls: The module calls, in order. Call 0 is that of the network.
        batch: The batch size.
        changed: Paths of tensors that the run changed, such as the number of batches of a batch normalisation.
        whole: Path of a module that must stay whole -> what it does that single operations do not show.
    """

    ops: tuple[Operation, ...]
    calls: tuple[Call, ...]
    batch: int
    changed: frozenset[str]
    whole: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Opaque:
    """What is known of a module that is not looked into.

    Attributes:
        shape: Shape of its output.
        batch: Batch size of the run that gave this shape.
        macs: Multiply-accumulates in that run.
        changes: Whether it changed a tensor that it was given, in place.
    """

    shape: tuple[int, ...]
    batch: int
    macs: int
    changes: bool = False


def meta_copy(model: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, dict[str, Tensor]]:
    """Copy a network to the meta device, without copying the values of its tensors.

    Args:
        model: The network; it is not changed.
        dtype: InputType of the copy's floating-point tensors.

    Returns:
        The copy, and each tensor that it holds by its path.
    """
    memo: dict[int, Any] = {}
    paths: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        held = {**module._parameters, **module._buffers}
        held |= {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
        for name, tensor in held.items():
            if tensor is None:
                continue
            if id(tensor) not in memo:
                kind = dtype if tensor.is_floating_point() else tensor.dtype
                empty = torch.empty_like(tensor, device=META, dtype=kind)
                memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if _is_parameter(tensor) else empty
                paths[f"{prefix}.{name}" if prefix else name] = memo[id(tensor)]
    return copy.deepcopy(model, memo), paths


def never_in_place(model: nn.Module) -> None:
    """Make activations leave their input as it is, because another operation may still read it."""
    for module in model.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.__dict__["inplace"] = False


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


class Stopped(Exception):
    """Raised if a network does not run without values.

    Attributes:
        path: The module in whose forward pass it stopped.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path


class CountMacs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts multiply-accumulates of convolutions, linear layers and attention while it is entered.

    Attributes:
        total: The number so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out) // 2
        return out


class _Recorder(TorchFunctionMode):
    def __init__(self, held: Mapping[str, Tensor], batch: int) -> None:
        super().__init__()
        self.paths = {id(tensor): path for path, tensor in held.items()}
        self.shared = Shared(held.values())
        self.batch = batch
        self.ops: list[Operation] = []
        self.calls: list[Call] = []
        self.open: list[int] = []
        self.made: dict[int, Ref] = {}
        self.kept: list[Any] = []  # an id is unique only while its tensor lives
        self.names: dict[str, int] = {}
        self.counter = CountMacs()
        self.whole: dict[str, str] = {}
        self.entered: list[str] = []  # for each open call: what was switched when it began
        self.may_be_in_place: list[bool] = []  # for each open call: whether the module has a setting for that
        self.given: list[list[tuple[Tensor, int]]] = []  # for each open call: its tensors and their versions
        self.drawn: Any = None

    # -- modules -------------------------------------------------------------------------------

    def enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.check_draws()
        self.may_be_in_place.append(isinstance(getattr(module, "inplace", None), bool))
        self.entered.append(_switched())
        parent = self.open[-1] if self.open else None
        self.given.append([(tensor, self.version(tensor)) for tensor in tensors_in((args, kwargs))])
        self.calls.append(Call(path, parent, self.plain(args), self.plain(kwargs), len(self.ops)))
        self.open.append(len(self.calls) - 1)

    def leave(self, args: Any, kwargs: Any, output: Any) -> Any:
        self.check_draws()
        self.entered.pop()
        call = self.calls[self.open[-1]]
        call.changes |= any(self.version(tensor) != version for tensor, version in self.given.pop())
        self.may_be_in_place.pop()
        given = set(map(id, tensors_in((args, kwargs))))

        def is_passed(leaf: Any) -> bool:
            made = self.made.get(id(leaf))
            if not call.path and made is not None and made.place:
                return True  # what the network gives is an operation
            return id(leaf) in given and (made is None or made.op < call.start)

        output = mapped(lambda leaf: self.passed(leaf) if is_passed(leaf) else leaf, output)
        call.stop, call.output = len(self.ops), self.plain(output)
        self.open.pop()
        return output

    def check_draws(self) -> None:
        """Note that the innermost module must stay whole if it has drawn numbers that are not on the device."""
        now = drawn()
        if now != self.drawn and self.open:
            self.stays_whole("draws numbers to decide what it does")
        self.drawn = now

    def check_switches(self, given: Any) -> None:
        """Note that a module must stay whole if it has switched gradients off, or autocast on."""
        switched = _switched()
        trains = any(tensor.requires_grad for tensor in tensors_in(given))
        if switched and (trains or switched != NO_GRADIENT):
            for call, before in zip(reversed(self.open), reversed(self.entered), strict=True):
                if before != switched:
                    self.whole.setdefault(self.calls[call].path, switched)
                    return

    def stand_in(self, path: str, block: Opaque, args: Any, kwargs: Any) -> Tensor:
        """Return a stand-in for the output of a module that stays whole, and record it as one operation."""
        given = tensors_in((args, kwargs))
        with torch._C.DisableTorchFunction():
            batch = block.shape[0] * self.batch // block.batch
            out = torch.empty(batch, *block.shape[1:], device=META, dtype=given[0].dtype if given else None)
        self.note("whole", None, self.plain(args), self.plain(kwargs), out)
        if block.changes:
            call = self.calls[self.open[-1]]
            call.changes = True
            self.shared.changed |= {id(tensor): (self.open[-1], None) for tensor in given}
        self.ops[-1] = replace(self.ops[-1], macs=block.macs * self.batch // block.batch)
        self.whole[path] = "is marked as a block"
        return out

    def passed(self, tensor: Tensor) -> Tensor:
        """Note that a module returns a tensor that it was given, so that what reads it reads the module's output."""
        out = _alias(tensor)
        self.note("pass", None, (self.told(tensor),), {}, out)
        return out

    # -- operations ----------------------------------------------------------------------------

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = self.counter.total
        name = getattr(func, "__name__", type(func).__name__)
        if name == "__setitem__":
            self.shared.put_back(*args)
        told_args, told_kwargs = self.told(tuple(args)), self.told(kwargs)
        if name == "__get__":
            name = getattr(func.__self__, "__name__", name)
        if name == "__set__":
            raise RuntimeError(f"it sets '{getattr(func.__self__, '__name__', 'data')}' of a tensor")
        self.check_switches((args, kwargs))
        given = tensors_in((args, kwargs))
        versions = [tensor._version for tensor in given]
        if name == "__setitem__":
            func(*args, **kwargs)
            self.note("set_item", with_item, told_args, told_kwargs, args[0], before)
            self.check_changes(args[0], given, versions)
            return None
        out = func(*args, **kwargs)
        if any(isinstance(leaf, torch.Generator) for _, leaf in leaves((args, kwargs))):
            self.stays_whole("draws from a generator of its own")
        if not tensors_in(out):
            return out
        in_place = out_of_place(func, name, told_kwargs)
        if in_place is not None:
            func = in_place
            told_kwargs = {key: False if key == "inplace" else value for key, value in told_kwargs.items()}
        else:
            ids = set(map(id, given))
            out = mapped(lambda leaf: _alias(leaf) if id(leaf) in ids else leaf, out)
        self.note(name.strip("_"), func, told_args, told_kwargs, out, before)
        by_setting = kwargs.get("inplace") is True
        self.check_changes(None if in_place is None else out, given, versions, by_setting=by_setting)
        return out

    def check_changes(
        self, known: Any, given: Sequence[Tensor], versions: Sequence[int], *, by_setting: bool = False
    ) -> None:
        """Note which tensors an operation has changed in place.

        Args:
            known: The tensor whose changed values are recorded as the operation's output.
            by_setting: Whether an argument ``inplace`` asks for it.
            given: The operation's tensors.
            versions: Their versions before it.
        """
        for tensor, version in zip(given, versions, strict=True):
            if tensor._version == version or (known is not tensor and _share(known, tensor)):
                continue
            if by_setting and self.may_be_in_place[-1]:
                self.shared.switchable[storage_of(tensor)] += tensor._version - version
            if self.shared.is_held(tensor):
                self.stays_whole("changes a tensor that it holds")
            elif tensor is not known:
                self.stays_whole("changes a tensor in place")
                self.shared.changed[id(tensor)] = (self.open[-1], None)
            self.shared.change(tensor, self.open[-1])

    def version(self, tensor: Tensor) -> int:
        """Return how often a tensor has been changed in place, without what a module's setting can switch off."""
        with torch._C.DisableTorchFunction():
            return tensor._version - self.shared.switchable[storage_of(tensor)]

    def stays_whole(self, why: str) -> None:
        """Note that the innermost module must stay whole."""
        self.whole.setdefault(self.calls[self.open[-1]].path, why)

    def check_read(self, tensor: Tensor) -> None:
        """Note that a module must stay whole in which a tensor is read that was changed through another one."""
        if id(tensor) in self.shared.changed:
            changing_call, _ = self.shared.changed[id(tensor)]
            ancestors: list[int | None] = [changing_call]
            while ancestors[-1] is not None:
                ancestors.append(self.calls[ancestors[-1]].parent)
            common = next(call for call in reversed(self.open) if call in ancestors)
            changing = self.calls[changing_call].path
            how = "it has changed through a view of it"
            if self.calls[common].path != changing:
                how = f"'{changing}' has changed in place"
            self.whole.setdefault(self.calls[common].path, f"reads a tensor that {how}")

    def note(
        self,
        name: str,
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        out: Any,
        before: int | None = None,
    ) -> None:
        where = self.calls[self.open[-1]].path
        number = len(self.ops)
        full = f"{where}.{name}" if where else name
        count = self.names[full] = self.names.get(full, -1) + 1
        shape = tuple(out.shape) if isinstance(out, Tensor) else None
        macs = 0 if before is None else self.counter.total - before
        self.ops.append(Operation(f"{full}_{count}" if count else full, func, args, kwargs, self.open[-1], shape, macs))
        for place, leaf in leaves(out):
            if isinstance(leaf, Tensor):
                self.made[id(leaf)] = Ref(number, place)
                self.kept.append(leaf)
                with torch._C.DisableTorchFunction():
                    self.shared.add(leaf)

    def told(self, value: Any) -> Any:
        return mapped(self.leaf, value)

    def plain(self, value: Any) -> Any:
        """Return what a module is given or gives, with :class:`Unknown` for objects that may hold tensors."""
        return mapped(lambda leaf: leaf if is_plain(leaf) else Unknown(type(leaf).__name__), self.told(value))

    def leaf(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            self.check_read(value)
            if id(value) in self.paths:  # even if it was changed: a module that does that stays whole
                return Attribute(self.paths[id(value)])
            if id(value) in self.made:
                return self.made[id(value)]
            self.kept.append(value)
            return value
        if isinstance(value, torch.device) and value == META:
            return Device()
        return value


NO_GRADIENT = "switches gradients off, or has a gradient of its own"


def _switched() -> str:
    """Return what is switched that operations do not show."""
    if not torch.is_grad_enabled():
        return NO_GRADIENT
    kinds = ("cpu", "cuda")
    return "changes the precision with autocast" if any(map(torch.is_autocast_enabled, kinds)) else ""


def tensors_in(value: Any) -> list[Tensor]:
    """Return the tensors in a nested value."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor)]


def _share(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and storage_of(one) == storage_of(other)


def _alias(tensor: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return tensor.view(tensor.shape) if tensor.layout == torch.strided else tensor.clone()


def record(
    model: nn.Module,
    shape: Sequence[int],
    *,
    training: bool,
    dtype: torch.dtype = torch.float32,
    blocks: Mapping[str, Opaque] | None = None,
    runs: int = 1,
) -> list[Trace]:
    """Run a copy of a network on the meta device, where nothing is computed, and record what it does.

    Args:
        model: The network; it is not changed.
        shape: Shape of the input.
        training: Whether the network trains or is evaluated.
        dtype: InputType of the run.
        blocks: Path of a module that is not looked into -> what is known of it.
        runs: How often the copy runs.

    Returns:
        What it did in each run.

    Raises:
        Stopped: The network does not run.
    """
    try:
        return _record(model, shape, training, dtype, blocks or {}, runs)
    except Stopped as stopped:
        try:  # a network that makes tensors without saying where runs on its device only by chance
            with torch.device(META):
                return _record(model, shape, training, dtype, blocks or {}, runs)
        except Stopped:
            raise stopped from stopped.__cause__


def _record(
    model: nn.Module, shape: Sequence[int], training: bool, dtype: torch.dtype, blocks: Mapping[str, Opaque], runs: int
) -> list[Trace]:
    # A copy for each call of this function: some networks keep what they have computed once.
    model, tensors = meta_copy(model, dtype)
    model.train(training)
    return [_run(model, tensors, torch.empty(*shape, device=META, dtype=dtype), blocks) for _ in range(runs)]


def _run(model: nn.Module, tensors: Mapping[str, Tensor], example: Tensor, blocks: Mapping[str, Opaque]) -> Trace:
    versions = {path: tensor._version for path, tensor in tensors.items()}
    buffers = {path: dict(module._buffers) for path, module in model.named_modules()}
    recorder = _Recorder(tensors, example.shape[0])
    handles = []
    for path, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(
                lambda module, args, kwargs, path=path: recorder.enter(path, module, args, kwargs), with_kwargs=True
            )
        )
        handles.append(
            module.register_forward_hook(
                lambda _, args, kwargs, out: recorder.leave(args, kwargs, out), with_kwargs=True
            )
        )
        if path in blocks:
            module.forward = lambda *args, path=path, **kwargs: recorder.stand_in(path, blocks[path], args, kwargs)
    recorder.ops.append(Operation("", None, (), {}, 0, tuple(example.shape), axis=0))
    recorder.made[id(example)] = Ref(0)
    recorder.shared.add(example)
    try:
        with same_draws(seed=0), torch.enable_grad(), recorder.counter, recorder:
            recorder.drawn = drawn()
            model(example)
    except Exception as error:  # whatever a network's code raises
        raise Stopped(recorder.calls[recorder.open[-1]].path if recorder.open else "") from error
    finally:
        for handle in handles:
            handle.remove()
    for path, module in model.named_modules():
        if any(module._buffers.get(name) is not tensor for name, tensor in buffers.get(path, {}).items()):
            recorder.whole.setdefault(path, "replaces a tensor that it holds")
    changed = {path for path, tensor in tensors.items() if tensor._version != versions[path]}
    changed |= {path for path in tensors if any(path.startswith(f"{block}.") for block in blocks)}
    ops, calls = tuple(recorder.ops), tuple(recorder.calls)
    return Trace(ops, calls, example.shape[0], frozenset(changed), recorder.whole)
