"""Writes modules as source code: torch.nn's as they are constructed, others as classes with their own forward pass."""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn

from topolearn.compiler.modules import BatchNorm
from topolearn.compiler.modules.base import Conv2d
from topolearn.errors import ExportError, TopolearnError
from topolearn.pytorch.calls import INDENT, Called, Written

AS_IN_TORCH: dict[type[nn.Module], type[nn.Module]] = {BatchNorm: nn.BatchNorm2d, Conv2d: nn.Conv2d}
"""Classes that compute the same as one of torch.nn's, for batches of more than one value per channel."""

BASE = '''class Block(nn.Module):
    """A module with the parts and settings that it is given."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
'''
"""What all written classes start from."""

_SETTINGS: dict[type[nn.Module], dict[str, Callable[[Any], Any]]] = {
    nn.MultiheadAttention: {
        "bias": lambda module: module.in_proj_bias is not None,
        "add_bias_kv": lambda module: module.bias_k is not None,
    },
}
"""Arguments of constructors that modules do not hold under the same name."""

_ANY_ARGUMENTS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Unwritable(Exception):
    """Raised for something that has no place in a source file; says what it is."""


class SourceParts:
    """The classes and functions that a file needs, and the tensors that it loads.

    Attributes:
        definitions: Name -> source of a class or function, in the order in which they must stand.
        tensors: Name in the file's state dict -> tensor.
        imports: What the file imports if it needs that: ``F`` and ``OrderedDict``.
        bodies: What a class computes -> its name, of parts of lifted networks.
    """

    def __init__(self) -> None:
        self.definitions: dict[str, str] = {}
        self.tensors: dict[str, Tensor] = {}
        self.imports: set[str] = set()
        self.bodies: dict[str, str] = {}
        self._known: dict[Any, str] = {}

    # -- modules -------------------------------------------------------------------------------

    def module(self, module: nn.Module, place: str) -> Written:
        """Return the expression that makes a module, and note its tensors.

        Args:
            module: The module.
            place: Its path in the network of the file.

        Raises:
            Unwritable: It cannot be written.
        """
        kind = AS_IN_TORCH.get(type(module), type(module))
        if kind is nn.Sequential:
            return self._sequential(module, place)
        if is_torch(kind):
            call = constructed(module, kind)
            self.take(module, place)
            return call
        if isinstance(module, fx.GraphModule) or kind.__module__.partition(".")[0] in ("torch", "torchvision", "timm"):
            raise Unwritable(f"a {kind.__name__}")
        return self.block(module, place)

    def take(self, module: nn.Module, place: str) -> None:
        """Note the tensors of a module."""
        for name, tensor in module.state_dict().items():
            self.tensors[f"{place}.{name}"] = tensor

    def _sequential(self, module: nn.Module, place: str) -> Written:
        parts = [(name, self.module(part, f"{place}.{name}")) for name, part in module.named_children()]
        if [name for name, _ in parts] == [str(number) for number in range(len(parts))]:
            return Called("nn.Sequential", [("", part) for _, part in parts])
        pairs = [("", Called("", [("", repr(name)), ("", part)])) for name, part in parts]
        self.define(OrderedDict)
        return Called("nn.Sequential", [("", Called("OrderedDict", [("", Called("", pairs))]))])

    def block(self, module: nn.Module, place: str, parts: Mapping[str, Written] = MappingProxyType({})) -> Written:
        """Return the call of a class that is written into the file, with the module's parts and settings.

        Args:
            module: The module.
            place: Its path in the network of the file.
            parts: Expressions of parts that are written already.
        """
        name, used = self.define_class(type(module))
        held = vars(module) | module._modules | module._parameters | module._buffers
        # What it does not hold, it does not need with these settings.
        return Called(
            name,
            [(key, parts.get(key) or self.value(held[key], f"{place}.{key}")) for key in used if key in held],
        )

    def value(self, value: Any, place: str) -> Written:
        """Return the expression of a part or a setting."""
        if isinstance(value, nn.Module):
            return self.module(value, place)
        if isinstance(value, Tensor):
            self.tensors[place] = value
            empty = f"torch.empty({', '.join(map(str, value.shape)) or '()'}, dtype={value.dtype})"
            if value.dtype == torch.float32:
                empty = empty.replace(", dtype=torch.float32", "")
            return Called("nn.Parameter" if isinstance(value, nn.Parameter) else "nn.Buffer", [("", empty)])
        return plain(value)

    # -- classes and functions -----------------------------------------------------------------

    def define_class(self, kind: type[nn.Module]) -> tuple[str, list[str]]:
        """Write a class with its forward pass, and return its name and the attributes that it reads."""
        found: dict[str, ast.FunctionDef] = {}
        used: dict[str, None] = {}
        waiting = ["forward"] + (["part_input"] if hasattr(kind, "part_input") else [])
        while waiting:
            method = waiting.pop(0)
            function = inspect.getattr_static(kind, method, None)
            if not isinstance(function, FunctionType):
                raise Unwritable(f"a {kind.__name__}, whose '{method}' is not in Python")
            found[method] = self.rewritten(function)
            for name in _own_attributes(found[method]):
                if isinstance(inspect.getattr_static(kind, name, None), FunctionType):
                    waiting += [name] if name not in found and name not in waiting else []
                elif name != "training":
                    used[name] = None
        if kind not in self._known:
            summary = (kind.__doc__ or "").strip().partition("\n")[0].replace("\\", "").replace('"""', "")
            opening = [f'{INDENT}"""{summary}"""'] if summary else []
            methods = [textwrap.indent(ast.unparse(method), INDENT) for method in found.values()]
            self._put(
                kind, kind.__name__, f"class {kind.__name__}(Block):\n" + "\n\n".join([*opening, *methods]) + "\n"
            )
        return self._known[kind], list(used)

    def define(self, thing: Any) -> str:
        """Write a function, or import what belongs to Python; return its name."""
        if thing in self._known:
            return self._known[thing]
        if thing is OrderedDict:
            self.imports.add("OrderedDict")
            return "OrderedDict"
        name = str(thing.__name__).strip("_")
        self._put(thing, name, f"{ast.unparse(self.rewritten(thing, name))}\n")
        return name

    def _put(self, thing: Any, name: str, source: str) -> None:
        if name in self.definitions:
            raise Unwritable(f"a second '{name}'")
        self._known[thing] = name
        self.definitions[name] = source

    def rewritten(self, function: FunctionType, name: str | None = None) -> ast.FunctionDef:
        """Return a function without annotations; what it refers to is written too."""
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            raise Unwritable(f"'{function.__qualname__}', whose source is not known") from None
        (found,) = tree.body
        if not isinstance(found, ast.FunctionDef) or function.__closure__:
            raise Unwritable(f"'{function.__qualname__}', which is not a plain function")
        plainer: ast.FunctionDef = _Plainer().visit(found)
        plainer.name = name or plainer.name
        local = _bound_names(plainer)
        renamed = {
            each: self._global(each, function)
            for each in {node.id for node in ast.walk(plainer) if isinstance(node, ast.Name)} - local
            if each in function.__globals__
        }
        if "super" in {node.id for node in ast.walk(plainer) if isinstance(node, ast.Name)}:
            raise Unwritable(f"'{function.__qualname__}', which calls the class that it is derived from")
        for node in ast.walk(plainer):
            if isinstance(node, ast.Name) and node.id in renamed and node.id not in local:
                node.id = renamed[node.id]
        ast.fix_missing_locations(plainer)
        return plainer

    def _global(self, name: str, function: FunctionType) -> str:
        """Return what a global name of a function becomes in the file."""
        value = function.__globals__[name]
        if isinstance(value, ModuleType):
            short = {"torch": "torch", "torch.nn": "nn", "torch.nn.functional": "F", "math": "math"}
            if value.__name__ not in short:
                raise Unwritable(f"'{function.__qualname__}', which needs the module {value.__name__}")
            self.imports.add(short[value.__name__])
            return short[value.__name__]
        if value is Tensor:
            return "torch.Tensor"
        if isinstance(value, type) and issubclass(value, TopolearnError):
            return "ValueError"
        if isinstance(value, type) and value in AS_IN_TORCH:
            return f"nn.{AS_IN_TORCH[value].__name__}"
        if isinstance(value, FunctionType):
            return self.define(value)
        try:
            return plain(value)
        except Unwritable:
            raise Unwritable(f"'{function.__qualname__}', which needs '{name}'") from None


