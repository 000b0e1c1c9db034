"""The IR: canonical order, equality, immutability, what a graph tells about itself."""

from __future__ import annotations

import dataclasses
import pickle

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import graphs
from topolearn.errors import GraphError
from topolearn.frozen import EMPTY, FrozenMap
from topolearn.graph import Edge, Graph, Node
from topolearn.ops import Shape


def image(size: tuple[int, ...] = (3, 8, 8), name: str = "image") -> Node:
    return Node(name, "input", {"size": size})


def identity(name: str, channels: int = 3, stride: int = 1) -> Node:
    return Node(name, "identity", input=Shape(channels, stride))


def diamond() -> Graph:
    nodes = [image(), identity("a"), identity("b"), identity("c")]
    edges = (Edge("image", "a"), Edge("image", "b", learnable=True), Edge("a", "c"), Edge("b", "c", learnable=True))
    return Graph("diamond", nodes, edges, ("c",))


def test_nodes_come_in_topological_order_with_ties_by_declaration() -> None:
    nodes = [identity("late"), image(), identity("b"), identity("a")]
    edges = (Edge("a", "late"), Edge("image", "b"), Edge("image", "a"), Edge("b", "late"))
    graph = Graph("g", nodes, edges, ("late",))
    assert list(graph.nodes) == ["image", "b", "a", "late"]
    assert [(e.src, e.dst) for e in graph.edges] == [("image", "b"), ("image", "a"), ("b", "late"), ("a", "late")]


def test_inputs_come_first_so_that_the_file_can_declare_them_first() -> None:
    nodes = [image(), identity("a"), image(name="second"), identity("b")]
    edges = (Edge("image", "a"), Edge("a", "b"), Edge("second", "b"))
    graph = Graph("g", nodes, edges, ("b",)).verify()
    assert list(graph.nodes) == ["image", "second", "a", "b"]
    assert graph.inputs == ("image", "second")


@given(graphs(max_inputs=2))
def test_canonical_order_is_idempotent(graph: Graph) -> None:
    again = Graph(graph.name, graph.nodes, graph.edges, graph.outputs, graph.task, graph.data)
    assert again == graph
    assert list(again.nodes) == list(graph.nodes)
    assert hash(again) == hash(graph)


@given(graphs(max_inputs=2), st.randoms(use_true_random=False))
def test_order_of_edges_as_declared_does_not_matter(graph: Graph, random: object) -> None:
    edges = list(graph.edges)
    random.shuffle(edges)  # type: ignore[attr-defined]
    assert graph.replace(edges=tuple(edges)) == graph


@given(graphs(max_inputs=2), st.randoms(use_true_random=False))
def test_any_declared_order_of_nodes_becomes_topological(graph: Graph, random: object) -> None:
    nodes = list(graph.nodes.values())
    random.shuffle(nodes)  # type: ignore[attr-defined]
    shuffled = graph.replace(nodes=nodes)
    position = {name: index for index, name in enumerate(shuffled.nodes)}
    keys = [(position[edge.dst], position[edge.src]) for edge in shuffled.edges]
    assert all(src < dst for dst, src in keys)
    assert keys == sorted(keys)
    assert set(shuffled.edges) == set(graph.edges)


@given(graphs(max_inputs=2))
def test_in_edges_stand_side_by_side(graph: Graph) -> None:
    seen = []
    for name in graph.nodes:
        indices = graph.in_edges(name)
        assert all(graph.edges[i].dst == name for i in indices)
        seen += list(indices)
    assert seen == list(range(len(graph.edges)))


def test_candidates_are_the_learnable_in_edges() -> None:
    graph = diamond()
    assert graph.candidates == {"b": (1,), "c": (3,)}
    assert graph.largest_candidate_set == 1
    fixed = graph.replace(edges=tuple(dataclasses.replace(edge, learnable=False) for edge in graph.edges))
    assert fixed.candidates == {}
    assert fixed.largest_candidate_set == 0


def test_graphs_compare_and_hash_by_content() -> None:
    assert diamond() == diamond()
    assert len({diamond(), diamond()}) == 1
    assert diamond() != diamond().replace(name="other")
    assert diamond() != diamond().replace(data="digits")
    assert diamond() != "diamond"
    weighted = diamond().replace(edges=tuple(dataclasses.replace(edge, weight=0.5) for edge in diamond().edges))
    assert weighted != diamond()


