"""Python expressions as trees, laid out over lines; and names that are safe to write."""

from __future__ import annotations

import builtins
import itertools
import keyword
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from torch import nn

WIDTH = 110
"""Longest line, roughly."""
INDENT = "    "


@dataclass(frozen=True)
class Called:
    """A call, or parts joined by an operator.

    Attributes:
        function: What is called; "" for brackets only.
        args: The arguments, each with its name or "".
        between: What stands between the arguments.
    """

    function: str
    args: Sequence[tuple[str, Written]]
    between: str = ","

    def at(self, depth: int, before: int = 0) -> str:
        """Return the source, in one line if it fits.

        Args:
            depth: Indentation of the line that it begins in.
            before: Characters that the line has already.
        """
        named = [(f"{name}=" if name else "", part) for name, part in self.args]
        gap = ", " if self.between == "," else f" {self.between} "
        line = gap.join(name + _at(part, depth) for name, part in named)
        if len(INDENT) * depth + before + len(self.function) + len(line) < WIDTH and "\n" not in line:
            if self.between != ",":
                return line
            return f"{self.function}({line})" if self.function or len(named) > 1 else f"({line},)"
        start = INDENT * (depth + 1)
        lines = [name + _at(part, depth + 1, len(name)) for name, part in named]
        if self.between == ",":
            body = "".join(f"{start}{each},\n" for each in lines)
        else:
            body = start + f"\n{start}{self.between} ".join(lines) + "\n"
        return f"{self.function}(\n{body}{INDENT * depth})"


Written = str | Called
"""An expression."""


def _at(part: Written, depth: int, before: int = 0) -> str:
    return part if isinstance(part, str) else part.at(depth, before)


def assigned(name: str, value: Written, depth: int = 2) -> str:
    """Return the line, or lines, of an assignment."""
    return f"{INDENT * depth}{name} = {_at(value, depth, len(name) + 3)}"


class Names:
    """Gives each thing an identifier of its own, which is no word of Python's and no attribute of modules."""

    def __init__(self, taken: Collection[str] = ()) -> None:
        module = nn.Module()
        self.taken = {*keyword.kwlist, *keyword.softkwlist, *dir(builtins), *dir(module), *vars(module), *taken}
        self.of: dict[str, str] = {}

    def __getitem__(self, key: str) -> str:
        return self.named(key, key)

    def named(self, key: str, wanted: str) -> str:
        """Return the identifier of a key: ``wanted``, or what is most like it."""
        if key not in self.of:
            name = re.sub(r"[^A-Za-z0-9_]", "_", wanted)
            if not re.match("[A-Za-z]", name):  # Python changes names that begin with two underscores
                name = f"n{name}"
            free = (name if count == 1 else f"{name}_{count}" for count in itertools.count(1))
            self.of[key] = next(each for each in free if each not in self.taken)
            self.taken.add(self.of[key])
        return self.of[key]
