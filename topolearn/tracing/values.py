"""What the arguments of traced operations refer to, and how values are replaced inside nested arguments."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, EllipsisType, FunctionType, NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ref:
    """An output of an operation.

    Attributes:
        op: Number of the operation.
        place: Where the tensor is in the output: () for an output that is a tensor, (1,) for the second of a tuple.
    """

    op: int
    place: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Attribute:
    """A parameter, a buffer or another tensor that the network holds, by its path."""

    path: str


@dataclass(frozen=True, slots=True)
class BatchMultiple:
    """A number that grows with the batch: this many times the batch size."""

    factor: int


@dataclass(frozen=True, slots=True)
class Device:
    """The device of the input."""


@dataclass(frozen=True, slots=True)
class InputType:
    """The dtype of the input."""


@dataclass(frozen=True, slots=True)
class ByMode:
    """A constant that depends on the mode, such as the rate of a dropout that is a function."""

    training: Any
    evaluating: Any


@dataclass(frozen=True, slots=True)
class Unknown:
    """An object that may hold tensors, or that is another one in each run.

    Attributes:
        kind: Its type.
    """

    kind: str


Leaf = Ref | Attribute | BatchMultiple | Device | InputType | ByMode | Unknown


_PLAIN = (
    NoneType,
    bool | int | float | complex | str | bytes | range | EllipsisType,
    torch.dtype | torch.device | torch.layout | torch.memory_format | Tensor,
    Enum | np.generic | FunctionType | BuiltinFunctionType | type,
    Leaf,
)


def is_plain(leaf: Any) -> bool:
    """Whether a leaf is a tensor or a number, or what else means the same in every run."""
    return isinstance(leaf, _PLAIN)


def mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Return ``value`` with every leaf of its tuples, lists, dicts and slices replaced by ``change(leaf)``.

    A tuple of a class of its own stays as it is if no leaf changes.
    """
    if isinstance(value, tuple):
        items = [mapped(change, item) for item in value]
        if all(item is before for item, before in zip(items, value, strict=True)):
            return value
        if hasattr(value, "_fields"):
            return type(value)(*items)
        return type(value)(items) if hasattr(value, "n_fields") else tuple(items)  # what torch.max returns
    if isinstance(value, list):
        return [mapped(change, item) for item in value]
    if type(value) in _DICTS:
        return type(value)((key, mapped(change, item)) for key, item in value.items())
    if isinstance(value, slice):
        return slice(*(mapped(change, item) for item in (value.start, value.stop, value.step)))
    return change(value)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Return the leaves of nested tuples, lists, dicts and slices, each with its place."""
    if isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from leaves(item, (*place, index))
    elif type(value) in _DICTS:
        for key, item in value.items():
            yield from leaves(item, (*place, key))
    elif isinstance(value, slice):
        yield from leaves((value.start, value.stop, value.step), place)
    else:
        yield place, value


_DICTS = (dict, OrderedDict)


def refs(value: Any) -> Iterator[Ref]:
    """Return the outputs of operations that nested arguments refer to."""
    return (leaf for _, leaf in leaves(value) if isinstance(leaf, Ref))
