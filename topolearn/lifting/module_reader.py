"""Reads a torchvision network module by module, so that nothing in it is missed."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from topolearn.errors import LiftError

LIFTED = (
    "what can be lifted: torchvision's ResNet, ResNeXt, Wide-ResNet, RegNet and MobileNetV2, with its own blocks,"
    " nn.BatchNorm2d and activations"
)

NO_GRAPH = "there is no graph for networks of this class"
"""Why other torchvision networks cannot be lifted."""

_SETTINGS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: (
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
        "dilation",
        "groups",
        "padding_mode",
    ),
    nn.BatchNorm2d: ("num_features", "eps", "momentum", "affine", "track_running_stats"),
    nn.Linear: ("in_features", "out_features"),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
}
"""Attributes that decide, besides the tensors, what a module computes."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_METHODS = ("forward", "_forward_impl", "_call_impl")

_ModuleT = TypeVar("_ModuleT", bound=nn.Module)


class ModuleReader:
    """A torchvision network that is being read.

    A module is taken by its path, and only if it is exactly of a class that the graph has an op for: a subclass, a
    hook or a changed method may compute something else.

    Attributes:
        model: The network; it is never changed.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._taken: dict[int, str] = {}

    def take(self, path: str, *kinds: type[_ModuleT]) -> _ModuleT:
        """Take the module at ``path``, which must be of one of ``kinds``.

        Raises:
            LiftError: The module is of another kind, has a hook or a replaced method, or is in two places.
        """
        try:
            module = self.model.get_submodule(path)
        except AttributeError:
            raise LiftError(
                f"cannot lift this {_kind(self.model)}: it has no '{path}'; {LIFTED}", module=path
            ) from None
        if type(module) not in kinds:
            raise refusal(path, module, f"it should be a {' or '.join(kind.__name__ for kind in kinds)}")
        if any(getattr(module, hooks) for hooks in _HOOKS):
            raise refusal(path, module, "it has a hook, which a graph cannot have; remove it")
        changed = [name for name in _METHODS if name in vars(module)]
        if changed:
            raise refusal(path, module, f"its method '{changed[0]}' has been replaced")
        if isinstance(module, nn.Conv2d) and (len({*module.kernel_size}) > 1 or module.kernel_size[0] % 2 == 0):
            raise refusal(
                path, module, f"its kernel_size is {module.kernel_size}, but only odd, square ones can be lifted"
            )
        other = self._taken.setdefault(id(module), path)
        if other != path:
            raise refusal(path, module, f"it is also '{other}', but nodes of a graph cannot share such a module")
        return module  # type: ignore[return-value]

    def children(self, path: str) -> list[str]:
        """Return the names of the children of the module at ``path``."""
        return [name for name, _ in self.model.get_submodule(path).named_children()]

    def take_children(self, path: str, *kinds: type[nn.Module]) -> list[nn.Module]:
        """Take the children of the module at ``path``, which must be of these kinds, in this order.

        Raises:
            LiftError: The children are others, more or fewer.
        """
        names = self.children(path)
        if len(names) != len(kinds):
            raise refusal(path, self.model.get_submodule(path), f"it has {len(names)} parts, not {len(kinds)}")
        return [self.take(f"{path}.{name}", kind) for name, kind in zip(names, kinds, strict=True)]

    def finish(self) -> None:
        """Raise a LiftError unless every module has been taken."""
        for path, module in self.model.named_modules(remove_duplicate=False):
            if id(module) not in self._taken:
                raise refusal(path, module, f"it is not part of torchvision's {_kind(self.model)}")

    def common(self) -> tuple[torch.device, torch.dtype]:
        """Return the device and precision of the parameters.

        Raises:
            LiftError: Parameters differ in device or precision, or hold no values.
        """
        kinds = {(parameter.device, parameter.dtype) for parameter in self.model.parameters()}
        if len(kinds) != 1:
            raise LiftError(
                f"cannot lift this {_kind(self.model)}: its parameters differ in device or precision; move them with"
                " .to(…) first",
                module="",
            )
        (only,) = kinds
        if only[0].type == "meta":
            raise LiftError(
                f"cannot lift this {_kind(self.model)}: its parameters are on the meta device and hold no values",
                module="",
            )
        return only

    def check_settings(self, path: str, ours: nn.Module) -> None:
        """Raise a LiftError unless the module at ``path`` has the settings of ``ours``, its counterpart."""
        theirs = self.model.get_submodule(path)
        for kind, names in _SETTINGS.items():
            if not isinstance(ours, kind):
                continue
            for name in names:
                found, wanted = getattr(theirs, name), getattr(ours, name)
                if _plain(found) != _plain(wanted):
                    raise refusal(path, theirs, f"its {name} is {found}, but only {wanted} can be lifted")
            for name in ("weight", "bias"):
                found, wanted = (isinstance(getattr(module, name, None), Tensor) for module in (theirs, ours))
                if found != wanted:
                    raise refusal(path, theirs, f"it has {'a' if found else 'no'} {name}")


def refusal(path: str, module: nn.Module, why: str) -> LiftError:
    """Make the error that says which module cannot be lifted and why."""
    where = f"'{path}' ({_kind(module)})" if path else f"this {_kind(module)}"
    return LiftError(f"cannot lift {where}: {why}; {LIFTED}", module=path)


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _plain(value: Any) -> Any:
    """Turn a size that is given once for both axes into a pair."""
    return (value, value) if type(value) is int else value
