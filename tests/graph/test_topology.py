"""Closed topologies: cascade, strongest path, rescaled means."""

from __future__ import annotations

import math
import warnings

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import graphs, topologies
from topolearn.errors import GraphError
from topolearn.graph import Edge, Graph, Node, Topology
from topolearn.ops import Shape


def plain(name: str, aggregate: str = "sum") -> Node:
    return Node(name, "identity", {}, aggregate, Shape(3, 1))


def graph(pairs: str, learnable: str = "", outputs: str = "z", aggregate: str = "sum") -> Graph:
    """A graph over one-letter nodes; i is the image. ``learnable`` lists pairs that are."""
    names = sorted({letter for pair in pairs.split() for letter in pair} - {"i"})
    nodes = [Node("i", "input", {"size": (3, 8, 8)}), *(plain(name, aggregate) for name in names)]
    edges = tuple(Edge(pair[0], pair[1], learnable=pair in learnable.split()) for pair in pairs.split())
    return Graph("g", nodes, edges, tuple(outputs)).verify()


def topology(graph: Graph, keep: str, **weights: float) -> Topology:
    """Keeps the listed pairs; weights are 1 unless given by pair."""
    pairs = [edge.src + edge.dst for edge in graph.edges]
    return Topology(tuple(pair in keep.split() for pair in pairs), tuple(weights.get(pair, 1.0) for pair in pairs))


def kept(graph: Graph, topology: Topology) -> str:
    return " ".join(edge.src + edge.dst for edge, keep in zip(graph.edges, topology.keep, strict=True) if keep)


