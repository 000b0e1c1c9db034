"""Passes: what they keep, what they drop, what they leave alone."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import graphs, relu_graphs, topologies
from topolearn.errors import GraphError
from topolearn.format import dumps, loads
from topolearn.graph import (
    BindFanIn,
    Edge,
    EliminateDead,
    Graph,
    KeepEdges,
    Node,
    RemoveIdleRelus,
    Topology,
    UnitWeights,
    apply_passes,
)
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


class TestRemoveIdleRelus:
    """Graphs of a stem that ends in a relu, an idle relu ``r`` over it, and what reads that."""

    @staticmethod
    def graph(*edges: Edge, stem: str = "conv_bn_relu", **nodes: Node) -> Graph:
        """``r`` reads ``stem``, ``out`` is the output; ``nodes`` replace or add to them."""
        known = {
            "stem": Node("stem", stem, {"out_channels": 3}),  # type: ignore[arg-type]
            "r": plain("r", op="relu"),
            "out": plain("out"),
        } | nodes
        given = (Edge("image", "stem"), *edges)
        used = {end for edge in given for end in (edge.src, edge.dst)}
        listed = [IMAGE, *(node for name, node in known.items() if name in used)]
        return Graph("g", listed, given, ("out",)).declare_inputs().verify()

    def removed(self, graph: Graph) -> dict[tuple[str, str], float]:
        """The weights of the edges that are left when ``r`` goes."""
        small = RemoveIdleRelus()(graph).verify()
        assert "r" not in small.nodes
        assert RemoveIdleRelus()(small) is small
        return {(edge.src, edge.dst): edge.weight for edge in small.edges if edge.src != "image"}

    def stays(self, graph: Graph) -> None:
        assert RemoveIdleRelus()(graph) is graph

    @pytest.mark.parametrize("aggregate", ["sum", "mean"])
    def test_readers_take_the_source_with_the_weights_multiplied(self, aggregate: str) -> None:
        graph = self.graph(
            Edge("stem", "r", weight=0.5),
            Edge("r", "a", weight=-3.0),
            Edge("r", "out", "align"),
            Edge("a", "out"),
            r=plain("r", op="relu", aggregate=aggregate),
            a=plain("a", op="conv", params={"out_channels": 3}),
        )
        assert self.removed(graph) == {("stem", "a"): -1.5, ("stem", "out"): 0.5, ("a", "out"): 1.0}
        assert [edge.op for edge in RemoveIdleRelus()(graph).edges if edge.dst == "out"] == ["align", "identity"]

    def test_an_edge_that_is_there_already_takes_the_weight_too(self) -> None:
        graph = self.graph(Edge("stem", "r", weight=2.0), Edge("r", "out", weight=0.25), Edge("stem", "out"))
        assert self.removed(graph) == {("stem", "out"): 1.5}

    def test_a_mean_that_divides_by_one_less_is_rescaled(self) -> None:
        edges = (Edge("stem", "r"), Edge("r", "out", weight=0.5), Edge("stem", "out"), Edge("b", "out", weight=3.0))
        extra = {"b": plain("b", op="conv", params={"out_channels": 3}), "out": plain("out", aggregate="mean")}
        graph = self.graph(*edges, Edge("stem", "b"), **extra)
        found = self.removed(graph)
        assert (found["stem", "out"], found["b", "out"]) == (1.0, 2.0)
        # An edge of weight 0 was not counted before, and is not now.
        edges = (edges[0], Edge("r", "out", weight=0.0), *edges[2:])
        found = self.removed(self.graph(*edges, Edge("stem", "b"), **extra))
        assert (found["stem", "out"], found["b", "out"]) == (1.0, 3.0)

    def test_a_chain_goes_in_one_sweep_and_makes_way_for_the_next(self) -> None:
        # r2 has two in-edges until r is gone, then one of weight 3.
        graph = self.graph(
            Edge("stem", "r"),
            Edge("r", "r2"),
            Edge("stem", "r2", weight=2.0),
            Edge("r2", "out"),
            r2=plain("r2", op="relu"),
        )
        assert self.removed(graph) == {("stem", "out"): 3.0}

    @pytest.mark.parametrize(
        ("between", "weight", "idle"),
        [
            ({"op": "identity"}, 1.0, True),
            ({"op": "max_pool", "params": {"kernel": 3, "stride": 1}}, 0.5, True),
            ({"op": "avg_pool", "params": {"kernel": 3, "stride": 1}, "aggregate": "mean"}, 1.0, True),
            ({"op": "resnet.basic", "params": {"channels": 3}}, -1.0, True),
            ({"op": "conv_bn_relu6", "params": {"out_channels": 3}}, -1.0, True),
            ({"op": "identity"}, -1.0, False),
            ({"op": "identity", "aggregate": "normalised"}, 1.0, False),
            ({"op": "conv_bn", "params": {"out_channels": 3}}, 1.0, False),
            ({"op": "resnet.basic_branch", "params": {"channels": 3}}, 1.0, False),
            ({"op": "relu_conv_bn", "params": {"out_channels": 3}}, 1.0, False),
        ],
    )
    def test_it_knows_what_is_nowhere_below_0(self, between: dict[str, object], weight: float, idle: bool) -> None:
        graph = self.graph(Edge("stem", "x", weight=weight), Edge("x", "r"), Edge("r", "out"), x=plain("x", **between))
        assert ("r" not in RemoveIdleRelus()(graph).nodes) is idle

    @pytest.mark.parametrize("edge", [Edge("stem", "x", "align"), Edge("stem", "x", "resize")])
    def test_an_edge_that_only_moves_values_keeps_them_above_0(self, edge: Edge) -> None:
        self.removed(self.graph(edge, Edge("x", "r"), Edge("r", "out"), x=plain("x")))

    @pytest.mark.parametrize(
        "into_r",
        [
            Edge("stem", "r", weight=-1.0),
            Edge("stem", "r", weight=0.0),
            Edge("stem", "r", learnable=True),
            Edge("stem", "r", "project"),
            Edge("stem", "r", "align"),
        ],
        ids=repr,
    )
    def test_one_whose_in_edge_does_more_than_pass_on_stays(self, into_r: Edge) -> None:
        self.stays(self.graph(into_r, Edge("r", "out")))

    def test_one_over_values_below_0_stays(self) -> None:
        self.stays(self.graph(Edge("stem", "r"), Edge("r", "out"), stem="conv_bn"))

    def test_one_over_a_sum_that_is_learned_stays(self) -> None:
        graph = self.graph(Edge("stem", "x", learnable=True), Edge("x", "r"), Edge("r", "out"), x=plain("x"))
        self.stays(graph)

    def test_one_over_two_edges_or_a_normalised_sum_stays(self) -> None:
        edges = (Edge("stem", "r"), Edge("r", "out"))
        self.stays(self.graph(*edges, Edge("x", "r"), Edge("stem", "x"), x=plain("x")))
        self.stays(self.graph(*edges, r=plain("r", op="relu", aggregate="normalised")))

    def test_an_output_stays(self) -> None:
        graph = self.graph(Edge("stem", "r"), Edge("r", "out"))
        self.stays(graph.replace(outputs=("r", "out")).verify())

    @pytest.mark.parametrize(
        "out_of_r",
        [
            Edge("r", "out", learnable=True),
            Edge("r", "out", "project"),
            Edge("r", "out", "conv_resize"),
        ],
        ids=repr,
    )
    def test_one_whose_out_edge_cannot_move_stays(self, out_of_r: Edge) -> None:
        self.stays(self.graph(Edge("stem", "r"), out_of_r))

    @pytest.mark.parametrize(
        "beside", [Edge("stem", "out", "align"), Edge("stem", "out", learnable=True)], ids=["other op", "learnable"]
    )
    def test_one_that_would_be_one_with_another_kind_of_edge_stays(self, beside: Edge) -> None:
        self.stays(self.graph(Edge("stem", "r"), Edge("r", "out"), beside))

    def test_a_mean_under_search_loses_none_of_its_edges(self) -> None:
        edges = [Edge("stem", "r"), Edge("r", "out"), Edge("stem", "out"), Edge("stem", "b")]
        extra = {"b": plain("b", op="conv", params={"out_channels": 3}), "out": plain("out", aggregate="mean")}
        self.stays(self.graph(*edges, Edge("b", "out", learnable=True), **extra))
        del edges[2]
        self.removed(self.graph(*edges, Edge("b", "out", learnable=True), **extra))

    def test_the_order_of_a_concat_stays(self) -> None:
        graph = self.graph(
            Edge("stem", "r"),
            Edge("r", "out"),
            Edge("stem", "b"),
            Edge("b", "out"),
            b=plain("b"),
            out=Node("out", "identity", aggregate="concat", input=Shape(6, 1)),
        )
        self.stays(graph)

    @given(relu_graphs())
    def test_random_graphs_are_valid_in_order_and_at_the_fix_point(self, graph: Graph) -> None:
        small = RemoveIdleRelus()(graph).verify()
        assert RemoveIdleRelus()(small) is small
        assert loads(dumps(small)) == small
        left = [name for name in graph.nodes if name in small.nodes]
        assert list(small.nodes) == left
        gone = set(graph.nodes) - set(left)
        assert all(graph.nodes[name].op == "relu" for name in gone)
        assert not gone & set(graph.outputs)
        assert all(small.nodes[name] == graph.nodes[name] for name in left)

    @given(graphs(max_inputs=2))
    def test_it_leaves_all_other_graphs_valid(self, graph: Graph) -> None:
        small = RemoveIdleRelus()(graph).verify()
        assert small.cost.params == graph.cost.params


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


def test_unit_weights_forget_gates_and_nothing_else() -> None:
    nodes = [IMAGE, plain("a"), plain("b"), plain("out")]
    edges = (
        Edge("image", "a", weight=-0.5),
        Edge("image", "b"),
        Edge("a", "out", learnable=True),
        Edge("b", "out", weight=2.0),
    )
    searched = Graph("g", nodes, edges, ("out",))
    # As a pruned graph has it: gates, and the divisor of a mean, are in the weights.
    pruned = searched.replace(
        edges=tuple(dataclasses.replace(edge, learnable=False, weight=edge.weight * 0.3) for edge in searched.edges)
    )
    after = UnitWeights.after_search(searched)(pruned)
    assert [edge.weight for edge in after.edges] == [-0.5, 1.0, 1.0, 2.0]
    assert {edge.weight for edge in UnitWeights()(pruned).edges} == {1.0}


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
    assert RemoveIdleRelus.preserves_function
    assert BindFanIn.preserves_function
