"""Writes a graph in the canonical explicit form: one line per node, and per target of edges."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from topolearn.format.reader import VERSION
from topolearn.format.tree import resolve
from topolearn.graph import Edge, Graph, Node, Source
from topolearn.ops import Shape

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*\Z")
_YAML_1_1_WORDS = frozenset({"y", "n", "yes", "no", "on", "off"})


def dumps(graph: Graph) -> str:
    """Return the canonical explicit form of ``graph``; reading it gives an equal graph."""
    inputs = ", ".join(f"{name}: {scalar(graph.input_rule(name).spec)}" for name in graph.inputs)
    lines = [f"topolearn: {VERSION}", f"name: {scalar(graph.name)}", f"task: {scalar(graph.task)}"]
    if graph.data is not None:
        lines.append(f"data: {scalar(graph.data)}")
    lines.append(f"inputs: {{{inputs}}}")
    if graph.sources:
        lines.append("sources:")
        lines += [f"  {name}: {scalar(_source(source))}" for name, source in graph.sources.items()]
    lines.append("nodes:")
    lines += [_node(node) for node in graph.nodes.values() if node.op != "input"]
    lines.append("edges:")
    lines += _edges(graph)
    lines.append(f"outputs: {scalar(graph.outputs)}")
    return "\n".join(lines) + "\n"


def _node(node: Node) -> str:
    fields: dict[str, Any] = {"op": node.op, **node.params}
    if node.aggregate != node.rule.aggregate:
        fields["aggregate"] = node.aggregate
    if node.input is not None:
        fields["input"] = _shape(node.input)
    if node.share:
        fields["share"] = node.share
    return f"  {node.id}: {scalar(fields)}"


def _source(source: Source) -> dict[str, Any]:
    """Return where the parts of a lifted network come from, as written in a file."""
    fields: dict[str, Any] = {"library": source.library, "model": source.model}
    if source.options:
        fields["options"] = source.options
    if source.version:
        fields["version"] = source.version
    fields |= {"params": source.params, "fingerprint": source.fingerprint}
    if source.blocks:
        fields["blocks"] = source.blocks
    return fields


def _shape(shape: Shape) -> dict[str, Any]:
    """Return a node's declared input, as written in a file."""
    if shape.is_ids:
        return {"length": shape.length, "vocabulary": shape.vocabulary}
    if shape.is_tokens:
        return {"channels": shape.channels, "length": shape.length}
    if shape.dims is not None:
        return {"dims": shape.dims}
    return {"channels": shape.channels, "stride": shape.stride}


def _edges(graph: Graph) -> list[str]:
    groups: dict[tuple[Any, ...], list[Edge]] = {}
    for edge in graph.edges:
        groups.setdefault((edge.op, edge.params, edge.learnable), []).append(edge)
    lines = []
    for (op, params, learnable), edges in groups.items():
        shared = {"op": op, **params} if op != "identity" or params else {}
        if learnable:
            shared["learnable"] = True
        opening = [f"{key}: {scalar(value)}" for key, value in shared.items()]
        lines += [f"{'  - ' if not i else '    '}{text}" for i, text in enumerate([*opening, "into:"])]
        for target, incoming in groupby(edges, key=lambda edge: edge.dst):
            sources = ", ".join(
                edge.src if edge.weight == 1.0 else f"{edge.src}: {scalar(edge.weight)}" for edge in incoming
            )
            lines.append(f"      {target}: [{sources}]")
    return lines


def scalar(value: Any) -> str:
    """Return a value in YAML's flow style."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isnan(value):
            return ".nan"
        if math.isinf(value):
            return ".inf" if value > 0 else "-.inf"
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(str(key))}: {scalar(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(scalar(item) for item in value) + "]"
    text = str(value)
    plain = _PLAIN.match(text) and resolve(text) is text and text.lower() not in _YAML_1_1_WORDS
    return text if plain else _quoted(text)


def _quoted(text: str) -> str:
    """Return ``text`` in double quotes, with YAML's escapes for characters that cannot be printed."""
    return "".join(
        char if char.isprintable() else f"\\U{ord(char):08x}" for char in json.dumps(text, ensure_ascii=False)
    )
