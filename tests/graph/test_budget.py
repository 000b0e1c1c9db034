"""What is kept under a budget: never too dear, as much as fits, and the strongest first."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.learners.samples import complete, graph
from tests.strategies import graphs
from topolearn.graph import Graph, KeepEdges
from topolearn.graph.budget import affordable, cut
from topolearn.graph.price import Alive, cheapest, mac_prices


def values_for(searched: Graph, seed: int) -> list[float]:
    numbers = random.Random(seed)
    return [numbers.uniform(0.1, 1.0) if edge.learnable else edge.weight for edge in searched.edges]


@given(st.data())
def test_fits_and_has_room_for_no_more(data: st.DataObject) -> None:
    searched = data.draw(graphs(min_learnable=1))
    prices = mac_prices(searched)
    full = Alive.of(searched, [True] * len(searched.edges)).price(prices)
    least = Alive.of(searched, cheapest(searched, prices)).price(prices)
    allowed = data.draw(st.floats(0.05, 1.0)) * full
    keep = affordable(searched, values_for(searched, data.draw(st.integers(0, 99))), prices, allowed)
    alive = Alive.of(searched, keep)
    assert set(searched.outputs) <= alive.nodes
    assert alive.price(prices) <= max(allowed, least)
    for i, kept in enumerate(keep):
        if not kept:
            trial = [*keep[:i], True, *keep[i + 1 :]]
            assert Alive.of(searched, trial).price(prices) > allowed


@pytest.mark.parametrize("share", [0.35, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("name", ["digits", "toponet6-sepconv-cifar100", "resnet20-cifar100"])
def test_within_one_node_of_the_budget(name: str, share: float) -> None:
    searched = graph(name)
    prices = mac_prices(searched)
    dearest = max(price for name, price in prices.nodes.items() if name != "stem" and not name.endswith("_in"))
    for seed in range(3):
        allowed = share * searched.cost.macs
        topology = cut(searched, values_for(searched, seed), prices, allowed, 0.05)
        assert topology.close(searched) == topology
        macs = KeepEdges(topology)(searched).cost.macs
        assert allowed - dearest < macs <= allowed


def test_the_weak_go_and_what_still_fits_comes_back() -> None:
    """Image, n1 … n4, head: n4 reads all; n2 is read weakly, n3 more weakly, both by n4 alone."""
    searched = complete(4, "conv_bn_relu")
    strong = {("image", "n1"), ("n1", "n4"), ("image", "n4"), ("image", "n2"), ("image", "n3")}
    values = [1.0 if (e.src, e.dst) in strong or not e.learnable else 0.0 for e in searched.edges]
    place = {(e.src, e.dst): i for i, e in enumerate(searched.edges)}
    values[place["n2", "n4"]], values[place["n3", "n4"]] = 0.4, 0.3
    prices = mac_prices(searched)
    node = prices.nodes["n1"]
    full = Alive.of(searched, [value != 0.0 for value in values]).price(prices)
    for room, expected in ((0, {"n1", "n2", "n3"}), (1, {"n1", "n2"}), (2, {"n1"}), (3, set())):
        keep = affordable(searched, values, prices, full - room * node)
        assert Alive.of(searched, keep).nodes & {"n1", "n2", "n3"} == expected


def test_weak_edges_go_where_nothing_hangs_on_them() -> None:
    searched = complete(3, "conv_bn_relu")
    place = {(e.src, e.dst): i for i, e in enumerate(searched.edges)}
    values = [1.0] * len(searched.edges)
    values[place["image", "n3"]] = 0.01  # spare
    values[place["image", "n2"]] = values[place["n1", "n2"]] = 1.0
    values[place["n2", "n3"]] = 0.01  # the only reader of n2
    topology = cut(searched, values, mac_prices(searched), float(searched.cost.macs), 0.05)
    dropped = {(e.src, e.dst) for e, kept in zip(searched.edges, topology.keep, strict=True) if not kept}
    assert dropped == {("image", "n3")}


def test_where_all_is_cut_off_the_cheapest_path_stays() -> None:
    searched = complete(3, "conv_bn_relu")
    values = [0.0 if edge.learnable else 1.0 for edge in searched.edges]
    topology = cut(searched, values, mac_prices(searched), 0.0, 0.05)
    kept = [edge for edge, keep in zip(searched.edges, topology.keep, strict=True) if keep]
    assert [(edge.src, edge.dst) for edge in kept] == [("image", "n3"), ("n3", "head")]
    assert all(topology.weights[i] == 1.0 for i, keep in enumerate(topology.keep) if keep)
