"""JSON schema of graph files, for editors."""

from __future__ import annotations

from typing import Any

from topolearn.format.patterns import PATTERNS
from topolearn.format.reader import MAX_DIMS, STARTS, VERSION
from topolearn.format.source_fields import SourceFields
from topolearn.graph import AGGREGATES
from topolearn.ops import EDGE_OPS, NODE_OPS
from topolearn.ops.base import WIDTHS, NodeOp, Op, width_name
from topolearn.options import fields
from topolearn.task_kinds import TASK_KINDS

_ID = r"^[A-Za-z_][A-Za-z0-9_]*$"
_COUNT = {"type": "integer", "minimum": 1}
_IDS: dict[str, Any] = {"$ref": "#/$defs/Ids"}


def _told(what: dict[str, Any], text: str) -> dict[str, Any]:
    """Return a part of the schema with a description, which editors show."""
    return {**what, "description": text}


def schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of graph files, made from the registered ops and patterns."""
    definitions: dict[str, Any] = {"Ids": {"anyOf": [{"type": "string"}, {"type": "array", "items": _IDS}]}}
    nodes = [_node(name, op, definitions) for name, op in sorted(NODE_OPS.items()) if name != "input"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "topolearn graph",
        "type": "object",
        "required": ["topolearn", "name", "inputs", "nodes", "edges", "outputs"],
        "additionalProperties": False,
        "properties": {
            "topolearn": {"const": VERSION, "description": "Version of the format."},
            "name": {"type": "string", "description": "Name of the graph."},
            "task": {"enum": list(TASK_KINDS), "description": "Task of the network; default: classification."},
            "data": {"type": "string", "description": "Data set for training if you name no other."},
            "inputs": {
                "description": "Id -> size: [channels, height, width] of an image, [length] of a vector, or"
                " {length: 128, vocabulary: 256} or {length: 128, channels: 8} of a sequence.",
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"pattern": _ID},
                "additionalProperties": {"anyOf": [{"type": "array", "items": _COUNT}, *_sequences()]},
            },
            "sources": {
                "description": "Name -> network that nodes with op 'part' are from; 'topolearn lift' writes it.",
                "type": "object",
                "additionalProperties": SourceFields.model_json_schema(),
            },
            "nodes": {
                "description": "Id, or a range of ids such as block[1..4] -> op and its options.",
                "type": "object",
                "additionalProperties": {"anyOf": nodes},
            },
            "edges": {
                "description": "Edges, groups of edges by target ('into'), and patterns ('connect').",
                "type": "array",
                "items": {"anyOf": _edges(definitions)},
            },
            "outputs": _told(_IDS, "Ids of the nodes that give the network's outputs."),
        },
        "$defs": definitions,
    }


def _sequences() -> list[dict[str, Any]]:
    """Return the schemas of a sequence of token ids and of a sequence of vectors."""
    return [
        {
            "type": "object",
            "required": ["length", each],
            "additionalProperties": False,
            "properties": {"length": _told(_COUNT, "Number of tokens."), each: _told(_COUNT, text)},
        }
        for each, text in {
            "vocabulary": "Number of token ids: ids go from 0 to this number, exclusive.",
            "channels": "Numbers per token.",
        }.items()
    ]


def _fields(op: type[Op], definitions: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    own = op.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(own.get("$defs", {}))
    properties = own.get("properties", {})
    for field in fields(op):
        if field.text:
            properties[field.name]["description"] = field.text
    return properties, own.get("required", [])


def _plain(value: dict[str, Any]) -> str:
    """Return what a pattern's key means, with ' for ``."""
    return str(value["description"]).replace("``", "'")


def _node(name: str, op: type[NodeOp], definitions: dict[str, Any]) -> dict[str, Any]:
    properties, required = _fields(op, definitions)
    stride = {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "global"}, {"type": "null"}]}
    on_image = {
        "type": "object",
        "required": ["channels", "stride"],
        "additionalProperties": False,
        "properties": {
            "channels": _told(_COUNT, "Channels of what the node aggregates."),
            "stride": _told(stride, "Relative to the image: 2 is half its height and width."),
        },
    }
    other = {
        "type": "object",
        "required": ["dims"],
        "additionalProperties": False,
        "properties": {
            "dims": {
                "type": "array",
                "items": _COUNT,
                "minItems": 1,
                "maxItems": MAX_DIMS,
                "description": "Any other tensor, inside a lifted network: its dimensions behind the batch.",
            }
        },
    }
    declared: dict[str, Any] = {"anyOf": [on_image, *_sequences(), other]}
    values = {
        **properties,
        "aggregate": {"enum": list(AGGREGATES), "description": "How in-edges are combined; default: the op's, or sum."},
        "input": _told(declared, "Shape that the in-edges bring; default: most channels and smallest size of any."),
        "share": {
            "type": "object",
            "description": "Part of the op -> group of nodes that share its weights.",
            "additionalProperties": {"type": "string"},
        },
    }
    own = width_name(op)
    others = [name for name in WIDTHS if own is not None and name != own]
    values |= {name: _told(properties[own], f"Another name for '{own}'.") for name in others if own is not None}
    # Over a range of ids, a list gives each id one value: everything except the op may be a list.
    dealt = {
        key: {"anyOf": [value, {"type": "array", "items": value}], "description": value["description"]}
        for key, value in values.items()
    }
    summary = (op.__doc__ or "").strip().partition("\n")[0]
    any_width = {"oneOf": [{"required": [each]} for each in (own, *others)]} if own in required else {}
    return {
        "type": "object",
        "description": summary,
        "required": ["op", *(key for key in required if key != own)],
        **any_width,
        "additionalProperties": False,
        "properties": {"op": {"const": name, "description": summary}, **dealt},
    }


def _edges(definitions: dict[str, Any]) -> list[dict[str, Any]]:
    start = {
        "enum": list(STARTS),
        "description": "Sets the weights, instead of 'weight'. chain: 1 for the candidate that continues the chain, 0"
        " for the others; mean: 1 / n for each of n candidates.",
    }
    common: dict[str, Any] = {
        "learnable": {"type": "boolean", "description": "Whether a learner decides about these edges."},
        "weight": {"type": "number", "description": "Weight of each of these edges; default: 1."},
        "start": start,
    }
    into: dict[str, Any] = {
        "type": "object",
        "description": "Target -> its sources; each is an id, or an id with its weight.",
        "additionalProperties": {
            "type": "array",
            "items": {"anyOf": [{"type": "string"}, {"type": "object", "additionalProperties": {"type": "number"}}]},
        },
    }
    forms: list[tuple[dict[str, Any], list[str]]] = [
        ({"from": _told(_IDS, "Where edges start."), "to": _told(_IDS, "Where they end.")}, ["from", "to"]),
        ({"into": into}, ["into"]),
    ]
    for name, pattern in PATTERNS.items():
        own = pattern.model_json_schema(by_alias=True)
        properties = {
            key: _told(_IDS if pattern.keys()[key] else value, _plain(value))
            for key, value in own["properties"].items()
        }
        summary = (pattern.__doc__ or "").partition("\n")[0]
        forms.append(
            ({"connect": {"const": name, "description": summary}, **properties}, ["connect", *own.get("required", [])])
        )
    entries = []
    for op_name, op in sorted(EDGE_OPS.items()):
        properties, required = _fields(op, definitions)
        summary = (op.__doc__ or "").partition("\n")[0]
        needs_op = [] if op_name == "identity" else ["op"]
        for form, keys in forms:
            entries.append(
                {
                    "type": "object",
                    "required": [*keys, *needs_op, *required],
                    "additionalProperties": False,
                    "properties": {**form, "op": {"const": op_name, "description": summary}, **properties, **common},
                }
            )
    return entries
