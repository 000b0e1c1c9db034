"""What stands in a network where a module was: it passes its input on, or gives zeros."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from topolearn.tracing.record import META, Call, Operation, meta_copy, tensors_in
from topolearn.tracing.region import at
from topolearn.tracing.values import Ref, mapped, refs


def keep_settings(module: nn.Module, stand_in: nn.Module) -> None:
    """Give a stand-in the settings of the module it is for, since other code may read them: its heads, its epsilon.

    Its parameters are None, as those that a module was made without.
    """
    for name, value in vars(module).items():
        if not name.startswith("_") and isinstance(value, str | int | float | tuple | None) and name not in _ITS_OWN:
            setattr(stand_in, name, value)
    for name in module._parameters:
        stand_in.register_parameter(name, None)


_ITS_OWN = ("training", "given", "output", "known", "outline", "dtype_and_device")
"""Attributes of stand-ins that no setting may take the place of."""


class Skip(nn.Module):
    """Returns one of its arguments, whatever else it is given.

    Attributes:
        given: Which one: its number, its name, and its place in it.
    """

    def __init__(self, module: nn.Module, place: tuple[Any, ...]) -> None:
        """Make one.

        Args:
            module: What it takes the place of.
            place: Where the argument is in (positional arguments, keyword arguments).
        """
        super().__init__()
        by_keyword, key, *inner = place
        names = list(inspect.signature(module.forward).parameters)
        if by_keyword:
            self.given = (names.index(key) if key in names else -1, key, tuple(inner))
        else:
            self.given = (key, names[key] if key < len(names) else "", tuple(inner))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the argument."""
        number, name, inner = self.given
        return at(kwargs[name] if name in kwargs else args[number], inner)


class Zeros(nn.Module):
    """Returns zeros, in the place of a branch that was removed.

    Attributes:
        output: What the module returned, with a :class:`Ref` for each tensor.
        known: Operation -> shape and batch axis of its output; also for the first tensor that the module was given.
        given: The operation that gave that tensor; None if the module was given none.
        outline: The module on the meta device, which tells the shapes of its output for any input.
    """

    dtype_and_device: Tensor

    def __init__(self, module: nn.Module, call: Call, ops: tuple[Operation, ...]) -> None:
        super().__init__()
        self.output = call.output
        takes = list(refs((call.args, dict(call.kwargs))))
        self.given = takes[0].op if takes else None
        self.known = {ref.op: (ops[ref.op].shape, ops[ref.op].axis) for ref in (*takes[:1], *refs(call.output))}
        self.outline = (meta_copy(module, torch.float32)[0].eval(),)  # in a tuple, so that it is not a part
        kinds = (tensor.dtype for tensor in module.parameters() if tensor.is_floating_point())
        like = torch.empty(0, dtype=next(kinds, torch.float32))
        self.register_buffer("dtype_and_device", like, persistent=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros of the shape that the module's output would have."""
        tensors = tensors_in((args, kwargs))
        like = next((tensor for tensor in tensors if tensor.is_floating_point()), self.dtype_and_device)

        def zeros(leaf: Any) -> Any:
            if isinstance(leaf, Ref):
                return like.new_zeros(self._shape(leaf, tensors[0]))
            if isinstance(leaf, Tensor):
                return like.new_zeros(leaf.shape, dtype=None if leaf.is_floating_point() else leaf.dtype)
            return leaf

        if self._is_known(tensors):
            return mapped(zeros, self.output)
        (outline,) = self.outline
        with torch.no_grad():
            out = outline(*mapped(_on_meta, args), **mapped(_on_meta, kwargs))
        return mapped(zeros, out)

    def _is_known(self, tensors: list[Tensor]) -> bool:
        """Whether the module was seen with such an input, apart from the batch."""
        if self.given is None or not tensors:
            return False
        given, axis = self.known[self.given]
        if given is None or any(shape is None or where is None for shape, where in self.known.values()):
            return False
        now = tuple(tensors[0].shape)
        return len(now) == len(given) and all(
            here == axis or size == known for here, (size, known) in enumerate(zip(now, given, strict=True))
        )

    def _shape(self, ref: Ref, x: Tensor) -> tuple[int, ...]:
        assert self.given is not None
        given, axis = self.known[self.given]
        wanted, where = self.known[ref.op]
        assert given is not None
        assert wanted is not None
        assert axis is not None
        assert where is not None
        return (*wanted[:where], x.shape[axis] * wanted[where] // given[axis], *wanted[where + 1 :])


def _on_meta(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return torch.empty_like(leaf, device=META, dtype=torch.float32 if leaf.is_floating_point() else None)
