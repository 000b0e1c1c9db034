"""Removing edges: the weakest first, never the last path, and no more than it takes."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import graphs
from topolearn.graph import Edge, Graph, Node, Topology, removal_order, without
from topolearn.graph.price import Alive
from topolearn.graph.removal import removable, removed_at, removed_share, strengths
from topolearn.ops import Shape


def graph(pairs: str, fixed: str = "", outputs: str = "z", aggregate: str = "sum") -> Graph:
    """A graph over one-letter nodes; i is the image. ``fixed`` lists the pairs that are not learnable."""
    names = sorted({letter for pair in pairs.split() for letter in pair} - {"i"})
    nodes = [Node(name, "identity", {}, aggregate, Shape(3, 1)) for name in names]
    edges = tuple(Edge(pair[0], pair[1], learnable=pair not in fixed.split()) for pair in pairs.split())
    return Graph("g", [Node("i", "input", {"size": (3, 8, 8)}), *nodes], edges, tuple(outputs)).verify()


def names(graph: Graph, places: tuple[int, ...]) -> str:
    return " ".join(graph.edges[i].src + graph.edges[i].dst for i in places)


def values(graph: Graph, **given: float) -> list[float]:
    """1 unless given by pair."""
    return [given.get(edge.src + edge.dst, 1.0) for edge in graph.edges]


def order(graph: Graph, pairs: str) -> tuple[int, ...]:
    place = {edge.src + edge.dst: i for i, edge in enumerate(graph.edges)}
    return tuple(place[pair] for pair in pairs.split())


class TestOrder:
    def test_values_compare_within_a_target(self) -> None:
        made = graph("ia ib az bz")
        # Twice as much into z tells nothing about what goes into a.
        assert names(made, removal_order(made, values(made, ia=0.1, ib=-0.1, az=2.0, bz=0.5))) == "bz az ib ia"

    def test_magnitudes_count(self) -> None:
        made = graph("ia ib ic az bz cz")
        assert names(made, removal_order(made, values(made, az=-3.0, bz=1.0, cz=-2.0)))[:5] == "bz cz"

    def test_fixed_edges_are_compared_with_but_stay(self) -> None:
        made = graph("ia ib az bz", fixed="ia ib bz")
        assert strengths(made, values(made, az=0.5, bz=-2.0)) == {order(made, "az")[0]: 0.25}
        assert names(made, removal_order(made, values(made))) == "az"

    def test_a_target_without_any_weight(self) -> None:
        made = graph("ia az iz")
        assert strengths(made, values(made, az=0.0, iz=0.0))[order(made, "az")[0]] == 0.0


class TestWithout:
    def test_what_is_removed_and_what_is_0_goes_with_what_it_fed(self) -> None:
        made = graph("ia ib ac bz cz iz")
        left = without(made, values(made, bz=0.0, iz=0.5), order(made, "ia"))
        kept = tuple(i for i, keep in enumerate(left.keep) if keep)
        assert names(made, kept) == "ib iz"
        assert left.weights[order(made, "iz")[0]] == 0.5

    def test_a_mean_still_divides_by_what_it_searched_with(self) -> None:
        made = graph("ia ib ic az bz cz", aggregate="mean")
        left = without(made, values(made, az=2.0), order(made, "cz"))
        # 2a/3 + b/3 is (4/3 a + 2/3 b) / 2.
        assert [left.weights[i] for i in order(made, "az bz")] == pytest.approx([4 / 3, 2 / 3])


class TestRemovable:
    def test_the_last_path_stays_and_others_go_on(self) -> None:
        made = graph("ia ib az bz")
        # Without ia, az and bz are what is left to go, but ib and bz are the last path then.
        assert names(made, removable(made, [True] * 4, order(made, "ia bz ib az"))) == "ia az"

    def test_every_output_keeps_one(self) -> None:
        made = graph("iy iz az ia ay", outputs="yz")
        gone = removable(made, [True] * 5, order(made, "iy az ay iz ia"))
        assert names(made, gone) == "iy az"

    def test_edges_that_are_gone_make_no_path(self) -> None:
        made = graph("ia ib az bz")
        keep = [i not in order(made, "az") for i in range(4)]
        assert removable(made, keep, order(made, "ib bz")) == ()

    @given(st.data())
    def test_each_edge_that_can_go_goes_in_turn(self, data: st.DataObject) -> None:
        made = data.draw(graphs(max_inputs=2))
        edges = data.draw(st.permutations([i for group in made.candidates.values() for i in group]))
        keep, gone = [True] * len(made.edges), []
        for i in edges:  # one by one: slow and obvious
            keep[i] = False
            if set(made.outputs) <= Alive.of(made, keep).nodes:
                gone.append(i)
            else:
                keep[i] = True
        assert removable(made, [True] * len(made.edges), edges) == tuple(gone)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Topology(tuple(keep), (1.0,) * len(keep)).close(made)


class TestShares:
    def test_edges_of_dead_nodes_are_gone_too(self) -> None:
        made = graph("ia ab bz iz", fixed="iz")
        assert removed_share(made, [True] * 4) == 0.0
        keep = [i not in order(made, "ab") for i in range(4)]
        assert removed_share(made, keep) == 1.0  # a is read by nobody, b is fed by none

    def test_the_fewest_that_are_enough(self) -> None:
        made = graph("ia ib ic id az bz cz dz iz", fixed="iz")
        whole, edges = [True] * 9, order(made, "ia bz ic id ib az cz dz")
        # Each takes the other edge of its node along: 2 of 8.
        assert [len(removed_at(made, whole, edges, share)) for share in (0.0, 0.1, 0.25, 0.26, 0.5, 1.0)] == [
            0, 1, 1, 2, 2, 4,
        ]  # fmt: skip

    def test_all_of_an_order_where_that_is_not_enough(self) -> None:
        made = graph("ia ib az bz")
        edges = order(made, "ia az")
        assert removed_at(made, [True] * 4, edges, 0.5) == order(made, "ia")
        assert removed_share(made, [False, True, True, True]) == 0.5
        assert removed_at(made, [True] * 4, edges, 0.9) == edges

    def test_thirds_are_thirds(self) -> None:
        made = graph("iz ia ib az bz", fixed="ia ib")
        assert len(removed_at(made, [True] * 5, order(made, "az bz iz"), 2 / 3)) == 2
        assert len(removed_at(made, [True] * 5, order(made, "az bz iz"), 1 / 3)) == 1
