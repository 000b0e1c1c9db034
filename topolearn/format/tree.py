"""Parses a YAML 1.2 document into a tree in which every part knows its line and column.

ruamel.yaml scans and parses; this module builds the tree from its events. So a file can only make scalars, lists and
mappings, an alias cannot refer to itself, and the expanded size is limited.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from topolearn.errors import FormatError, Location, suggest
from topolearn.files import read_start

T = TypeVar("T", str, bytes)

MAX_BYTES = 64 * 2**20
"""Maximum size of a file, in bytes."""
MAX_PARTS = 20_000_000
"""Maximum number of scalars, lists and mappings in a document, with aliases expanded."""
MAX_DEPTH = 50
"""Maximum depth of nesting, with aliases expanded."""


class Tree(ABC):
    """A part of a document.

    Attributes:
        line: Line, from 0.
        column: Column, from 0.
        size: Number of scalars, lists and mappings that it expands to.
        depth: Number of levels below it.
    """

    __slots__ = ("column", "depth", "line", "size")

    def __init__(self, line: int, column: int) -> None:
        self.line = line
        self.column = column
        self.size = 1
        self.depth = 0

    def contain(self, part: Tree) -> None:
        """Add a part to ``size`` and ``depth``."""
        self.size += part.size
        self.depth = max(self.depth, part.depth + 1)

    @abstractmethod
    def plain(self) -> Any:
        """Return this part as plain Python values."""


class Scalar(Tree):
    """A scalar: ``text`` is as written, ``value`` follows the core schema of YAML 1.2."""

    __slots__ = ("quoted", "text")

    def __init__(self, text: str, quoted: bool, line: int, column: int) -> None:
        super().__init__(line, column)
        self.text = text
        self.quoted = quoted

    @property
    def value(self) -> Any:
        """The value: None, bool, int, float or str."""
        return self.text if self.quoted else resolve(self.text)

    def plain(self) -> Any:
        """Return the value."""
        return self.value


class Items(Tree):
    """A list."""

    __slots__ = ("items",)

    def __init__(self, line: int, column: int) -> None:
        super().__init__(line, column)
        self.items: list[Tree] = []

    def plain(self) -> list[Any]:
        """Return the items as plain values."""
        return [item.plain() for item in self.items]


class Fields(Tree):
    """A mapping from strings; ``keys`` holds each key as a scalar, with its place."""

    __slots__ = ("keys", "values")

    def __init__(self, line: int, column: int) -> None:
        super().__init__(line, column)
        self.keys: dict[str, Scalar] = {}
        self.values: dict[str, Tree] = {}

    def plain(self) -> dict[str, Any]:
        """Return the plain values by key."""
        return {key: value.plain() for key, value in self.values.items()}


_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(f"{sign}inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def resolve(text: str) -> Any:
    """Return the value of a plain scalar by the core schema of YAML 1.2."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text, 0 if text[1:2] in ("o", "x") else 10) if len(text) < 4000 else text
    if _FLOAT.match(text):
        return float(text)
    return text


@dataclass(frozen=True)
class Document:
    """A parsed file.

    Attributes:
        file: Name of the file in errors.
        root: The top-level mapping.
        overrides: What :func:`override` set, as ``KEY=VALUE``; parts of override n have line -1 - n.
    """

    file: str
    root: Fields
    overrides: list[str] = field(default_factory=list)

    def at(self, tree: Tree | None) -> Location:
        """Return the location of ``tree``; of the file for None."""
        if tree is not None and tree.line < 0:
            return Location(f"--set {self.overrides[-1 - tree.line]}")
        return Location(self.file) if tree is None else Location(self.file, tree.line + 1, tree.column + 1)

    def error(self, tree: Tree | None, message: str) -> FormatError:
        """Return an error located at ``tree``."""
        return FormatError(message, self.at(tree))


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        FormatError: Missing, not a readable file, too large, or not UTF-8.
    """
    try:
        data = read_start(path, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise FormatError(f"the file is larger than {MAX_BYTES // 2**20} MiB", Location(str(path)))
        return data.decode()
    except FileNotFoundError:
        raise FormatError("no such file; check the path", Location(str(path))) from None
    except IsADirectoryError:
        inside = "its 'graph.yaml'" if (path / "graph.yaml").is_file() else "a file in it"
        raise FormatError(f"this is a folder; name {inside}", Location(str(path))) from None
    except UnicodeDecodeError as error:
        line, column = _line_and_column(data, error.start, b"\n")
        raise FormatError("not UTF-8 text; save it as UTF-8", Location(str(path), line, column)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FormatError(f"cannot be read: {reason}", Location(str(path))) from None


def _line_and_column(text: T, position: int, newline: T) -> tuple[int, int]:
    return text.count(newline, 0, position) + 1, position - text.rfind(newline, 0, position)


def parse(text: str, file: str) -> Document:
    """Parse one YAML document whose top level is a mapping.

    Raises:
        FormatError: Not valid YAML, or not a mapping; gives line and column.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    try:
        root = _Composer(file, YAML(typ="safe", pure=True).parse(text)).document()
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Location(file, mark.line + 1, mark.column + 1) if mark else Location(file)
        problem = str(error.problem or error.context)
        if error.context and error.context_mark and mark and error.context_mark.line != mark.line:
            problem += f" {error.context} that starts in line {error.context_mark.line + 1}"
        raise FormatError(f"not valid YAML: {problem}{_range_hint(text, mark)}", where) from None
    except ReaderError as error:
        where = Location(file, *_line_and_column(text, error.position, "\n"))
        raise FormatError(f"not valid YAML: character U+{error.character:04X} is not allowed", where) from None
    if not isinstance(root, Fields):
        raise FormatError("a file starts with a mapping, such as 'topolearn: 1'", Location(file, 1, 1))
    return Document(file, root)


