"""What changes tensors in place, and which other tensors see the change."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class OnCopy:
    """A function that changes its first argument, applied to a copy of it.

    Attributes:
        function: The function.
    """

    function: Callable[..., Any]

    def __call__(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the changed copy."""
        return self.function(tensor.clone(), *args, **kwargs)


def with_item(tensor: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of a tensor with other values at an index."""
    changed = tensor.clone()
    changed[index] = value
    return changed


def out_of_place(func: Any, name: str, kwargs: Mapping[str, Any]) -> Any:
    """Return the function that computes the same without changing its first argument; None if ``func`` changes none."""
    if kwargs.get("inplace") is True:
        return func
    if name.startswith("__i") and name.endswith("__"):
        return getattr(operator, f"__{name[3:-2]}__", None)
    if name.endswith("_") and not name.endswith("__"):
        other = getattr(Tensor, name[:-1], None)
        return other if callable(other) else OnCopy(func)
    return None


class Shared:
    """Tensors that share their values, so that changing one in place changes the others.

    Attributes:
        changed: Id of a tensor that was changed through another one -> the call in which that happened, and the other
            one; None if there are several.
        switchable: Storage -> number of changes that a setting of a module can switch off.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        self.changed: dict[int, tuple[int, Tensor | None]] = {}
        self.switchable: dict[int, int] = defaultdict(int)
        self._sharing: dict[int, dict[int, Tensor]] = defaultdict(dict)
        self._held = {storage_of(tensor) for tensor in held}

    def add(self, tensor: Tensor) -> None:
        """Note a tensor that an operation has made."""
        self._sharing[storage_of(tensor)][id(tensor)] = tensor

    def is_held(self, tensor: Tensor) -> bool:
        """Whether a tensor shares its values with a parameter or a buffer of the network."""
        return storage_of(tensor) in self._held

    def change(self, tensor: Tensor, call: int) -> None:
        """Note that a tensor was changed in place."""
        for other in self._sharing[storage_of(tensor)].values():
            if other is not tensor and _overlap(tensor, other):
                self.changed[id(other)] = (call, tensor if id(other) not in self.changed else None)
        self.changed.pop(id(tensor), None)

    def put_back(self, tensor: Tensor, index: Any, value: Any) -> None:
        """Note that ``value`` is written into a tensor: after ``y[0] += 1``, Python writes ``y[0]`` into ``y`` too."""
        if self.changed.get(id(tensor), (0, None))[1] is value and isinstance(value, Tensor):
            there = tensor[index]
            if storage_of(there) == storage_of(value) and _place(there) == _place(value):
                del self.changed[id(tensor)]


def storage_of(tensor: Tensor) -> int:
    """Return a number that only tensors with one storage have in common."""
    if tensor.layout != torch.strided:
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset()


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors with one storage have a value in common."""
    size = 1 + max(map(_last, (one, other)))
    taken = torch.zeros(size, dtype=torch.bool, device="cpu")
    _within(taken, one).fill_(True)
    return bool(_within(taken, other).any())


def _last(tensor: Tensor) -> int:
    """Return the position of a tensor's last value in its storage; -1 if it has none."""
    if not tensor.numel():
        return -1
    reach = sum((count - 1) * stride for count, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return int(tensor.storage_offset() + reach)


def _within(values: Tensor, tensor: Tensor) -> Tensor:
    return values.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
