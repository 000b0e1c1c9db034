"""A YAML 1.2 document as a tree whose every part knows its line and column.

ruamel.yaml scans and parses; this builds the tree from its events, so that a file can make scalars,
lists and mappings and nothing else, aliases cannot refer to themselves, and what they expand to is
bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topolearn.errors import FormatError, Location

MAX_BYTES = 64 * 2**20
"""Largest file that is read."""
MAX_PARTS = 20_000_000
"""Most scalars, lists and mappings a document may expand to, aliases followed."""
MAX_DEPTH = 50
"""Deepest nesting."""


class Tree:
    """A part of a document; ``line`` and ``column`` count from 0."""

    __slots__ = ("column", "line", "size")

    def __init__(self, line: int, column: int) -> None:
        self.line = line
        self.column = column
        self.size = 1

    def plain(self) -> Any:
        """This part as plain Python values."""
        raise NotImplementedError


class Scalar(Tree):
    """A scalar; ``text`` as written, ``value`` by the core schema of YAML 1.2."""

    __slots__ = ("quoted", "text")

    def __init__(self, text: str, quoted: bool, line: int, column: int) -> None:
        super().__init__(line, column)
        self.text = text
        self.quoted = quoted

    @property
    def value(self) -> Any:
        """None, bool, int, float or str."""
        return self.text if self.quoted else resolve(self.text)

    def plain(self) -> Any:
        """The value."""
        return self.value


class Items(Tree):
    """A list."""

    __slots__ = ("items",)

    def __init__(self, line: int, column: int) -> None:
        super().__init__(line, column)
        self.items: list[Tree] = []

    def plain(self) -> list[Any]:
        """The plain items."""
        return [item.plain() for item in self.items]


class Fields(Tree):
    """A mapping from strings; ``keys`` are the scalars that the keys were written as."""

    __slots__ = ("keys", "values")

    def __init__(self, line: int, column: int) -> None:
        super().__init__(line, column)
        self.keys: dict[str, Scalar] = {}
        self.values: dict[str, Tree] = {}

    def plain(self) -> dict[str, Any]:
        """The plain values by key."""
        return {key: value.plain() for key, value in self.values.items()}


_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    "-.inf": float("-inf"),
    ".nan": float("nan"),
}


def resolve(text: str) -> Any:
    """The value of a plain scalar by the core schema of YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text) if len(text) < 4000 else text
    if _FLOAT.match(text):
        return float(text)
    return text


@dataclass(frozen=True)
class Document:
    """A parsed file.

    Attributes:
        file: How errors call it.
        root: Its top-level mapping.
    """

    file: str
    root: Fields

    def at(self, tree: Tree | None) -> Location:
        """Where ``tree`` stands."""
        return Location(self.file) if tree is None else Location(self.file, tree.line + 1, tree.column + 1)

    def error(self, tree: Tree | None, message: str) -> FormatError:
        """An error at ``tree``."""
        return FormatError(message, self.at(tree))


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        FormatError: Missing, not a readable file, too large, or not UTF-8.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(f"the file is larger than {MAX_BYTES // 2**20} MiB", Location(str(path)))
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FormatError("no such file; check the path", Location(str(path))) from None
    except IsADirectoryError:
        raise FormatError("this is a folder; name a file in it", Location(str(path))) from None
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8 text (byte {error.start}); save it as UTF-8", Location(str(path))) from None
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", Location(str(path))) from None


