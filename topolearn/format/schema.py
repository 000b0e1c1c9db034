"""A JSON schema of graph files, for editors."""

from __future__ import annotations

from typing import Any

from topolearn.format.patterns import PATTERNS
from topolearn.format.reader import STARTS, VERSION
from topolearn.graph import AGGREGATES
from topolearn.ops import EDGE_OPS, NODE_OPS
from topolearn.ops.base import Op
from topolearn.options import fields
from topolearn.task_kinds import TASK_KINDS

_ID = r"^[A-Za-z_][A-Za-z0-9_]*$"
_COUNT = {"type": "integer", "minimum": 1}
_IDS: dict[str, Any] = {"$ref": "#/$defs/Ids"}


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a graph file, made from the registered ops and patterns."""
    definitions: dict[str, Any] = {"Ids": {"anyOf": [{"type": "string"}, {"type": "array", "items": _IDS}]}}
    nodes = [_node(name, op, definitions) for name, op in sorted(NODE_OPS.items()) if name != "input"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "topolearn graph",
        "type": "object",
        "required": ["topolearn", "name", "inputs", "nodes", "edges", "outputs"],
        "additionalProperties": False,
        "properties": {
            "topolearn": {"const": VERSION},
            "name": {"type": "string"},
            "task": {"enum": list(TASK_KINDS)},
            "data": {"type": "string"},
            "inputs": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": _ID},
                "additionalProperties": {"anyOf": [{"type": "array", "items": _COUNT}, *_sequences()]},
            },
            "nodes": {"type": "object", "additionalProperties": {"anyOf": nodes}},
            "edges": {"type": "array", "items": {"anyOf": _edges(definitions)}},
            "outputs": _IDS,
        },
        "$defs": definitions,
    }


def _sequences() -> list[dict[str, Any]]:
    """Forms of a sequence: of token ids, of vectors."""
    return [
        {
            "type": "object",
            "required": ["length", each],
            "additionalProperties": False,
            "properties": {"length": _COUNT, each: _COUNT},
        }
        for each in ("vocabulary", "channels")
    ]


def _fields(op: type[Op], definitions: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    own = op.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(own.get("$defs", {}))
    properties = own.get("properties", {})
    for field in fields(op):
        if field.text:
            properties[field.name]["description"] = field.text
    return properties, own.get("required", [])


def _node(name: str, op: type[Op], definitions: dict[str, Any]) -> dict[str, Any]:
    properties, required = _fields(op, definitions)
    stride = {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "global"}, {"type": "null"}]}
    on_image = {
        "type": "object",
        "required": ["channels", "stride"],
        "additionalProperties": False,
        "properties": {"channels": _COUNT, "stride": stride},
    }
    declared: dict[str, Any] = {"anyOf": [on_image, *_sequences()]}
    values = {
        **properties,
        "aggregate": {"enum": list(AGGREGATES)},
        "input": declared,
        "share": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    # Over a range of ids, a list of values is dealt out: everything but the op may be a list.
    dealt = {key: {"anyOf": [value, {"type": "array", "items": value}]} for key, value in values.items()}
    return {
        "type": "object",
        "description": (op.__doc__ or "").strip().partition("\n")[0],
        "required": ["op", *required],
        "additionalProperties": False,
        "properties": {"op": {"const": name}, **dealt},
    }


def _edges(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    start = {
        "enum": list(STARTS),
        "description": "Instead of 'weight'. chain: 1 for the candidate that continues the chain, 0 for the others;"
        " mean: 1 / n for each of n candidates.",
    }
    common: dict[str, Any] = {"learnable": {"type": "boolean"}, "weight": {"type": "number"}, "start": start}
    into: dict[str, Any] = {
        "type": "object",
        "additionalProperties": {
            "type": "array",
            "items": {"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": "number"}}]},
        },
    }
    forms: list[tuple[dict[str, Any], list[str]]] = [
        ({"from": _IDS, "to": _IDS}, ["from", "to"]),
        ({"into": into}, ["into"]),
    ]
    for name, pattern in PATTERNS.items():
        own = pattern.model_json_schema(by_alias=True)
        properties = {key: _IDS if pattern.keys()[key] else value for key, value in own["properties"].items()}
        forms.append(({"connect": {"const": name}, **properties}, ["connect", *own.get("required", [])]))
    entries = []
    for op_name, op in sorted(EDGE_OPS.items()):
        properties, required = _fields(op, definitions)
        needs_op = [] if op_name == "identity" else ["op"]
        for form, keys in forms:
            entries.append(
                {
                    "type": "object",
                    "required": [*keys, *needs_op, *required],
                    "additionalProperties": False,
                    "properties": {**form, "op": {"const": op_name}, **properties, **common},
                }
            )
    return entries
