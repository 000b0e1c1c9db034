"""Writes a part of a lifted network as a class: its modules, and its forward pass line by line."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from topolearn.graph import Source
from topolearn.pytorch.calls import INDENT, Called, Names, Written, assigned
from topolearn.pytorch.written import AS_IN_TORCH, SourceParts, Unwritable, constructed, is_torch, plain
from topolearn.tracing.in_place import OnCopy
from topolearn.tracing.opened import Opened
from topolearn.tracing.region import Action, Region, get_path, itself
from topolearn.tracing.values import Attribute, BatchMultiple, ByMode, Device, InputType, Ref, refs

GIVEN = "given"
"""Name of the library's network in the written constructor."""

_SIGNS = {
    "add": "+",
    "iadd": "+",
    "sub": "-",
    "isub": "-",
    "mul": "*",
    "imul": "*",
    "truediv": "/",
    "itruediv": "/",
    "floordiv": "//",
    "pow": "**",
    "matmul": "@",
}


class PartWriter:
    """Writes one part.

    Attributes:
        modules: The file's classes and tensors.
        opened: The network that it is a part of.
        source: Where the network comes from.
        region: The part's module.
        place: Path of the part in the network of the file.
    """

    def __init__(self, modules: SourceParts, opened: Opened, source: Source, region: Region, place: str) -> None:
        self.modules = modules
        self.opened = opened
        self.source = source
        self.region = region
        self.place = place
        self.names = Names()
        self.local = Names(("torch", "nn", "F", "self", "x"))
        self.held: dict[str, Written] = {}
        self.uses_library = False
        self._values: dict[Ref, str] = {region.entry: "x"}
        self._by_module: dict[int, str] = {}

    def write(self, name: str, after: str, until: str) -> Called:
        """Write the class into the file, and return the call that makes the part.

        Args:
            name: Name of the class.
            after: Name of the operation whose output the part takes.
            until: Name of the operation whose output it gives.

        Raises:
            Unwritable: Something in it cannot be written.
        """
        lines = [f"{INDENT}def forward(self, x):"]
        for step in self.opened.open_steps(after, until, self._is_written_whole):
            lines += self._lines(step)
        lines.append(f"{INDENT * 2}return {self._values[self.region.exit]}")
        body = "\n".join(lines)
        if body not in self.modules.bodies:  # blocks of one kind share a class
            names = Names(self.modules.definitions)
            self.modules.bodies[body] = name = names[name]
            about = '"""A part of the network that this one was lifted from."""'
            self.modules.definitions[name] = f"class {name}(Block):\n{INDENT}{about}\n\n{body}\n"
        return Called(self.modules.bodies[body], list(self.held.items()))

    def _is_written_whole(self, path: str) -> bool:
        """Whether a module is one of torch.nn's that a constructor makes; a closed one stays whole in any case."""
        if not path:
            return False
        try:
            module = self.region.get_submodule(path)
        except AttributeError:
            return False
        kind = AS_IN_TORCH.get(type(module), type(module))
        if not is_torch(kind) or kind in (nn.Identity, nn.Sequential):
            return False
        try:
            constructed(module, kind)
        except Unwritable:
            return False
        return True

    # -- modules and tensors -------------------------------------------------------------------

    def _module(self, path: str) -> str:
        """Return what a module is called in the class."""
        module = self.region.get_submodule(path)
        if id(module) in self._by_module:
            return self._by_module[id(module)]
        name = self.names.named(path, _short(path))
        if is_torch(type(module)) or type(module) is nn.Sequential:
            self.held[name] = self.modules.module(module, f"{self.place}.{name}")
        elif self.source.library == "own":
            raise Unwritable(
                f"'{path}', which does other things in training, and whose class {type(module).__name__} is your own"
            )
        else:
            self.held[name] = f"{GIVEN}.get_submodule({path!r})"
            self.modules.take(module, f"{self.place}.{name}")
            self.uses_library = True
        self._by_module[id(module)] = f"self.{name}"
        return f"self.{name}"

    def _tensor(self, key: str, tensor: Tensor) -> str:
        name = self.names.named(key, _short(key))
        if name not in self.held:
            self.held[name] = self.modules.value(tensor, f"{self.place}.{name}")
        return f"self.{name}"

    # -- steps ---------------------------------------------------------------------------------

    def _lines(self, step: Action) -> list[str]:
        if step.target is itself:
            (value,) = step.args
            self._values.update({ref: self._written(value) for _, ref in step.gives})
            return []
        call = self._call(step)
        if len(step.gives) == 1 and not step.gives[0][0]:
            name = self._name(step, step.gives[0][1])
            return [assigned(name, call)]
        whole = self.local.named(f"all {len(self._values)}", f"{_word(step)}_all")
        lines = [assigned(whole, call)]
        for place, ref in step.gives:
            name = self._name(step, ref)
            lines.append(assigned(name, whole + "".join(f"[{plain(key)}]" for key in place)))
        return lines

    def _name(self, step: Action, ref: Ref) -> str:
        self._values[ref] = self.local.named(str(ref), _word(step))
        return self._values[ref]

    def _call(self, step: Action) -> Written:
        given, kwargs = step.args, dict(step.kwargs)
        args = [self._written(arg) for arg in given]
        named = [(key, self._written(value)) for key, value in kwargs.items() if key != "_stacklevel"]
        target = step.target
        if step.copies:
            if any(not isinstance(leaf, Ref) for leaf in (*given, *kwargs.values()) if list(refs(leaf))):
                raise Unwritable(f"'{step.target}', which changes tensors in place that are inside of what it is given")
            args = [f"{arg}.clone()" if isinstance(leaf, Ref) else arg for arg, leaf in zip(args, given, strict=True)]
            named = [(key, f"{arg}.clone()" if isinstance(kwargs[key], Ref) else arg) for key, arg in named]
        if isinstance(step.target, OnCopy):
            target, args[0] = step.target.function, f"{args[0]}.clone()"
        if isinstance(step.target, str):
            return Called(self._module(step.target), [*(("", arg) for arg in args), *named])
        written = _operation(target, args) if not named else None
        if written is not None:
            return written
        function, method = self._function(target)
        if method:
            return Called(f"{args[0]}.{function}", [*(("", arg) for arg in args[1:]), *named])
        return Called(function, [*(("", arg) for arg in args), *named])

    def _function(self, function: Any) -> tuple[str, bool]:
        """Return how a function is called, and whether it is a tensor's method."""
        if isinstance(function, FunctionType) and function.__module__.startswith("topolearn."):
            return self.modules.define(function), False
        name = torch.overrides.resolve_name(function) or ""
        for prefix, short in (("torch.nn.functional.", "F."), ("torch.Tensor.", ""), ("torch.", "torch.")):
            if name.startswith(prefix):
                if short == "F.":
                    self.modules.imports.add("F")
                return short + name.removeprefix(prefix), not short
        raise Unwritable(f"the function {getattr(function, '__qualname__', function)}")

    def _written(self, value: Any) -> str:
        """Return the source of an argument."""
        if isinstance(value, Ref):
            return self._values[value]
        if isinstance(value, Attribute):
            return self._tensor(value.path, get_path(self.region, value.path))
        if isinstance(value, Tensor):
            return self._tensor(f"constant{len(self.held)}", value)
        if isinstance(value, BatchMultiple):
            factor, whole = value.factor, self.region.factor
            rows = f"x.shape[{self.region.axis}]" if factor == 1 else f"{factor} * x.shape[{self.region.axis}]"
            return rows if whole == 1 else f"{rows} // {whole}"
        if isinstance(value, ByMode):
            if value == ByMode(training=True, evaluating=False):
                return "self.training"
            return f"({self._written(value.training)} if self.training else {self._written(value.evaluating)})"
        if isinstance(value, InputType):
            return "x.dtype"
        if isinstance(value, Device):
            return "x.device"
        if isinstance(value, torch.device):
            return f"torch.device({str(value)!r})"
        if isinstance(value, slice):
            return f"slice({', '.join(map(self._written, (value.start, value.stop, value.step)))})"
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            inner = ", ".join(map(self._written, value))
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        if isinstance(value, list):
            return f"[{', '.join(map(self._written, value))}]"
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{plain(key)}: {self._written(item)}" for key, item in value.items()) + "}"
        return plain(value)


