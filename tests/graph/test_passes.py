"""Passes: what they keep, what they drop, what they leave alone."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import graphs, topologies
from topolearn.errors import GraphError
from topolearn.format import dumps, loads
from topolearn.graph import BindFanIn, Edge, EliminateDead, Graph, KeepEdges, Node, Topology, apply_passes
from topolearn.ops import Shape

IMAGE = Node("image", "input", {"size": (3, 8, 8)})


def plain(name: str, **fields: object) -> Node:
    return Node(name, **{"op": "identity", "input": Shape(3, 1), **fields})  # type: ignore[arg-type]


def keep(graph: Graph, *dropped: tuple[str, str]) -> Topology:
    """The topology that drops the given edges and keeps the graph's weights."""
    return Topology(
        tuple((edge.src, edge.dst) not in dropped for edge in graph.edges), tuple(e.weight for e in graph.edges)
    )


class TestKeepEdges:
    def test_kept_edges_become_fixed_with_their_weights(self) -> None:
        edges = (
            Edge("image", "a"),
            Edge("image", "b"),
            Edge("a", "out", learnable=True),
            Edge("b", "out", learnable=True),
        )
        graph = Graph("g", [IMAGE, plain("a"), plain("b"), plain("out")], edges, ("out",)).verify()
        topology = Topology((True, True, True, False), (1.0, 1.0, 0.25, 9.0))
        small = KeepEdges(topology)(graph).verify()
        assert list(small.nodes) == ["image", "a", "out"]
        assert small.edges == (Edge("image", "a"), Edge("a", "out", weight=0.25))

    def test_declared_inputs_stay_when_the_source_of_that_shape_goes(self) -> None:
        nodes = [IMAGE, Node("wide", "conv", {"out_channels": 8}), Node("out", "identity")]
        edges = (
            Edge("image", "wide"),
            Edge("image", "out", "align", learnable=True),
            Edge("wide", "out", "align", learnable=True),
        )
        graph = Graph("g", nodes, edges, ("out",)).declare_inputs().verify()
        small = KeepEdges(keep(graph, ("wide", "out")))(graph).verify()
        assert small.nodes["out"].input == Shape(8, 1)

    @given(st.data())
    def test_the_result_is_valid_fixed_in_order_and_round_trips(self, data: st.DataObject) -> None:
        graph = data.draw(graphs(max_inputs=2))
        topology = data.draw(topologies(graph))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = KeepEdges(topology)(graph).verify()
            closed = topology.close(graph)
        assert not small.candidates
        assert loads(dumps(small)) == small
        order = list(graph.nodes)
        survivors = [name for name in small.nodes if name in graph.nodes]
        assert survivors == sorted(survivors, key=order.index)
        weights = {
            (edge.src, edge.dst): weight
            for edge, weight, kept in zip(graph.edges, closed.weights, closed.keep, strict=True)
            if kept
        }
        for edge in small.edges:
            if edge.src in graph.nodes and edge.dst in graph.nodes:
                assert edge.weight == weights[edge.src, edge.dst]
        for node in small.nodes.values():
            if node.id in graph.nodes:
                assert node.input == graph.nodes[node.id].input
                assert small.shapes[node.id] == graph.shapes[node.id]

    @given(graphs(max_inputs=2))
    def test_keeping_everything_only_fixes_the_edges(self, graph: Graph) -> None:
        fixed = graph.replace(edges=tuple(dataclasses.replace(edge, learnable=False) for edge in graph.edges))
        assert KeepEdges(keep(graph))(graph) == fixed

    @given(st.data())
    def test_pruning_never_adds_parameters(self, data: st.DataObject) -> None:
        graph = data.draw(graphs(max_inputs=2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = KeepEdges(data.draw(topologies(graph)))(graph).verify()
        assert small.cost.params <= graph.cost.params
        assert small.cost.macs <= graph.cost.macs


class TestConcatThatLosesASource:
    @staticmethod
    def graph(op: str = "concat", **params: object) -> Graph:
        nodes = [
            IMAGE,
            Node("a", "conv", {"out_channels": 2}),
            Node("b", "conv", {"out_channels": 4}),
            Node("c", "conv", {"out_channels": 3, "stride": 2}),
            Node("out", op, params, aggregate="concat", input=Shape(9, 1)),
        ]
        edges = (
            Edge("image", "a", learnable=True),
            Edge("image", "b", learnable=True),
            Edge("image", "c", learnable=True),
            Edge("a", "out", weight=0.5),
            Edge("b", "out"),
            Edge("c", "out", "resize", {"mode": "nearest"}, weight=2.0),  # type: ignore[arg-type]
        )
        return Graph("g", nodes, edges, ("out",)).declare_inputs().verify()

    def test_it_becomes_a_sum_of_edges_at_their_channel_offsets(self) -> None:
        graph = self.graph()
        small = KeepEdges(keep(graph, ("image", "a")))(graph).verify()
        assert small.nodes["out"] == Node("out", "identity", input=Shape(9, 1))
        assert small.nodes["c_to_out"] == Node("c_to_out", "identity", input=Shape(3, 1))
        assert small.edges[2:] == (
            Edge("c", "c_to_out", "resize", {"mode": "nearest"}),  # type: ignore[arg-type]
            Edge("b", "out", "align", {"offset": 2}),  # type: ignore[arg-type]
            Edge("c_to_out", "out", "align", {"offset": 6}, weight=2.0),  # type: ignore[arg-type]
        )
        assert loads(dumps(small)) == small

    def test_another_op_keeps_its_transform(self) -> None:
        graph = self.graph("conv", out_channels=5)
        small = KeepEdges(keep(graph, ("image", "c")))(graph).verify()
        assert small.nodes["out"] == Node("out", "conv", {"out_channels": 5}, input=Shape(9, 1))  # type: ignore[arg-type]
        assert [edge.params.get("offset") for edge in small.edges[2:]] == [0, 2]
        assert small.edges[2].weight == 0.5

    def test_one_that_loses_nothing_stays_a_concat(self) -> None:
        graph = self.graph()
        small = KeepEdges(keep(graph))(graph).verify()
        assert small.nodes["out"].aggregate == "concat"

    def test_the_names_of_added_nodes_are_free(self) -> None:
        graph = self.graph()
        nodes = [dataclasses.replace(node, id="c_to_out") if node.id == "a" else node for node in graph.nodes.values()]
        edges = tuple(
            dataclasses.replace(e, src="c_to_out" if e.src == "a" else e.src, dst="c_to_out" if e.dst == "a" else e.dst)
            for e in graph.edges
        )
        graph = graph.replace(nodes=nodes, edges=edges).verify()
        small = KeepEdges(keep(graph, ("image", "b")))(graph).verify()
        assert {"c_to_out", "c_to_out_"} <= set(small.nodes)


class TestEliminateDead:
    def test_both_directions_to_the_fix_point(self) -> None:
        names = ["a", "b", "c", "d", "out"]
        # a -> b leads nowhere; c -> d starts nowhere.
        edges = (Edge("image", "out"), Edge("image", "a"), Edge("a", "b"), Edge("c", "d"), Edge("d", "out"))
        graph = Graph("g", [IMAGE, *map(plain, names)], edges, ("out",))
        small = EliminateDead()(graph).verify()
        assert list(small.nodes) == ["image", "out"]
        assert small.edges == (Edge("image", "out"),)

    def test_an_input_that_nothing_reads_goes_too_unless_strides_are_relative_to_it(self) -> None:
        half = Node("half", "input", {"size": (3, 4, 4)})  # type: ignore[arg-type]
        nodes = [IMAGE, half, plain("a"), plain("out")]
        edges = (Edge("image", "out"), Edge("half", "a", "resize"))
        assert EliminateDead()(Graph("g", nodes, edges, ("out",)).declare_inputs()).verify().inputs == ("image",)
        edges = (Edge("half", "out", "resize"), Edge("image", "a"))
        small = EliminateDead()(Graph("g", nodes, edges, ("out",)).declare_inputs()).verify()
        assert list(small.nodes) == ["image", "half", "out"]
        assert small.shapes["half"] == Shape(3, 2)

    @given(graphs(max_inputs=2))
    def test_a_valid_graph_is_returned_as_it_is(self, graph: Graph) -> None:
        assert EliminateDead()(graph) is graph

    def test_an_output_that_is_cut_off_is_an_error(self) -> None:
        graph = Graph("g", [IMAGE, plain("a"), plain("out")], (Edge("a", "out"),), ("out",))
        with pytest.raises(GraphError, match="no path from an input to the output 'out' is left"):
            EliminateDead()(graph)


class TestBindFanIn:
    @staticmethod
    def graph(learnable: bool = True) -> Graph:
        branch = {"width": 2, "out_channels": 3, "residual_scale": "fan_in"}
        nodes = [IMAGE, *(Node(f"b{i}", "resnext.branch", branch) for i in range(3)), plain("out")]  # type: ignore[arg-type]
        edges = (
            *(Edge("image", f"b{i}") for i in range(3)),
            *(Edge(f"b{i}", "out", learnable=learnable) for i in range(3)),
        )
        return Graph("g", nodes, edges, ("out",)).declare_inputs().verify()

    @pytest.mark.parametrize(("fan_in", "scale"), [(None, 3.0), (2, 2.0), (7, 3.0)])
    def test_the_scale_is_the_fan_in_within_the_largest_candidate_set(self, fan_in: int | None, scale: float) -> None:
        bound = BindFanIn(fan_in)(self.graph()).verify()
        assert [bound.nodes[f"b{i}"].params["residual_scale"] for i in range(3)] == [scale] * 3

    def test_without_candidates_it_is_the_largest_fan_in(self) -> None:
        assert BindFanIn()(self.graph(learnable=False)).nodes["b0"].params["residual_scale"] == 3.0

    @given(graphs())
    def test_a_graph_without_the_symbol_is_returned_as_it_is(self, graph: Graph) -> None:
        assert BindFanIn(2)(graph) is graph


def test_passes_are_verified_one_by_one() -> None:
    @dataclasses.dataclass(frozen=True)
    class Break(EliminateDead):
        def __call__(self, graph: Graph) -> Graph:
            return graph.replace(outputs=("nowhere",))

    graph = Graph("g", [IMAGE, plain("out")], (Edge("image", "out"),), ("out",))
    assert apply_passes(graph, EliminateDead(), BindFanIn()) == graph
    with pytest.raises(GraphError, match="unknown output 'nowhere'"):
        apply_passes(graph, Break(), EliminateDead())


def test_passes_state_whether_they_preserve_the_function() -> None:
    assert KeepEdges.preserves_function
    assert EliminateDead.preserves_function
    assert BindFanIn.preserves_function
