"""Graph files: YAML to Graph and back. Imports no torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from topolearn.errors import TopolearnError
from topolearn.format import library
from topolearn.format.reader import build
from topolearn.format.schema import schema
from topolearn.format.tree import override, parse, read_text
from topolearn.format.writer import dumps
from topolearn.graph import Graph

__all__ = ["dump_graph", "dumps", "library", "load_graph", "loads", "schema", "write_atomically"]


def loads(text: str, file: str = "<string>") -> Graph:
    """The verified graph in ``text``; errors call it ``file``."""
    return build(parse(text, file))


def load_graph(name_or_path: str | Path, overrides: Mapping[str, str] | None = None) -> Graph:
    """Read a graph.

    Args:
        name_or_path: A YAML file, or the name of a shipped graph (``resnet38-cifar100``).
        overrides: Dotted path in the file -> YAML value, as ``{"nodes.head.classes": "10"}``.

    Returns:
        The verified graph, macros expanded.

    Raises:
        FormatError: Not a readable graph file; located by line and column.
        GraphError: Not a valid network; located likewise.
    """
    path = library.find(name_or_path)
    document = parse(read_text(path), str(path))
    for key, value in (overrides or {}).items():
        override(document, key, value)
    return build(document)


def dump_graph(graph: Graph, path: str | Path) -> None:
    """Write the canonical explicit form of ``graph`` to ``path``; the file appears whole or not at all."""
    write_atomically(Path(path), dumps(graph).encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside ``path``, then rename it.

    Raises:
        TopolearnError: Where the folder is missing, read-only or full.
    """
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe, or a folder, which says so
            path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))  # a link stays a link
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise TopolearnError(f"cannot write {path}: {error.strerror}; choose another place or make room") from None