def parse(text: str, file: str) -> Document:
    """Parse one YAML document whose top level is a mapping.

    Raises:
        FormatError: With the line and column of what is wrong.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        root = _Composer(file, YAML(typ="safe", pure=True).parse(text)).document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Location(file, mark.line + 1, mark.column + 1) if mark else Location(file)
        problem = " ".join(str(error.problem or error.context).split())
        raise FormatError(f"not valid YAML: {problem}{_range_hint(text, mark)}", where) from None
    except YAMLError as error:
        raise FormatError(f"not valid YAML: {' '.join(str(error).split())}", Location(file)) from None
    if not isinstance(root, Fields):
        raise FormatError("a file starts with a mapping, as 'topolearn: 1'", Location(file, 1, 1))
    return Document(file, root)


_BARE_RANGE = re.compile(r"""(?<!["'\w])([A-Za-z_]\w*\[\d+\.\.\d+\]\w*)""")


def _range_hint(text: str, mark: Any) -> str:
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return ""
    bare = _BARE_RANGE.search(lines[mark.line])
    return f'; inside {{}} and [] a range must be quoted: "{bare[1]}"' if bare else ""


class _Composer:
    """Builds the tree from parser events."""

    def __init__(self, file: str, events: Iterator[Any]) -> None:
        self.file = file
        self.events = events
        self.anchors: dict[str, Tree | None] = {}

    def fail(self, event: Any, message: str) -> FormatError:
        mark = event.start_mark
        return FormatError(message, Location(self.file, mark.line + 1, mark.column + 1))

    def document(self) -> Tree:
        from ruamel.yaml.events import DocumentEndEvent, DocumentStartEvent, StreamEndEvent, StreamStartEvent

        root: Tree | None = None
        for event in self.events:
            if isinstance(event, (StreamStartEvent, StreamEndEvent, DocumentEndEvent)):
                continue
            if isinstance(event, DocumentStartEvent):
                if root is not None:
                    raise self.fail(event, "a file holds one document; remove what follows '---'")
                root = self.part(next(self.events), 0)
        if root is None:
            raise FormatError("the file is empty", Location(self.file, 1, 1))
        return root

    def part(self, event: Any, depth: int) -> Tree:
        from ruamel.yaml.events import AliasEvent, MappingStartEvent, ScalarEvent

        if isinstance(event, AliasEvent):
            return self.alias(event)
        if depth > MAX_DEPTH:
            raise self.fail(event, f"nested deeper than {MAX_DEPTH} levels")
        if (event.tag is not None and not isinstance(event, ScalarEvent)) or getattr(event, "ctag", None):
            raise self.fail(event, f"tags are not allowed ('{event.tag}'); write a plain value")
        line, column = event.start_mark.line, event.start_mark.column
        if event.anchor:
            self.anchors[event.anchor] = None
        tree: Tree
        if isinstance(event, ScalarEvent):
            tree = Scalar(event.value, not event.implicit[0], line, column)
        elif isinstance(event, MappingStartEvent):
            tree = self.fields(Fields(line, column), depth)
        else:
            tree = self.items(Items(line, column), depth)
        if tree.size > MAX_PARTS:
            raise self.fail(event, f"expands to more than {MAX_PARTS:,} values; use macros instead of aliases")
        if event.anchor:
            self.anchors[event.anchor] = tree
        return tree

    def alias(self, event: Any) -> Tree:
        if event.anchor not in self.anchors:
            raise self.fail(event, f"unknown alias '*{event.anchor}'; define it with '&{event.anchor}' before")
        tree = self.anchors[event.anchor]
        if tree is None:
            raise self.fail(event, f"alias '*{event.anchor}' refers to itself; write the value out")
        return tree

    def items(self, tree: Items, depth: int) -> Items:
        from ruamel.yaml.events import SequenceEndEvent

        while not isinstance(event := next(self.events), SequenceEndEvent):
            item = self.part(event, depth + 1)
            tree.items.append(item)
            tree.size += item.size
        return tree

    def fields(self, tree: Fields, depth: int) -> Fields:
        from ruamel.yaml.events import MappingEndEvent

        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self.part(event, depth + 1)
            if not isinstance(key, Scalar):
                raise self.fail(event, "a key must be a word")
            if key.text in tree.keys:
                first = tree.keys[key.text]
                raise self.fail(event, f"duplicate key '{key.text}'; it stands in line {first.line + 1} already")
            value = self.part(next(self.events), depth + 1)
            tree.keys[key.text] = key
            tree.values[key.text] = value
            tree.size += 1 + value.size
        return tree


def override(document: Document, path: str, text: str) -> None:
    """Set the value at a dotted path (``nodes.head.classes``) to the YAML value ``text``, in place.

    Raises:
        FormatError: Where the path leads nowhere.
    """
    steps = re.split(r"\.(?![^\[]*\])", path)
    value = parse(f"value: {text}", f"--set {path}={text}").root.values["value"]
    tree: Tree = document.root
    for step in steps[:-1]:
        if not isinstance(tree, Fields) or step not in tree.values:
            from topolearn.errors import suggest

            known = suggest(step, tree.values) if isinstance(tree, Fields) else ""
            raise FormatError(f"--set {path}: there is no '{step}' in {document.file}{known}")
        tree = tree.values[step]
    if not isinstance(tree, Fields):
        raise FormatError(f"--set {path}: '{steps[-2]}' in {document.file} holds no keys")
    value.line, value.column = tree.line, tree.column
    tree.keys.setdefault(steps[-1], Scalar(steps[-1], False, tree.line, tree.column))
    tree.values[steps[-1]] = value
