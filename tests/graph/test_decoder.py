"""The passes of SparseMask's pruning: what is merged, dropped, changed, and what is left alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import topolearn
from topolearn.format import loads
from topolearn.graph import (
    DropSubsetNodes,
    Edge,
    EliminateDead,
    FinaliseDecoder,
    FixPoint,
    Graph,
    KeepEdges,
    MergeDuplicateNodes,
    Node,
    Pass,
    Topology,
    apply_passes,
)
from topolearn.graph.decoder import decoder_stages
from topolearn.ops import Shape

STRIDES = {1: 1, 2: 2, 3: 4, 4: 8, 5: 8, 6: 8, 7: 8}
"""Of features and stages by their number."""
BOTH = (MergeDuplicateNodes(), DropSubsetNodes())
JOINT = FixPoint(BOTH)


def features() -> list[Node]:
    """Five features of an encoder, highest resolution first, and the pool of the last."""
    image = Node("image", "input", {"size": (3, 16, 16)})  # type: ignore[arg-type]
    strides = [1, 2, 2, 2, 1]
    convs = [Node(f"e{i}", "conv", {"out_channels": i, "stride": s}) for i, s in enumerate(strides, 1)]  # type: ignore[arg-type]
    return [image, *convs, Node("g", "global_avg_pool")]


def stage(name: str, **fields: object) -> Node:
    return Node(name, **{"op": "batch_norm", "input": Shape(4, STRIDES[int(name[1])]), **fields})  # type: ignore[arg-type]


def decoder(
    wiring: Mapping[str, str], heads: Mapping[str, str] | None = None, edge: Edge | None = None, **fields: object
) -> Graph:
    """A graph with these stages: id -> its sources; what no stage reads is dropped.

    Args:
        wiring: Stage -> sources, with spaces between.
        heads: Head -> the node it reads; default: ``head`` reads d1.
        edge: The in-edges' op, parameters and weight.
        fields: Of the stages.
    """
    like = edge or Edge("", "", "conv_resize")
    chain = ["image", "e1", "e2", "e3", "e4", "e5", "g"]
    edges = [Edge(src, dst) for src, dst in itertools.pairwise(chain)]
    edges += [dataclasses.replace(like, src=src, dst=dst) for dst, sources in wiring.items() for src in sources.split()]
    ends = heads or {"head": "d1"}
    edges += [Edge(src, head) for head, src in ends.items()]
    nodes = [
        *features(),
        *(stage(name, **fields) for name in wiring),
        *(Node(head, "segmentation_head", {"classes": 2}) for head in ends),  # type: ignore[arg-type]
    ]
    graph = Graph("g", nodes, tuple(edges), tuple(ends), "segmentation").declare_inputs()  # type: ignore[arg-type]
    return EliminateDead()(graph).verify()


def wiring_of(graph: Graph) -> dict[str, str]:
    """Stage -> its sources, in the order of the graph."""
    return {node: " ".join(graph.edges[i].src for i in graph.in_edges(node)) for node in decoder_stages(graph)}


def fully_dense(levels: int) -> dict[str, str]:
    """Stages that each read all that is as deep; of more than five, the deepest ones read the last feature."""
    numbers = range(levels, 0, -1)
    return {
        f"d{i}": " ".join([*(f"e{j}" for j in range(min(i, 5), 6)), "g", *(f"d{j}" for j in range(levels, i, -1))])
        for i in numbers
    }


def test_the_passes_say_that_they_change_the_function() -> None:
    for step in (MergeDuplicateNodes(), DropSubsetNodes(), FinaliseDecoder(), FixPoint(BOTH)):
        assert not step.preserves_function
        assert dataclasses.is_dataclass(step)
        assert hash(step) == hash(dataclasses.replace(step))


class TestStages:
    def test_the_deepest_comes_first_however_they_are_declared(self) -> None:
        graph = decoder({"d2": "e2", "d4": "e4", "d5": "e5", "d1": "e1 d2 d4 d5"})
        assert decoder_stages(graph) == ("d4", "d5", "d2", "d1")

    def test_an_identity_is_one_too(self) -> None:
        assert decoder_stages(decoder({"d1": "e1 g"}, op="identity")) == ("d1",)

    @pytest.mark.parametrize("op", ["relu", "conv_bn_relu"])
    def test_a_node_that_does_more_is_none(self, op: str) -> None:
        params = {"out_channels": 4} if "conv" in op else {}
        assert decoder_stages(decoder({"d1": "e1 g"}, op=op, params=params)) == ()

    def test_a_node_that_reads_in_another_way_too_is_none(self) -> None:
        graph = decoder({"d2": "e2 g", "d1": "e1 d2"})
        edges = [Edge("d2", "d1", "resize") if edge.src == "d2" else edge for edge in graph.edges]
        assert decoder_stages(graph.replace(edges=tuple(edges)).verify()) == ("d2",)

    def test_a_concatenation_is_none(self) -> None:
        graph = decoder({"d3": "e3 g", "d2": "e2 d3", "d1": "e1 d2"})
        both = Node("d2", "identity", aggregate="concat", input=Shape(6, 2))
        graph = graph.replace(nodes=[both if node.id == "d2" else node for node in graph.nodes.values()]).verify()
        assert decoder_stages(graph) == ("d3", "d1")
        assert FinaliseDecoder()(graph).verify().nodes["d2"] == both

    def test_an_output_is_none(self) -> None:
        graph = decoder({"d2": "e2 g", "d1": "e1 d2"})
        bare = EliminateDead()(graph.replace(outputs=("d1",))).verify()
        assert decoder_stages(bare) == ("d2",)


class TestMergeDuplicateNodes:
    def test_a_stage_goes_into_the_deeper_one_that_reads_the_same(self) -> None:
        graph = decoder({"d5": "e5 g", "d4": "e5 g", "d3": "e3 d4", "d2": "e2 d3", "d1": "e1 d5 d2"})
        merged = MergeDuplicateNodes()(graph).verify()
        assert wiring_of(merged) == {"d5": "e5 g", "d3": "e3 d5", "d2": "e2 d3", "d1": "e1 d5 d2"}
        assert merged.nodes["d5"] == graph.nodes["d5"]

    def test_a_reader_of_both_reads_the_deeper_once_over_the_edge_that_it_has(self) -> None:
        graph = decoder({"d5": "e5 g", "d3": "e5 g", "d1": "e1 d5 d3"})
        weights = {("d5", "d1"): 0.25, ("d3", "d1"): 0.5}
        graph = graph.replace(
            edges=tuple(dataclasses.replace(e, weight=weights.get((e.src, e.dst), 1.0)) for e in graph.edges)
        )
        merged = MergeDuplicateNodes()(graph).verify()
        assert wiring_of(merged) == {"d5": "e5 g", "d1": "e1 d5"}
        assert [e.weight for e in merged.edges if e.src == "d5"] == [0.25]

    def test_one_merger_can_make_way_for_the_next(self) -> None:
        # d4 = d5 makes d3 and d2 read the same: then d1 reads one of them.
        graph = decoder({"d5": "e5 g", "d4": "e5 g", "d3": "e4 d5", "d2": "e4 d4", "d1": "e1 d3 d2"})
        merged = MergeDuplicateNodes()(graph).verify()
        assert wiring_of(merged) == {"d5": "e5 g", "d3": "e4 d5", "d1": "e1 d3"}

    def test_never_the_last_stage(self) -> None:
        graph = decoder({"d2": "e2 g", "d1": "e2 g"}, {"head": "d1", "aside": "d2"})
        assert MergeDuplicateNodes()(graph) is graph
        # But one can go into a last one that is deeper.
        graph = decoder({"d3": "e3 g", "d2": "e3 g", "d1": "e1 d2"}, {"head": "d1", "aside": "d3"})
        assert wiring_of(MergeDuplicateNodes()(graph).verify()) == {"d3": "e3 g", "d1": "e1 d3"}

    def test_a_stage_that_a_head_reads_as_a_stage_would_is_a_last_one_too(self) -> None:
        graph = decoder({"d2": "e3 g", "d1": "e3 g"}, {"head": "d1", "aside": "d2"})
        edges = [dataclasses.replace(e, op="conv_resize") if e.dst in graph.outputs else e for e in graph.edges]
        nodes = [
            dataclasses.replace(n, input=Shape(4, 1)) if n.id in graph.outputs else n for n in graph.nodes.values()
        ]
        graph = graph.replace(nodes=nodes, edges=tuple(edges)).verify()
        assert decoder_stages(graph) == ("d2", "d1")
        assert MergeDuplicateNodes()(graph) is graph
        assert DropSubsetNodes()(graph) is graph

    def test_other_sources_are_no_duplicates(self) -> None:
        graph = decoder(fully_dense(5))
        assert MergeDuplicateNodes()(graph) is graph


class TestDropSubsetNodes:
    def test_a_deeper_stage_with_fewer_sources_and_readers_goes(self) -> None:
        graph = decoder({"d5": "e5 g", "d4": "e4 e5 g", "d2": "e2 d5 d4", "d1": "e1 d4 d2"})
        dropped = DropSubsetNodes()(graph).verify()
        assert wiring_of(dropped) == {"d4": "e4 e5 g", "d2": "e2 d4", "d1": "e1 d4 d2"}

    @pytest.mark.parametrize(
        "wiring",
        [
            {"d5": "e5 g", "d4": "e4 e5", "d2": "e2 d5 d4", "d1": "e1 d4 d2"},  # a source that the other has not
            {"d5": "e5 g", "d4": "e4 e5 g", "d2": "e2 d5 d4", "d1": "e1 d5 d2"},  # a reader that the other has not
            {"d5": "e4 e5 g", "d4": "e5 g", "d2": "e2 d5 d4", "d1": "e1 d5 d2"},  # the other way round: less deep
            {"d5": "e5 g", "d4": "e4 e5 g d5", "d1": "e1 d5 d4"},  # d4 reads d5, and not itself
            {"d5": "e5 g", "d1": "e1 e5 g d5"},
        ],
    )
    def test_all_else_stays(self, wiring: dict[str, str]) -> None:
        graph = decoder(wiring)
        assert DropSubsetNodes()(graph) is graph

    def test_never_for_a_last_stage(self) -> None:
        # d5 is read by d1 alone, as d4 is; but d4 has a head too, which a D_1 has.
        wiring = {"d5": "e5 g", "d4": "e4 e5 g", "d1": "e1 d5 d4"}
        assert wiring_of(DropSubsetNodes()(decoder(wiring)).verify()) == {"d4": "e4 e5 g", "d1": "e1 d4"}
        graph = decoder(wiring, {"head": "d1", "aside": "d4"})
        assert DropSubsetNodes()(graph) is graph
        graph = decoder(wiring, {"head": "d1", "aside": "d5"})
        assert DropSubsetNodes()(graph) is graph

    def test_of_duplicates_it_leaves_the_less_deep(self) -> None:
        graph = decoder({"d5": "e5 g", "d4": "e5 g", "d1": "e1 d5 d4"})
        assert wiring_of(DropSubsetNodes()(graph).verify()) == {"d4": "e5 g", "d1": "e1 d4"}
        assert wiring_of(apply_passes(graph, *BOTH)) == {"d5": "e5 g", "d1": "e1 d5"}

    def test_to_the_fix_point(self) -> None:
        # d3 is not in d2 while it reads d5; d5, which is in d4, goes first.
        graph = decoder({"d5": "e5", "d4": "e4 e5", "d3": "e3 d5 d4", "d2": "e2 e3 d4", "d1": "e1 d3 d2"})
        assert wiring_of(DropSubsetNodes()(graph).verify()) == {"d4": "e4 e5", "d2": "e2 e3 d4", "d1": "e1 d2"}


class TestFinaliseDecoder:
    def test_edges_lose_normalisation_and_gate_and_the_stage_normalises(self) -> None:
        graph = decoder(
            {"d2": "e2 g", "d1": "e1 d2"},
            edge=Edge("", "", "conv_resize", {"activation": "relu", "affine": True}, weight=1.7),  # type: ignore[arg-type]
            op="identity",
            aggregate="normalised",
        )
        final = FinaliseDecoder()(graph).verify()
        for name in ("d1", "d2"):
            assert final.nodes[name] == stage(name)
        for edge in final.edges:
            if edge.dst in ("d1", "d2"):
                expected = {"activation": "relu", "batch_norm": False}
                assert (edge.op, dict(edge.params), edge.weight) == ("conv_resize", expected, 1.0)
        assert wiring_of(final) == wiring_of(graph)
        convolutions = 4 * (2 + 5) + 4 * (1 + 4)
        stages, head = 2 * 2 * 4, 2 * 4 + 2
        encoder = sum(graph.cost.nodes[f"e{i}"].params for i in range(1, 6))
        assert final.cost.params == encoder + convolutions + stages + head

    def test_what_has_that_form_stays(self) -> None:
        final = FinaliseDecoder()(decoder(fully_dense(5)))
        assert FinaliseDecoder()(final) == final
        assert loads(final.to_yaml()) == final

    def test_other_nodes_and_edges_stay(self) -> None:
        graph = decoder({"d2": "e2 g", "d1": "e1 d2"}, edge=Edge("", "", "conv_resize", weight=0.5), op="relu")
        assert FinaliseDecoder()(graph) == graph

    def test_a_stage_without_scale_and_shift_gets_them(self) -> None:
        graph = decoder({"d1": "e1 g"}, params={"affine": False})
        assert FinaliseDecoder()(graph).cost.params == graph.cost.params + 2 * 4


def test_the_published_decoder_of_five_stages_is_a_fixed_point() -> None:
    graph = decoder({"d5": "e5 g", "d4": "e4 g", "d1": "e1 e4 e5 g d5 d4"})
    assert JOINT(graph) is graph


class TestFixPoint:
    WIRING: ClassVar = {
        "d7": "e5",
        "d6": "e4 e5",
        "d5": "e3 d7 d6",
        "d4": "e3 d6",
        "d3": "e2 d5",
        "d2": "g d4",
        "d1": "e1 d3 d2",
    }
    """d7, which is in d6, keeps d5 and d4 apart, which others read: when it has gone, they can be merged."""

    def test_what_is_dropped_can_make_way_for_what_is_merged(self) -> None:
        graph = decoder(self.WIRING)
        once = apply_passes(graph, *BOTH)
        assert wiring_of(once) == {
            "d6": "e4 e5",
            "d5": "e3 d6",
            "d4": "e3 d6",
            "d3": "e2 d5",
            "d2": "g d4",
            "d1": "e1 d3 d2",
        }
        assert wiring_of(JOINT(graph)) == {
            "d6": "e4 e5",
            "d5": "e3 d6",
            "d3": "e2 d5",
            "d2": "g d5",
            "d1": "e1 d3 d2",
        }

    def test_what_is_merged_can_make_way_for_what_is_dropped(self) -> None:
        # As above, but d5 and d4 made one leave d3 within d2.
        graph = decoder({**self.WIRING, "d3": "d5", "d2": "g d4"})
        assert wiring_of(JOINT(graph)) == {"d6": "e4 e5", "d5": "e3 d6", "d2": "g d5", "d1": "e1 d2"}

    @pytest.mark.parametrize("step", BOTH, ids=lambda step: type(step).__name__)
    def test_one_alone_is_at_its_fix_point_after_one_turn(self, step: Pass) -> None:
        graph = decoder(self.WIRING)
        assert FixPoint((step,))(graph) == step(graph)

    def test_without_passes_nothing_changes(self) -> None:
        graph = decoder(self.WIRING)
        assert FixPoint(())(graph) is graph


@pytest.mark.parametrize("step", [*BOTH, FinaliseDecoder()], ids=lambda step: type(step).__name__)
def test_a_graph_without_a_decoder_is_not_changed(step: Pass) -> None:
    graph = topolearn.load_graph("digits")
    assert step(graph) == graph


@st.composite
def pruned_decoders(draw: st.DrawFn) -> Graph:
    """What any choice of gates leaves of a fully dense decoder of 5 to 7 stages."""
    full = decoder(fully_dense(draw(st.integers(5, 7))))
    keep = [edge.op != "conv_resize" or draw(st.booleans()) for edge in full.edges]
    for node in ("d5", "d1"):  # a path from the deepest feature to the head
        keep[full.in_edges(node)[0]] = True
    return KeepEdges(Topology(tuple(keep), (1.0,) * len(keep)))(full).verify()


def duplicates(graph: Graph) -> list[tuple[str, str]]:
    """By the definition: a stage, and one that is less deep, not d1, and reads the same."""
    order = decoder_stages(graph)
    read = {node: {graph.edges[i].src for i in graph.in_edges(node)} for node in order}
    return [(a, b) for a, b in itertools.combinations(order, 2) if read[a] == read[b] and b != "d1"]


def contained(graph: Graph) -> list[tuple[str, str]]:
    """By the definition: a stage, and one that is less deep and has all of its sources and readers; neither is d1."""
    order = [node for node in decoder_stages(graph) if node != "d1"]
    read = {node: {edge.src for edge in graph.edges if edge.dst == node} for node in order}
    readers = {node: {edge.dst for edge in graph.edges if edge.src == node} for node in order}
    pairs = itertools.combinations(order, 2)
    return [(a, b) for a, b in pairs if read[a] <= read[b] and readers[a] <= readers[b]]


@given(pruned_decoders())
def test_each_rule_finds_all_that_it_is_for(pruned: Graph) -> None:
    merged, dropped = (step(pruned).verify() for step in BOTH)
    assert duplicates(merged) == contained(dropped) == []
    assert (merged is pruned) == (not duplicates(pruned))
    assert (dropped is pruned) == (not contained(pruned))
    for step, graph in zip(BOTH, (merged, dropped), strict=True):
        assert step(graph) is graph
        assert graph.cost.params <= pruned.cost.params


@given(pruned_decoders())
def test_together_they_leave_a_network_in_which_neither_finds_anything(pruned: Graph) -> None:
    small = JOINT(pruned).verify()
    assert duplicates(small) == contained(small) == []
    for step in (*BOTH, JOINT, EliminateDead()):  # nothing dead is left either
        assert step(small) is small
    assert {"d1"} <= set(small.nodes) <= set(pruned.nodes)
    assert small.cost.params <= pruned.cost.params
    # No feature that was read is lost.
    assert {n for n in small.nodes if n[0] in "eg"} == {n for n in pruned.nodes if n[0] in "eg"}
    final = apply_passes(small, FinaliseDecoder())
    assert wiring_of(JOINT(final)) == wiring_of(small)