class _Plainer(ast.NodeTransformer):
    """Leaves out annotations, assertions and decorators."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """Leave out decorators and types, and the name of a result."""
        self.generic_visit(node)
        node.decorator_list, node.returns = [], None
        match node.body:
            case [*_, ast.Assign([ast.Name(named)], value), ast.Return(ast.Name(returned))] if named == returned:
                node.body[-2:] = [ast.Return(value)]
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """Leave out an argument's type."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        """Leave out a variable's type."""
        self.generic_visit(node)
        return None if node.value is None else ast.Assign([node.target], node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Leave out assertions, which are for type checkers."""


def _bound_names(function: ast.FunctionDef) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
    return found


def _own_attributes(function: ast.FunctionDef) -> list[str]:
    return [
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    ]


def is_torch(kind: type[nn.Module]) -> bool:
    """Whether a class is one of torch.nn's own modules."""
    return kind.__module__.startswith("torch.nn.modules.") and getattr(nn, kind.__name__, None) is kind


def constructed(module: nn.Module, kind: type[nn.Module]) -> Called:
    """Return the call that constructs one of torch.nn's modules; settings at their defaults are left out.

    Raises:
        Unwritable: It does not say how it was constructed.
    """
    args: list[tuple[str, Written]] = []
    others = _SETTINGS.get(kind, {})
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        if name in ("self", "device", "dtype") or name.startswith("_") or parameter.kind in _ANY_ARGUMENTS:
            continue
        if name in others:
            value = others[name](module)
        elif not hasattr(module, name):
            raise Unwritable(f"a {kind.__name__}, which does not say what its '{name}' is")
        else:
            value = getattr(module, name)
        if isinstance(parameter.default, bool) and (value is None or isinstance(value, Tensor)):
            value = value is not None
        value = _simpler(value)
        if value != parameter.default or parameter.default is parameter.empty:
            args.append(("" if parameter.default is parameter.empty else name, plain(value)))
    if any(isinstance(getattr(module, key, None), nn.Module) for key in module._modules) and kind not in _SETTINGS:
        raise Unwritable(f"a {kind.__name__}, which holds other modules")
    return Called(f"nn.{kind.__name__}", args)


def _simpler(value: Any) -> Any:
    """Return one number for a tuple of equal ones."""
    if isinstance(value, tuple) and len(value) in (2, 3) and len(set(value)) == 1:
        return value[0]
    return value


def plain(value: Any) -> str:
    """Return the source of a plain value.

    Raises:
        Unwritable: It is not one.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if value is Ellipsis:
        return "..."
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout):
        return str(value)
    if type(value) in (tuple, torch.Size):
        inner = ", ".join(map(plain, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if type(value) is list:
        return f"[{', '.join(map(plain, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{plain(key)}: {plain(item)}" for key, item in value.items()) + "}"
    raise Unwritable(f"a {type(value).__name__}")


def failure(node: str, error: Unwritable) -> ExportError:
    """Return the error for a node that cannot be written."""
    return ExportError(f"node '{node}' cannot be written as source: it needs {error}; export ONNX or .pt2 instead")