def _short(path: str) -> str:
    """Return the end of a path, from its last name that is no number."""
    *_, last = (index for index, part in enumerate(["0", *path.split(".")]) if index == 0 or not part.isdecimal())
    return "_".join(path.split(".")[max(last - 1, 0) :])


def _word(step: Action) -> str:
    """Return what the result of a step is called."""
    if isinstance(step.target, str):
        return _short(step.target) if re.search("[A-Za-z]", step.target) else "y"
    if str(getattr(step.target, "__module__", "")).startswith("topolearn."):
        return "y"  # the function itself has its name in the file
    return getattr(step.target, "__name__", "y").strip("_")


def _operation(function: Any, args: list[str]) -> str | None:
    """Return an operation with Python's own signs; None for any other function."""
    name = getattr(function, "__name__", "")
    if name == "__get__" and len(args) == 1:
        return f"{args[0]}.{function.__self__.__name__}"
    is_method = torch.overrides.is_tensor_method_or_property(function) or function in vars(operator).values()
    plain_name = name.strip("_")
    if not is_method or not (name.startswith("__") or function in vars(operator).values()):
        return None
    if plain_name == "getitem" and len(args) == 2:
        return f"{args[0]}[{args[1]}]"
    if len(args) == 2 and plain_name in _SIGNS:
        return f"({args[0]} {_SIGNS[plain_name]} {args[1]})"
    if len(args) == 2 and plain_name.startswith("r") and plain_name[1:] in _SIGNS:
        return f"({args[1]} {_SIGNS[plain_name[1:]]} {args[0]})"
    if len(args) == 1 and plain_name == "neg":
        return f"(-{args[0]})"
    return None


def library_network(source: Source) -> str:
    """Return the expression that makes a library's network."""
    options = "".join(f", {key}={plain(value)}" for key, value in source.options.thaw().items())
    if source.library == "timm":
        return f"timm.create_model({source.model!r}, pretrained=False{options})"
    return f"torchvision.models.get_model({source.model!r}, weights=None{options})"
