"""Functions that read a Graph from a file and write one to a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from topolearn.files import write_atomically
from topolearn.format import library
from topolearn.format.reader import build, check
from topolearn.format.tree import override, parse, read_text
from topolearn.format.writer import dumps
from topolearn.graph import Graph


def loads(text: str, file: str = "<string>") -> Graph:
    """Read a verified graph from YAML text; errors name ``file``."""
    return build(parse(text, file))


def load_graph(name_or_path: str | Path, overrides: Mapping[str, str] | None = None) -> Graph:
    """Read a verified graph from a file, or a shipped graph by name.

    Args:
        name_or_path: A YAML file, or the name of a shipped graph (``resnet38-cifar100``).
        overrides: Dotted path in the file -> YAML value, such as ``{"nodes.head.classes": "10"}``.

    Returns:
        The verified graph, with macros expanded.

    Raises:
        FormatError: Not a readable graph file; gives line and column.
        GraphError: Not a valid network; gives line and column.
    """
    path = library.find(name_or_path)
    document = parse(read_text(path), str(path))
    for key, value in (overrides or {}).items():
        override(document, key, value)
    return build(document)


def check_graph(name_or_path: str | Path) -> Graph:
    """Read a graph as :func:`load_graph` does, check that it can be trained, and warn about what is seldom meant.

    Raises:
        FormatError: Not a readable graph file; gives line and column.
        GraphError: Not a valid network, or not one to train; gives line and column.
    """
    path = library.find(name_or_path)
    return check(parse(read_text(path), str(path)))


def dump_graph(graph: Graph, path: str | Path) -> None:
    """Write the canonical explicit form of ``graph`` to ``path``, all of it or nothing."""
    write_atomically(Path(path), dumps(graph).encode())
