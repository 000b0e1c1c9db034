"""The JSON schema for editors agrees with what the reader reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given

from tests.strategies import graphs
from topolearn.format import dumps, library, schema
from topolearn.format.patterns import PATTERNS
from topolearn.format.tree import parse, read_text
from topolearn.graph import Graph
from topolearn.ops import EDGE_OPS, NODE_OPS
from topolearn.options import fields

SCHEMA = schema()


def valid(value: Any, rule: Any) -> bool:
    """A validator of the part of JSON schema that the schema uses, so that tests need no other package."""
    if rule is True:
        return True
    known = {
        *("type", "required", "additionalProperties", "properties", "propertyNames", "minProperties", "items"),
        *("minItems", "anyOf", "oneOf", "const", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("pattern", "$ref", "title", "description", "default", "$schema", "$defs"),
    }
    assert set(rule) <= known, f"the test does not know {set(rule) - known}"
    if "$ref" in rule:
        return valid(value, SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]])
    if "anyOf" in rule and not any(valid(value, option) for option in rule["anyOf"]):
        return False
    if "oneOf" in rule and sum(valid(value, option) for option in rule["oneOf"]) != 1:
        return False
    if "const" in rule and (value != rule["const"] or type(value) is not type(rule["const"])):
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}
    if "type" in rule:
        if rule["type"] == "null":
            return value is None
        if not isinstance(value, kinds[rule["type"]]) or (isinstance(value, bool) and rule["type"] != "boolean"):
            return False
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (
            value >= rule.get("minimum", value)
            and value <= rule.get("maximum", value)
            and value > rule.get("exclusiveMinimum", value - 1)
            and value < rule.get("exclusiveMaximum", value + 1)
        )
    if isinstance(value, str):
        return re.search(rule.get("pattern", ""), value) is not None
    if isinstance(value, list):
        return len(value) >= rule.get("minItems", 0) and all(valid(item, rule.get("items", True)) for item in value)
    if isinstance(value, dict):
        properties, other = rule.get("properties", {}), rule.get("additionalProperties", True)
        return (
            len(value) >= rule.get("minProperties", 0)
            and all(key in value for key in rule.get("required", []))
            and all(valid(key, rule.get("propertyNames", True)) for key in value)
            and all(
                valid(item, properties[key]) if key in properties else other and valid(item, other)
                for key, item in value.items()
            )
        )
    return True


def document(text: str) -> Any:
    return parse(text, "f").root.plain()


@pytest.mark.parametrize("name", library.names("graphs"))
def test_shipped_graphs_are_valid(name: str) -> None:
    assert valid(document(read_text(library.folder("graphs") / f"{name}.yaml")), SCHEMA)


@given(graphs(max_inputs=2))
def test_canonical_forms_are_valid(graph: Graph) -> None:
    assert valid(document(dumps(graph)), SCHEMA)


EXAMPLE = """\
topolearn: 1
name: example
inputs: {image: [3, 8, 8]}
nodes:
  a[1..2]:
    op: conv
    out_channels: [4, 8]
    stride: 2
    aggregate: [sum, mean]
    input: [{channels: 3, stride: 1}, {channels: 8, stride: global}]
  b: {op: resnet.basic, channels: 8, share: {projection: g}}
  c[1..2]: {op: resnet.basic, channels: 8, share: [{projection: g}, {}]}
  out: {op: classifier, classes: 3, dropout: 0.5}
edges:
  - {from: image, to: "a[1..2]"}
  - {connect: chain, nodes: [a1, b, ["c[1..2]"]], op: project, learnable: true, weight: 0.5}
  - {connect: random, nodes: [a1, b, out], model: er, p: 0.5, seed: 1}
  - {connect: bipartite, from: a1, to: [b], op: align, offset: 1, learnable: true, start: chain}
  - {connect: layers, nodes: ["a[1..2]", "c[1..2]"], width: 2, op: project}
  - {into: {out: [b, c1: 0.5]}}
outputs: out
"""


def test_macros_are_valid() -> None:
    assert valid(document(EXAMPLE), SCHEMA)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("topolearn: 1", "topolearn: 2"),
        ("name: example", "nome: example"),
        ("[3, 8, 8]", "[3, 8, 0]"),
        ("{image: [3, 8, 8]}", "{}"),
        ("[3, 8, 8]", "{length: 0, vocabulary: 256}"),
        ("[3, 8, 8]", "{lenght: 8, vocabulary: 256}"),
        ("[3, 8, 8]", "8"),
        ("op: conv", "op: konv"),
        ("out_channels: [4, 8]", "out_channel: [4, 8]"),
        ("classes: 3", "classes: 0"),
        ("dropout: 0.5", "dropout: 1.5"),
        ("classes: 3, ", ""),
        ("classes: 3, ", "classes: 3, channels: 3, "),
        ("aggregate: [sum, mean]", "aggregate: max"),
        ("connect: chain", "connect: line"),
        ("op: project", "op: align, affine: true"),
        ("width: 2", "width: 0"),
        ("start: chain", "start: full"),
        ("op: align, offset", "op: identity, offset"),
        ("model: er", "model: xx"),
        ("learnable: true", "learnable: 1"),
        ("{out: [b, c1: 0.5]}", "{out: b}"),
        ("outputs: out", "outputs: 3"),
    ],
)
def test_mistakes_are_not(old: str, new: str) -> None:
    assert old in EXAMPLE
    assert not valid(document(EXAMPLE.replace(old, new, 1)), SCHEMA)


def test_every_op_and_pattern_is_in_it() -> None:
    nodes = SCHEMA["properties"]["nodes"]["additionalProperties"]["anyOf"]
    assert {node["properties"]["op"]["const"] for node in nodes} == set(NODE_OPS) - {"input"}
    assert all(node["description"] for node in nodes)
    edges = SCHEMA["properties"]["edges"]["items"]["anyOf"]
    assert {edge["properties"]["op"]["const"] for edge in edges} == set(EDGE_OPS)
    connects = {edge["properties"]["connect"]["const"] for edge in edges if "connect" in edge["properties"]}
    assert connects == set(PATTERNS)


def test_it_says_what_parameters_mean_as_files_have_them() -> None:
    nodes = {
        node["properties"]["op"]["const"]: node["properties"]
        for node in SCHEMA["properties"]["nodes"]["additionalProperties"]["anyOf"]
    }
    for name, properties in nodes.items():
        for field in fields(NODE_OPS[name]):
            assert properties[field.name]["anyOf"][0]["description"] == field.text
    momentum = nodes["torchvision.backbone"]["bn_momentum"]["anyOf"][0]["description"]
    assert momentum == "Momentum of every batch normalisation; null: torchvision's."


@pytest.mark.parametrize("name", ["channels", "out_channels", "out_features"])
def test_other_names_of_widths_are_valid(name: str) -> None:
    assert valid(document(EXAMPLE.replace("classes: 3", f"{name}: 3")), SCHEMA)


def properties_of(rule: Any) -> Iterator[tuple[str, Any]]:
    """Every property that the schema has, anywhere."""
    if isinstance(rule, dict):
        properties = rule.get("properties", {})
        yield from properties.items()
        for part in (*properties.values(), *(value for key, value in rule.items() if key != "properties")):
            yield from properties_of(part)
    elif isinstance(rule, list):
        for part in rule:
            yield from properties_of(part)


def test_every_key_is_described() -> None:
    found = list(properties_of(SCHEMA))
    assert len(found) > 200
    assert not {key for key, value in found if not value.get("description")}


def test_it_is_json() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
