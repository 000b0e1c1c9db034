"""Prices of nodes and edges: what a choice of edges costs, and what each edge answers for."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.learners.samples import complete, graph
from tests.strategies import graphs, topologies
from topolearn.graph import Edge, Graph, KeepEdges, Node, Topology
from topolearn.graph.price import Alive, Prices, added_elements, cheapest, edge_shares, mac_prices


def chain(*learnable: bool) -> Graph:
    """Convolutions of 2, 3, 4 … channels, one after another; which edges between them are learnable."""
    nodes = [Node("image", "input", {"size": (2, 4, 4)})]
    nodes += [Node(f"n{i}", "conv", {"out_channels": 2 + i}) for i in range(len(learnable))]
    nodes.append(Node("head", "classifier", {"classes": 3}))
    names = [node.id for node in nodes]
    edges = [Edge(a, b, learnable=on) for a, b, on in zip(names[:-1], names[1:], (*learnable, False), strict=True)]
    return Graph("chain", nodes, edges, ("head",)).declare_inputs().verify()


def block() -> Graph:
    """A residual block of single nodes: its branch hangs on one learnable edge, its shortcut is fixed."""
    nodes = [
        Node("image", "input", {"size": (4, 6, 6)}),
        Node("inner", "conv", {"out_channels": 4}),
        Node("branch", "conv", {"out_channels": 4, "kernel": 1}),
        Node("add", "relu"),
        Node("head", "classifier", {"classes": 3}),
    ]
    edges = [
        Edge("image", "inner"),
        Edge("inner", "branch"),
        Edge("branch", "add", learnable=True),
        Edge("image", "add"),
        Edge("add", "head"),
    ]
    return Graph("block", nodes, edges, ("head",)).declare_inputs().verify()


def share_of(searched: Graph, prices: Prices, keep: list[bool] | None = None) -> dict[tuple[str, str], float]:
    shares = edge_shares(searched, prices, keep or [True] * len(searched.edges))
    return {(edge.src, edge.dst): share for edge, share in zip(searched.edges, shares, strict=True)}


@pytest.mark.filterwarnings("ignore:no path from an input")
@given(st.data())
def test_the_price_of_a_choice_is_the_cost_of_the_pruned_graph(data: st.DataObject) -> None:
    searched = data.draw(graphs(min_learnable=1))
    closed = data.draw(topologies(searched)).close(searched)
    pruned = KeepEdges(closed)(searched)
    alive = Alive.of(searched, closed.keep)
    assert alive.price(mac_prices(searched)) == pruned.cost.macs
    # A concat that lost a resized source gets a node for it; image inputs stay for their size.
    assert {name for name in pruned.nodes if name in searched.nodes} - set(searched.inputs) == alive.nodes - set(
        searched.inputs
    )


def test_elements_that_edges_add_up() -> None:
    searched = chain(True, False)
    assert added_elements(searched) == (2.0 * 16, 2.0 * 16, 3.0 * 16)


def test_an_edge_that_all_hangs_on_answers_for_all() -> None:
    searched = chain(True, True, True)
    shares = share_of(searched, mac_prices(searched))
    whole = float(searched.cost.macs)
    assert shares == {
        ("image", "n0"): whole,
        ("n0", "n1"): whole,
        ("n1", "n2"): whole,
        ("n2", "head"): shares["n2", "head"],
    }


def test_fixed_edges_hand_on_what_dies() -> None:
    searched = block()
    prices = mac_prices(searched)
    shares = share_of(searched, prices)
    assert shares["branch", "add"] == prices.nodes["inner"] + prices.nodes["branch"] == 36 * (144 + 16)
    # The rest is alive whatever is learned.
    assert shares["image", "add"] == shares["add", "head"] == 0.0


def test_readers_and_feeders_share_alike() -> None:
    """A complete stage of equal nodes: image, n1, n2, n3, and the head behind n3."""
    searched = complete(3, "conv_bn_relu")
    prices = Prices("macs", dict.fromkeys(searched.nodes, 0.0) | {"n1": 6.0}, (0.0,) * len(searched.edges))
    shares = share_of(searched, prices)
    # n1 dies unless the image feeds it, and unless n2 or n3 reads it; n2 has a half of it, and hands it on.
    assert shares["image", "n1"] == 6.0
    assert shares["n1", "n2"] == shares["n1", "n3"] == 3.0
    assert shares["n2", "n3"] == 3.0
    assert shares["image", "n2"] == shares["image", "n3"] == 0.0
    weak = [edge.dst != "n2" or edge.src != "n1" for edge in searched.edges]
    left = share_of(searched, prices, weak)
    assert (left["n1", "n2"], left["n1", "n3"], left["n2", "n3"]) == (0.0, 6.0, 0.0)


@given(st.data())
def test_shares_are_never_less_than_what_the_edge_saves_alone(data: st.DataObject) -> None:
    """Where an edge is the last that keeps something alive, it answers for all of that."""
    searched = data.draw(graphs(min_learnable=1))
    keep = [True] * len(searched.edges)
    prices = mac_prices(searched)
    whole = Alive.of(searched, keep)
    shares = edge_shares(searched, prices, keep)
    for indices in searched.candidates.values():
        for i in indices:
            without = Alive.of(searched, [k != i for k in range(len(keep))])
            if set(searched.outputs) <= without.nodes and i in whole.edges:
                saved = whole.price(prices) - without.price(prices)
                assert shares[i] >= saved - 1e-9 * whole.price(prices)


@pytest.mark.parametrize("seed", range(4))
def test_cheapest_is_the_cheapest_of_all_paths(seed: int) -> None:
    searched = complete(5, "conv_bn_relu")
    prices = Prices(
        "macs",
        {name: float((5 * row + 8 * seed + row * row * seed) % 17) for row, name in enumerate(searched.nodes)},
        tuple(float((7 * i + 3 * seed) % 11) for i in range(len(searched.edges))),
    )
    place = {(edge.src, edge.dst): i for i, edge in enumerate(searched.edges)}
    between = ["n1", "n2", "n3", "n4"]
    costs = []
    for count in range(5):
        for path in itertools.combinations(between, count):
            whole = ["image", *path, "n5", "head"]
            keep = [False] * len(searched.edges)
            for pair in itertools.pairwise(whole):
                keep[place[pair]] = True
            costs.append(Alive.of(searched, keep).price(prices))
    assert Alive.of(searched, cheapest(searched, prices)).price(prices) == min(costs)


@pytest.mark.parametrize("name", ["mixed", "branches", "decoder", "digits"])
def test_the_cheapest_choice_cuts_nothing_off(name: str) -> None:
    searched = graph(name)
    keep = cheapest(searched, mac_prices(searched))
    assert set(searched.outputs) <= Alive.of(searched, keep).nodes
    assert all(keep[i] for i, edge in enumerate(searched.edges) if not edge.learnable)
    topology = Topology(tuple(keep), tuple(edge.weight for edge in searched.edges))
    assert topology.close(searched).keep == Topology(tuple(keep), topology.weights).close(searched).keep