_BARE_RANGE = re.compile(r"""(?<!["'\w])([A-Za-z_]\w*\[\d+\.\.\d+\]\w*)""")


def _range_hint(text: str, mark: Any) -> str:
    lines = text.splitlines()
    if mark is None or mark.line >= len(lines):
        return ""
    bare = _BARE_RANGE.search(lines[mark.line])
    return f'; inside {{}} and [] a range must be quoted: "{bare[1]}"' if bare else ""


class _Composer:
    """Builds the tree from the parser's events."""

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
            return self.alias(event, depth)
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

    def alias(self, event: Any, depth: int) -> Tree:
        if event.anchor not in self.anchors:
            raise self.fail(event, f"unknown alias '*{event.anchor}'; define it with '&{event.anchor}' before")
        tree = self.anchors[event.anchor]
        if tree is None:
            raise self.fail(event, f"alias '*{event.anchor}' refers to itself; write the value out")
        if depth + tree.depth > MAX_DEPTH:
            raise self.fail(event, f"nested deeper than {MAX_DEPTH} levels")
        return tree

    def items(self, tree: Items, depth: int) -> Items:
        from ruamel.yaml.events import SequenceEndEvent

        while not isinstance(event := next(self.events), SequenceEndEvent):
            item = self.part(event, depth + 1)
            tree.items.append(item)
            tree.contain(item)
        return tree

    def fields(self, tree: Fields, depth: int) -> Fields:
        from ruamel.yaml.events import MappingEndEvent

        while not isinstance(event := next(self.events), MappingEndEvent):
            key = self.part(event, depth + 1)
            if not isinstance(key, Scalar):
                raise self.fail(event, "a key must be a word")
            if key.text in tree.keys:
                first = tree.keys[key.text]
                raise self.fail(event, f"duplicate key '{key.text}'; line {first.line + 1} already has it")
            value = self.part(next(self.events), depth + 1)
            if isinstance(value, Scalar) and not value.text and not value.quoted:
                value.line, value.column = key.line, key.column  # an empty value's mark is at what follows
            tree.keys[key.text] = key
            tree.values[key.text] = value
            tree.contain(key)
            tree.contain(value)
        return tree


def override(document: Document, path: str, text: str) -> None:
    """Set the value at a dotted path to the YAML value ``text``, in place.

    A step is a key, or the number of a list entry, from 1: ``nodes.head.classes``, ``edges.2.connect``.

    Raises:
        FormatError: The path leads nowhere.
    """
    *above, last = re.split(r"\.(?![^\[]*\])", path)
    try:
        value = parse(f"value: {text}", "").root.values["value"]
    except FormatError as error:
        raise FormatError(error.message, Location(f"--set {path}={text}")) from None
    tree: Tree = document.root
    for step in above:
        tree = _entry(document, path, tree, step)
    document.overrides.append(f"{path}={text}")
    line = -len(document.overrides)
    _move(value, line)
    if isinstance(tree, Fields):
        tree.keys.setdefault(last, Scalar(last, False, line, 0))
        tree.values[last] = value
    elif isinstance(tree, Items):
        _entry(document, path, tree, last)
        tree.items[int(last) - 1] = value
    else:
        raise FormatError(f"--set {path}: '{above[-1]}' in {document.file} holds no keys")


def _entry(document: Document, path: str, tree: Tree, step: str) -> Tree:
    """Return what one step of an override's path leads to."""
    if isinstance(tree, Items):
        if step.isdecimal() and 1 <= int(step) <= len(tree.items):
            return tree.items[int(step) - 1]
        raise FormatError(
            f"--set {path}: '{step}' is no entry of that list in {document.file}; count from 1 to {len(tree.items)}"
        )
    if not isinstance(tree, Fields) or step not in tree.values:
        known = suggest(step, tree.values) if isinstance(tree, Fields) else ""
        raise FormatError(f"--set {path}: there is no '{step}' in {document.file}{known}")
    return tree.values[step]


def _move(tree: Tree, line: int) -> None:
    """Set the line of ``tree`` and its parts."""
    tree.line = line
    if isinstance(tree, Items):
        parts = tree.items
    else:
        parts = [*tree.keys.values(), *tree.values.values()] if isinstance(tree, Fields) else []
    for part in parts:
        _move(part, line)