def test_the_order_of_inputs_is_part_of_the_content() -> None:
    # The first image input is the reference for sizes and costs.
    first, second = image((3, 8, 8), "a"), image((3, 8, 8), "b")
    nodes = [identity("x"), identity("y"), identity("z")]
    edges = (Edge("a", "x"), Edge("b", "y"), Edge("x", "z"), Edge("y", "z"))
    one, other = (Graph("g", [*inputs, *nodes], edges, ("z",)) for inputs in ([first, second], [second, first]))
    assert one != other


def test_nothing_in_a_graph_can_change() -> None:
    graph = diamond()
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.name = "other"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.edges[0].weight = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        graph.nodes["a"] = identity("a")  # type: ignore[index]
    params = {"size": [3, 8, 8]}
    node = Node("image", "input", params)  # type: ignore[arg-type]
    params["size"].append(1)
    assert node.params == {"size": (3, 8, 8)}


def test_duplicate_ids_are_refused_even_by_the_constructor() -> None:
    with pytest.raises(GraphError, match="duplicate id 'a'") as caught:
        Graph("g", [image(), identity("a"), identity("a")], (), ("a",))
    assert caught.value.node == "a"


def test_a_graph_survives_pickling() -> None:
    graph = diamond()
    assert pickle.loads(pickle.dumps(graph)) == graph


def test_to_networkx_carries_the_fields() -> None:
    graph = diamond()
    digraph = graph.to_networkx()
    assert digraph.graph == {"name": "diamond"}
    assert list(digraph.nodes) == list(graph.nodes)
    assert set(digraph.edges) == {(edge.src, edge.dst) for edge in graph.edges}
    assert digraph.edges["b", "c"] == {
        "op": "identity",
        "params": EMPTY,
        "learnable": True,
        "weight": 1.0,
    }
    assert digraph.nodes["a"]["input"] == Shape(3, 1)
    assert nx.is_directed_acyclic_graph(digraph)


def test_shapes_and_sizes() -> None:
    nodes = [
        image((3, 9, 12)),
        Node("down", "conv", {"out_channels": 8, "stride": 2}),
        Node("head", "classifier", {"classes": 5}),
    ]
    graph = Graph("g", nodes, (Edge("image", "down"), Edge("down", "head")), ("head",)).declare_inputs().verify()
    assert graph.image == (9, 12)
    assert graph.shapes == {"image": Shape(3, 1), "down": Shape(8, 2), "head": Shape(5, None)}
    assert graph.shapes["down"].size(graph.image) == (5, 6)  # type: ignore[union-attr]


def test_a_graph_of_vectors_has_no_image() -> None:
    nodes = [image((16,), "x"), Node("out", "linear", {"out_features": 4})]
    graph = Graph("g", nodes, (Edge("x", "out"),), ("out",)).declare_inputs().verify()
    assert graph.image == (1, 1)
    assert graph.shapes["out"] == Shape(4, None)
    assert (graph.cost.params, graph.cost.macs) == (68, 64)


def test_repr_counts() -> None:
    assert repr(diamond()) == "Graph('diamond', 4 nodes, 4 edges, 2 learnable)"


class TestFrozenMap:
    def test_holds_nothing_that_can_change(self) -> None:
        frozen = FrozenMap({"a": [1, {"b": [2]}]})
        assert frozen["a"] == (1, FrozenMap({"b": (2,)}))
        assert hash(frozen) == hash(FrozenMap({"a": (1, {"b": (2,)})}))
        assert frozen.thaw() == {"a": (1, {"b": (2,)})}

    def test_compares_by_content_with_any_mapping(self) -> None:
        assert FrozenMap({"a": 1, "b": 2}) == FrozenMap({"b": 2, "a": 1}) == {"a": 1, "b": 2}
        assert hash(FrozenMap({"a": 1, "b": 2})) == hash(FrozenMap({"b": 2, "a": 1}))
        assert FrozenMap({"a": 1}) != [("a", 1)]
        assert list(FrozenMap({"b": 2, "a": 1})) == ["b", "a"]

    def test_survives_pickling(self) -> None:
        frozen = FrozenMap({"a": {"b": (1, 2)}})
        assert pickle.loads(pickle.dumps(frozen)) == frozen
