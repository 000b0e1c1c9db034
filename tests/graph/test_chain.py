"""The chain in a graph, by hand for every kind of candidate set."""

from __future__ import annotations

from topolearn.format import loads
from topolearn.graph import chain_edges

TEXT = """
topolearn: 1
name: kinds
inputs: {{image: [3, 8, 8]}}
nodes:
  a[1..3]: {{op: conv, out_channels: 4}}
  b[1..4]: {{op: relu}}
  pool: {{op: global_avg_pool}}
  c: {{op: identity, input: {{channels: 4, stride: 1}}}}
  d: {{op: identity, input: {{channels: 4, stride: 1}}}}
  out: {{op: classifier, classes: 3}}
edges:
  - {{from: image, to: "a[1..3]"}}
  - {{connect: bipartite, from: "a[1..3]", to: "b[1..4]", learnable: true}}
  - {{from: "b[1..4]", to: pool}}
  - {{from: [a1, b1, pool], to: c, op: resize, learnable: true}}
  - {{from: pool, to: d, op: resize, learnable: true}}
  - {{from: c, to: d}}
  - {{from: [c, d], to: out, learnable: {learnable}}}
outputs: [out]
"""


def chosen(learnable: str = "true") -> dict[str, str]:
    graph = loads(TEXT.format(learnable=learnable))
    found = chain_edges(graph)
    assert all(graph.edges[i].learnable and graph.edges[i].dst == node for node, i in found.items())
    return {node: graph.edges[i].src for node, i in found.items()}


def test_the_same_position_among_siblings_and_the_latest_elsewhere() -> None:
    found = chosen()
    # Four siblings have three candidates: the last one takes the last candidate, too.
    assert [found[f"b{i}"] for i in range(1, 5)] == ["a1", "a2", "a3", "a3"]
    assert found["out"] == "d"


def test_a_global_source_is_passed_over_beside_others() -> None:
    found = chosen()
    assert found["c"] == "b1"
    assert found["d"] == "pool"  # fixed edges are no candidates


def test_fixed_edges_are_no_candidates() -> None:
    assert set(chosen()) == {"b1", "b2", "b3", "b4", "c", "d", "out"}
    assert set(chosen("false")) == {"b1", "b2", "b3", "b4", "c", "d"}
