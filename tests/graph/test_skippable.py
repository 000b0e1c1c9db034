"""What can go from a graph, block by block: exactly what dies with it, at what it costs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graph.test_price import block, chain
from tests.strategies import graphs
from topolearn.format import loads
from topolearn.graph import Graph, KeepEdges, Topology, is_by_block, skippables
from topolearn.graph.price import Alive, Prices

SHARED = """
topolearn: 1
name: shared
inputs: {image: [4, 8, 8]}
nodes:
  a[1..2]: {op: resnext.branch, width: 2, out_channels: 6, stride: 2, share: {projection: both}}
  b: {op: identity}
  head: {op: classifier, classes: 2}
edges:
  - {from: image, to: "a[1..2]"}
  - {from: "a[1..2]", to: b, learnable: true}
  - {from: b, to: head}
outputs: [head]
"""


def left(graph: Graph, gone: str) -> Graph:
    """The graph without the edges that read a node, and without what dies with it."""
    keep = [edge.src != gone for edge in graph.edges]
    return KeepEdges(Topology.of(graph, keep, [1.0] * len(keep)))(graph)


@pytest.mark.filterwarnings("ignore:no path from an input")
@given(st.data())
def test_what_goes_is_what_a_prune_removes(data: st.DataObject) -> None:
    graph = data.draw(graphs(min_learnable=1))
    for each in skippables(graph):
        keep = [edge.src != each.id for edge in graph.edges]
        alive = Alive.of(graph, keep)
        assert set(each.nodes) == graph.nodes.keys() - alive.nodes - set(graph.inputs)
        pruned = left(graph, each.id)
        assert graph.cost.macs - each.macs == pruned.cost.macs
        assert graph.cost.params - each.params == pruned.cost.params


def test_a_branch_of_several_nodes_goes_as_a_whole() -> None:
    (branch,) = skippables(block())
    assert (branch.id, branch.nodes) == ("branch", ("inner", "branch"))
    assert [(block().edges[i].src, block().edges[i].dst) for i in branch.edges] == [
        ("image", "inner"),
        ("inner", "branch"),
        ("branch", "add"),
    ]
    prices = Prices("milliseconds", {"image": 0.0, "inner": 1.0, "branch": 2.0, "add": 4.0, "head": 8.0}, (0.5,) * 5)
    assert branch.price(prices) == 4.5
    assert is_by_block(block())


def test_what_an_output_needs_does_not_go() -> None:
    assert skippables(chain(True, True)) == ()


def test_shared_parameters_go_with_the_last_that_uses_them() -> None:
    graph = loads(SHARED)
    one, two = skippables(graph)
    assert one.params == two.params == graph.cost.params - left(graph, "a1").cost.params
    assert one.params < graph.cost.nodes["a1"].params


def test_where_a_search_chooses_among_edges_it_is_not_by_block() -> None:
    assert is_by_block(loads(SHARED))
    assert not is_by_block(loads(SHARED.replace("learnable: true", "learnable: false")))
    two = SHARED.replace("  b:", "  c: {op: identity}\n  b:").replace("from: b,", "from: [b, c],")
    assert not is_by_block(
        loads(two.replace('from: "a[1..2]", to: b', 'connect: bipartite, from: "a[1..2]", to: [b, c]'))
    )
