"""``connect: fully_dense_decoder`` against the sets of its paper, and what may be wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.test_schema import SCHEMA, document, valid
from topolearn.errors import FormatError, TopolearnError
from topolearn.format import loads
from topolearn.format.patterns import FullyDenseDecoder

TEMPLATE = """\
topolearn: 1
name: g
task: segmentation
inputs: {image: [3, 8, 8]}
nodes:
  e[1..3]: {op: conv_bn_relu, out_channels: 4, stride: [1, 2, 2]}
  g: {op: global_avg_pool}
  d[1..3]: {op: batch_norm, input: [{channels: 4, stride: 1}, {channels: 4, stride: 2}, {channels: 4, stride: 4}]}
  head: {op: segmentation_head, classes: 2}
edges:
  - {connect: chain, nodes: [image, "e[1..3]", g]}
  - {connect: fully_dense_decoder, %s}
  - {from: d1, to: head}
outputs: [head]
"""
USUAL = 'features: "e[1..3]", global: g, stages: "d[1..3]", op: conv_resize, learnable: true'


def made(stages: int) -> FullyDenseDecoder:
    given = {
        "features": tuple(f"e{i}" for i in range(1, stages + 1)),
        "global": ("g",),
        "stages": tuple(f"d{i}" for i in range(1, stages + 1)),
    }
    return FullyDenseDecoder.model_validate(given)


@given(st.integers(1, 30))
def test_every_stage_reads_all_that_is_at_least_as_deep(stages: int) -> None:
    pattern = made(stages)
    found = list(pattern.pairs())
    assert len(set(found)) == len(found) == pattern.count == stages * (stages + 1)
    for level in range(1, stages + 1):
        deeper = {f"e{i}" for i in range(level, stages + 1)} | {f"d{i}" for i in range(level + 1, stages + 1)}
        assert {src for src, dst in found if dst == f"d{level}"} == deeper | {"g"}
        assert len(deeper) + 1 == 2 * (stages - level + 1)


def test_nine_stages_have_ninety_edges() -> None:
    assert len(list(made(9).pairs())) == 90


def test_in_a_file_the_deepest_stage_comes_first() -> None:
    graph = loads(TEMPLATE % USUAL)
    learnable = [(edge.src, edge.dst) for edge in graph.edges if edge.learnable]
    assert learnable == [
        *(("e3", "d3"), ("g", "d3")),
        *(("e2", "d2"), ("e3", "d2"), ("g", "d2"), ("d3", "d2")),
        *(("e1", "d1"), ("e2", "d1"), ("e3", "d1"), ("g", "d1"), ("d3", "d1"), ("d2", "d1")),
    ]
    assert {edge.op for edge in graph.edges if edge.learnable} == {"conv_resize"}
    assert [graph.shapes[f"d{i}"] for i in (1, 2, 3)] == [graph.nodes[f"d{i}"].input for i in (1, 2, 3)]
    assert loads(graph.to_yaml()) == graph


def test_editors_know_it() -> None:
    assert valid(document(TEMPLATE % USUAL), SCHEMA)
    assert not valid(document(TEMPLATE % USUAL.replace("global: g", "global: 3")), SCHEMA)
    assert not valid(document(TEMPLATE % USUAL.replace("global: g, ", "")), SCHEMA)


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        ("global: g, ", "", "{connect", "pattern 'fully_dense_decoder' needs 'global'"),
        ("stages", "stage", "stage:", "unknown key 'stage' of pattern 'fully_dense_decoder'; did you mean 'stages'?"),
        ('"d[1..3]"', "[d2, d1]", "[d2, d1]", "but it must be as many as the features, 3"),
        ('"d[1..3]"', "[]", "[]", "should have at least 1 item, not 0"),
        ("global: g", "global: [g, e3]", "[g, e3]", "should have at most 1 item, not 2"),
        ("global: g", "global: h", "{connect", "edge h -> d3: unknown node 'h'"),
        ("global: g", "global: e3", "{connect", "edge e3 -> d3 occurs twice; keep one of them"),
        (", op: conv_resize", "", "{connect", "edge g -> d3: the source gives 4 channels at 1 x 1, but the target"),
        ("conv_resize", "conv_rezise", "conv_rezise", "unknown edge op 'conv_rezise'; did you mean 'conv_resize'?"),
        ('"e[1..3]"', "[d1, e2, e3]", "{connect", "the edges form a cycle: d1 -> d1; remove one of them"),
    ],
)
def test_what_is_wrong_with_it(old: str, new: str, at: str, message: str) -> None:
    assert USUAL.count(old) == 1
    text = TEMPLATE % USUAL.replace(old, new)
    with pytest.raises(TopolearnError) as caught:
        loads(text, "g.yaml")
    assert message in str(caught.value)
    column = text.splitlines()[11].index(at) + 1
    assert str(caught.value).startswith(f"g.yaml:12:{column}: ")


def test_a_stage_without_a_size() -> None:
    text = (TEMPLATE % USUAL).replace("  g: {", "  d3: {op: batch_norm}\n  g: {").replace("d[1..3]: {", "d[1..2]: {")
    text = text.replace(", {channels: 4, stride: 4}]", "]")
    with pytest.raises(FormatError) as caught:
        loads(text, "g.yaml")
    assert str(caught.value) == (
        "g.yaml:7:3: pattern 'fully_dense_decoder' needs the 'input' of node 'd3', such as"
        " input: {channels: 64, stride: 4}"
    )
