"""What lives and dies together, and how to be rid of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graph.test_price import block
from tests.learners.samples import complete, graph
from tests.strategies import graphs
from topolearn.graph import Edge, Graph, Node
from topolearn.graph.price import Alive, Prices, mac_prices
from topolearn.graph.units import units

Pairs = set[tuple[str, str]]


def cuts_of(searched: Graph, prices: Prices) -> tuple[dict[tuple[str | int, ...], list[Pairs]], float]:
    """Members -> cuts as pairs of ids, and the price of what is always alive."""
    found, base = units(searched, [True] * len(searched.edges), prices)
    pairs = [(edge.src, edge.dst) for edge in searched.edges]
    return {unit.members: [{pairs[i] for i in cut} for cut in unit.cuts] for unit in found}, base


def test_a_branch_of_two_nodes_is_one_unit() -> None:
    searched = block()
    prices = mac_prices(searched)
    found, base = cuts_of(searched, prices)
    assert found == {("inner", "branch"): [{("branch", "add")}]}
    assert base == searched.cost.macs - prices.nodes["inner"] - prices.nodes["branch"]


def test_nodes_of_a_complete_stage_go_by_what_reads_them() -> None:
    searched = complete(3, "conv_bn_relu")
    found, base = cuts_of(searched, mac_prices(searched))
    assert found == {
        ("n1",): [{("n1", "n2"), ("n1", "n3")}],
        ("n2",): [{("n2", "n3")}],
        ("n3", "head"): [{("image", "n3"), ("n1", "n3"), ("n2", "n3")}],  # the output: by what feeds it
    }
    assert base == 0.0


def test_edges_that_compute_something_go_alone() -> None:
    searched = graph("decoder")
    found, _ = cuts_of(searched, mac_prices(searched))
    place = {(edge.src, edge.dst): i for i, edge in enumerate(searched.edges)}
    for pair in (("e2", "d2"), ("pool", "d2"), ("e1", "d1"), ("d2", "d1")):
        assert found[(place[pair],)] == [{pair}]
    # Nothing can starve e2, so all that reads it has to go, the pool's readers among it.
    assert found["e2",] == [{("e2", "d2"), ("pool", "d2"), ("e2", "d1"), ("pool", "d1")}]


@pytest.mark.parametrize(
    ("before", "behind", "expected"),
    [
        (True, True, [{("mid", "join")}]),
        (True, False, [{("up", "mid")}]),  # what reads it over a fixed edge may live on
        (False, True, [{("mid", "join")}]),  # and so may what feeds it
        (False, False, [{("down", "join")}, {("image", "up")}]),  # one of them dies with it
    ],
)
def test_the_cut_takes_no_more_along_than_it_must(before: bool, behind: bool, expected: list[Pairs]) -> None:
    """Image - up - mid - down - join, with ways around each; mid's own edges learnable or fixed."""
    nodes = [Node("image", "input", {"size": (3, 4, 4)})]
    nodes += [Node(name, "conv", {"out_channels": 3}) for name in ("up", "mid", "down")]
    nodes += [Node("join", "relu"), Node("head", "classifier", {"classes": 3})]
    edges = [
        Edge("image", "up", learnable=True),
        Edge("up", "mid", learnable=before),
        Edge("up", "join", learnable=True),
        Edge("image", "down", learnable=True),
        Edge("mid", "join" if behind else "down", learnable=behind),
        Edge("down", "join", learnable=True),
        Edge("image", "join"),
        Edge("join", "head"),
    ]
    searched = Graph("chain", nodes, edges, ("head",)).declare_inputs().verify()
    found, _ = cuts_of(searched, mac_prices(searched))
    assert found["mid",] == expected


@given(st.data())
def test_under_every_choice_a_unit_is_all_alive_or_all_dead(data: st.DataObject) -> None:
    searched = data.draw(graphs(min_learnable=1))
    numbers = st.sampled_from([0.0, 1.0, 2.5])
    prices = Prices(
        "milliseconds",
        {name: data.draw(numbers) for name in searched.nodes},
        tuple(data.draw(numbers) for _ in searched.edges),
    )
    every = [True] * len(searched.edges)
    found, base = units(searched, every, prices)
    assert base + sum(unit.price for unit in found) == pytest.approx(Alive.of(searched, every).price(prices))
    keep = [not edge.learnable or data.draw(st.booleans()) for edge in searched.edges]
    alive = Alive.of(searched, keep)
    if set(searched.outputs) <= alive.nodes:
        there = {*alive.nodes, *alive.edges}
        left = [unit for unit in found if there & set(unit.members)]
        assert all(set(unit.members) <= there for unit in left)
        assert base + sum(unit.price for unit in left) == pytest.approx(alive.price(prices))
    for unit in found:
        for cut in unit.cuts:
            assert all(searched.edges[i].learnable for i in cut)
            alive = Alive.of(searched, [i not in cut for i in range(len(every))])
            assert not set(unit.members) & {*alive.nodes, *alive.edges}
