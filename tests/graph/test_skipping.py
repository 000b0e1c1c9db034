"""Blocks go one after another, shortcuts step in, and what is dead stays away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graph.test_price import block, chain
from tests.strategies import graphs
from topolearn import load_graph
from topolearn.format import library, loads
from topolearn.graph import Graph, KeepEdges, removables
from topolearn.graph.price import Alive, Prices, mac_prices, param_prices
from topolearn.graph.skipping import InUse

RESIDUAL = """
topolearn: 1
name: residual
inputs: {image: [4, 8, 8]}
nodes:
  f1: {op: conv_bn_relu, out_channels: 4}
  sum1: {op: relu}
  f2: {op: conv_bn_relu, out_channels: 4}
  sum2: {op: relu}
  head: {op: classifier, classes: 3}
edges:
  - {from: image, to: f1}
  - {from: image, to: sum1}
  - {from: f1, to: sum1, learnable: true}
  - {from: sum1, to: f2}
  - {from: image, to: sum2, learnable: true, weight: 0.0}
  - {from: sum1, to: sum2, learnable: true, weight: 0.0}
  - {from: f2, to: sum2, learnable: true, weight: 0.5}
  - {from: sum2, to: head}
outputs: [head]
"""
"""A branch beside a shortcut; then a block without one, which ``sum1`` could skip, or ``image`` from further away."""

CHAIN = """
topolearn: 1
name: chain
inputs: {image: [4, 8, 8]}
nodes:
  n[1..4]: {op: conv_bn_relu, out_channels: 4}
  head: {op: classifier, classes: 3}
edges:
  - {connect: complete, nodes: [image, "n[1..4]"], learnable: true, start: chain}
  - {from: n4, to: head}
outputs: [head]
"""


def edge(graph: Graph, source: str, target: str) -> int:
    return next(i for i, each in enumerate(graph.edges) if (each.src, each.dst) == (source, target))


def used(state: InUse | None) -> dict[str, float]:
    assert state is not None
    names = {i: f"{each.src} {each.dst}" for i, each in enumerate(state.graph.edges)}
    return {names[i]: weight for i, weight in enumerate(state.weights) if weight}


def test_a_branch_goes_and_its_shortcut_stays() -> None:
    graph = loads(RESIDUAL)
    whole = InUse.of(graph)
    assert [*whole.blocks()] == ["f1", "f2"]
    left = whole.less(edge(graph, "f1", "sum1"))
    assert used(left) == {"image sum1": 1, "sum1 f2": 1, "f2 sum2": 0.5, "sum2 head": 1}
    assert left is not None
    assert whole.price(mac_prices(graph)) - left.price(mac_prices(graph)) == 8 * 8 * 4 * 4 * 9


def test_where_a_block_goes_the_nearest_edge_around_it_steps_in() -> None:
    graph = loads(RESIDUAL)
    left = InUse.of(graph).less(edge(graph, "f2", "sum2"))
    assert used(left) == {"image f1": 1, "image sum1": 1, "f1 sum1": 1, "sum1 sum2": 1, "sum2 head": 1}
    assert left is not None
    further = left.less(edge(graph, "sum1", "sum2"))
    assert used(further) == {"image sum2": 1, "sum2 head": 1}
    assert further is not None
    assert further.less(edge(graph, "image", "sum2")) is None  # the last path to the output


def test_a_dead_node_never_comes_back() -> None:
    graph = loads(CHAIN)
    left = InUse.of(graph).less(edge(graph, "n3", "n4"))
    assert used(left) == {"image n1": 1, "n1 n2": 1, "n2 n4": 1, "n4 head": 1}
    assert left is not None
    left = left.less(edge(graph, "n2", "n4"))
    assert used(left) == {"image n1": 1, "n1 n4": 1, "n4 head": 1}  # not n3, which was nearer


def test_the_topology_is_closed_and_has_the_weights_in_use() -> None:
    graph = loads(RESIDUAL)
    left = InUse.of(graph).less(edge(graph, "f2", "sum2"))
    assert left is not None
    topology = left.topology()
    assert topology.close(graph) == topology
    assert topology.edge_weights() == list(left.weights)


@pytest.mark.parametrize("name", library.names("graphs"))
def test_prices_in_parameters_add_up(name: str) -> None:
    graph = load_graph(name)
    everything = Alive.of(graph, [True] * len(graph.edges))
    assert everything.price(param_prices(graph)) == graph.cost.params


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


@given(st.data())
def test_a_block_is_what_a_prune_removes(data: st.DataObject) -> None:
    graph = data.draw(graphs(min_learnable=1))
    kept = InUse.of(graph).pruned()
    for each in removables(graph):
        pruned = KeepEdges(each.after.topology())(graph)
        assert set(each.nodes) == kept.nodes.keys() - pruned.nodes.keys()
        assert kept.cost.macs - each.macs == pruned.cost.macs
        assert kept.cost.params - each.params == pruned.cost.params
        assert kept.cost.params - each.params == pruned.cost.params


def test_a_branch_of_several_nodes_goes_as_a_whole() -> None:
    (branch,) = removables(block())
    assert (branch.id, branch.nodes) == ("branch", ("inner", "branch"))
    prices = Prices("milliseconds", {"image": 0.0, "inner": 1.0, "branch": 2.0, "add": 4.0, "head": 8.0}, (0.5,) * 5)
    assert branch.price(prices) == 4.5


def test_what_an_output_needs_is_no_block() -> None:
    assert removables(chain(True, True)) == ()


def test_blocks_of_a_chain_are_its_nodes() -> None:
    found = removables(loads(CHAIN))
    assert [each.nodes for each in found] == [("n1",), ("n2",), ("n3",)]  # the head reads n4
    assert {each.macs for each in found} == {8 * 8 * 4 * 4 * 9}


def test_shared_parameters_stay_for_others() -> None:
    graph = loads(SHARED)
    one, two = removables(graph)
    assert one.params == two.params < graph.cost.nodes["a1"].params
    assert one.params == graph.cost.params - KeepEdges(one.after.topology())(graph).cost.params