class TestCascade:
    def test_what_an_inactive_node_sends_is_dropped(self) -> None:
        chain = graph("ia ab bc cz iz", "ia iz")
        closed = topology(chain, "ab bc cz iz").close(chain)
        assert kept(chain, closed) == "iz"

    def test_a_node_with_another_active_in_edge_stays(self) -> None:
        made = graph("ia ab ib bz", "ia")
        assert kept(made, topology(made, "ab ib bz").close(made)) == "ib bz"

    def test_dead_ends_stay(self) -> None:
        # A node nobody reads changes nothing; only `eliminate_dead` removes it.
        made = graph("ia ib az bz", "bz")
        assert kept(made, topology(made, "ia ib az").close(made)) == "ia ib az"

    def test_weights_stay(self) -> None:
        made = graph("ia ib az bz", "bz")
        closed = topology(made, "ia ib az", az=0.5, bz=7.0).close(made)
        assert closed.weights == (1.0, 1.0, 0.5, 7.0)
        assert closed.edge_weights() == [1.0, 1.0, 0.5, 0.0]

    @given(st.data())
    def test_closing_drops_exactly_what_cannot_be_reached_and_is_idempotent(self, data: st.DataObject) -> None:
        made = data.draw(graphs(max_inputs=2))
        chosen = data.draw(topologies(made))
        before = _reached(made, chosen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            closed = chosen.close(made)
        reachable = [keep and edge.src in before for edge, keep in zip(made.edges, chosen.keep, strict=True)]
        if set(made.outputs) <= before:
            assert list(closed.keep) == reachable
        else:
            assert all(kept >= was for kept, was in zip(closed.keep, reachable, strict=True))
        after = _reached(made, closed)
        assert set(made.outputs) <= after
        assert all(edge.src in after for edge, keep in zip(made.edges, closed.keep, strict=True) if keep)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert closed.close(made) == closed


def _reached(graph: Graph, topology: Topology) -> set[str]:
    """Nodes with a path from an input over kept edges, by the fix-point."""
    reached = set(graph.inputs)
    while True:
        more = {e.dst for e, keep in zip(graph.edges, topology.keep, strict=True) if keep and e.src in reached}
        if more <= reached:
            return reached
        reached |= more


class TestStrongestPath:
    def test_it_is_kept_with_a_warning(self) -> None:
        made = graph("ia ib az bz", "ia ib az bz")
        with pytest.warns(
            UserWarning, match="no path from an input to 'z' is left; keeping the strongest: i -> b -> z"
        ):
            closed = topology(made, "", ia=0.9, az=0.1, ib=0.5, bz=-0.4).close(made)
        assert kept(made, closed) == "ib bz"
        assert closed.edge_weights() == [0.0, 0.5, 0.0, -0.4]

    def test_fixed_edges_are_no_weak_link(self) -> None:
        made = graph("ia ib az bz", "az bz")
        with pytest.warns(UserWarning, match="i -> b -> z"):
            topology(made, "ia ib", ia=0.001, az=0.1, ib=0.001, bz=0.2).close(made)

    def test_an_edge_of_weight_zero_gets_the_graph_s_weight(self) -> None:
        made = graph("ia az", "az")
        made = made.replace(edges=(made.edges[0], Edge("a", "z", learnable=True, weight=0.25)))
        with pytest.warns(UserWarning, match="keeping the strongest"):
            assert topology(made, "ia", az=0.0).close(made).weights == (1.0, 0.25)

    def test_only_the_output_that_is_cut_off_is_mended(self) -> None:
        made = graph("ia iy iz az", "ia iy iz az", outputs="yz")
        with pytest.warns(UserWarning, match="to 'z' is left") as caught:
            closed = topology(made, "iy", iz=0.2, ia=0.1).close(made)
        assert len(caught) == 1
        assert kept(made, closed) == "iy iz"

    @given(st.data())
    def test_it_is_the_path_whose_weakest_link_is_strongest(self, data: st.DataObject) -> None:
        made = data.draw(graphs(min_learnable=1, max_inputs=2))
        strength = st.sampled_from([0.1, 0.2, -0.3, 0.4, -0.5, 0.6])
        weights = tuple(data.draw(strength) if edge.learnable else 1.0 for edge in made.edges)
        chosen = Topology(tuple(not edge.learnable for edge in made.edges), weights)
        cut_off = set(made.outputs) - _reached(made, chosen)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            closed = chosen.close(made)
        assert set(made.outputs) <= _reached(made, closed)
        if len(cut_off) != 1:
            return
        brought_back = [
            abs(weight)
            for edge, weight, keep in zip(made.edges, weights, closed.keep, strict=True)
            if keep and edge.learnable
        ]
        digraph = made.to_networkx()
        of_edge = {
            (edge.src, edge.dst): abs(weight) if edge.learnable else math.inf
            for edge, weight in zip(made.edges, weights, strict=True)
        }
        (output,) = cut_off
        best = max(
            min(of_edge[pair] for pair in path)
            for source in made.inputs
            for path in nx.all_simple_edge_paths(digraph, source, output)
        )
        assert min(brought_back) == best


class TestMean:
    def test_the_weights_of_kept_edges_are_rescaled_by_k_over_n(self) -> None:
        made = graph("ia ib ic az bz cz iz", "az bz cz", aggregate="mean")
        chosen = topology(made, "ia ib ic az iz")
        scaled = Topology.of(made, chosen.keep, chosen.weights)
        assert dict(zip(["ia", "ib", "ic", "iz", "az", "bz", "cz"], scaled.edge_weights(), strict=True)) == {
            "ia": 1.0,
            "ib": 1.0,
            "ic": 1.0,
            "az": 0.5,
            "iz": 0.5,
            "bz": 0.0,
            "cz": 0.0,
        }

    def test_n_is_the_number_of_edges_that_were_active_during_the_search(self) -> None:
        made = graph("ia ib ic az bz cz", "az bz cz", aggregate="mean")
        chosen = topology(made, "ia ib ic az")
        active = [True, True, True, True, True, False]
        assert Topology.of(made, chosen.keep, chosen.weights, active).edge_weights()[3] == 0.5
        assert Topology.of(made, chosen.keep, chosen.weights, chosen.keep).edge_weights()[3] == 1.0

    def test_a_kept_edge_of_weight_zero_is_not_counted(self) -> None:
        # What is left divides by its non-zero weights: 1 of 2.
        made = graph("ia ib az bz", "az bz", aggregate="mean")
        chosen = topology(made, "ia ib az bz", bz=0.0)
        assert Topology.of(made, chosen.keep, chosen.weights).edge_weights()[2:] == [0.5, 0.0]

    def test_it_counts_what_the_cascade_leaves(self) -> None:
        made = graph("ia ib az bz", "ia", aggregate="mean")
        chosen = topology(made, "ib az bz")
        assert Topology.of(made, chosen.keep, chosen.weights).edge_weights() == [0.0, 1.0, 0.0, 0.5]

    def test_other_aggregates_keep_their_weights(self) -> None:
        for aggregate in ("sum", "normalised"):
            made = graph("ia ib az bz", "az bz", aggregate=aggregate)
            chosen = topology(made, "ia ib az", az=0.3)
            assert Topology.of(made, chosen.keep, chosen.weights).edge_weights()[2] == 0.3


def test_a_topology_of_another_graph_is_refused() -> None:
    made = graph("ia az")
    with pytest.raises(GraphError, match="a topology of 3 edges does not fit a graph of 2"):
        Topology((True,) * 3, (1.0,) * 3).close(made)
    with pytest.raises(GraphError, match=r"as many weights \(2\) as edges \(3\)"):
        Topology((True,) * 3, (1.0,) * 2)
