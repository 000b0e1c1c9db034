"""What stands in a network where a module was: it passes its input on, or gives zeros."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from topolearn.tracing.values import Ref, leaves, mapped


def keep_settings(module: nn.Module, stand_in: nn.Module) -> None:
    """Give a stand-in the settings of the module it is for, since other code may read them: its heads, its epsilon.

    Its parameters are None, as those that a module was made without.
    """
    for name, value in vars(module).items():
        if not name.startswith("_") and isinstance(value, str | int | float | tuple | None) and name not in _ITS_OWN:
            setattr(stand_in, name, value)
    for name in module._parameters:
        stand_in.register_parameter(name, None)


_ITS_OWN = ("output", "entry", "shapes")
"""Attributes of stand-ins that no setting may take the place of."""


class Skip(nn.Module):
    """Returns its first argument, whatever else it is given."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``x``."""
        return x


class Zeros(nn.Module):
    """Returns zeros, in the place of a branch that was removed.

    Attributes:
        output: What the module returned, with a :class:`Ref` for each tensor.
        shapes: Operation -> shape of its output; for the input too.
        entry: The operation that gives the first argument.
    """

    def __init__(self, output: Any, entry: Ref, shapes: Mapping[int, tuple[int, ...] | None]) -> None:
        super().__init__()
        self.output = output
        self.entry = entry
        self.shapes = dict(shapes)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return zeros of the shape that the module's output had."""
        x = next(leaf for _, leaf in leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return mapped(lambda leaf: self._zeros(x, leaf) if isinstance(leaf, Ref) else leaf, self.output)

    def _zeros(self, x: Tensor, ref: Ref) -> Tensor:
        given, wanted = self.shapes[self.entry.op], self.shapes[ref.op]
        if given is None or wanted is None or given == wanted:
            return x.new_zeros(x.shape)
        rows = x.shape[0] * wanted[0] // given[0]
        if len(given) == len(wanted) == 4:
            strides = (-(-was // out) for was, out in zip(given[2:], wanted[2:], strict=True))
            sides = (-(-now // stride) for now, stride in zip(x.shape[2:], strides, strict=True))
            return x.new_zeros(rows, wanted[1], *sides)  # of maps of any size
        return x.new_zeros(rows, *wanted[1:])
