"""Counts of a whole graph: shared parts, repeated edges, the numbers that papers give."""

from __future__ import annotations

from hypothesis import given

import topolearn
from tests.strategies import graphs
from topolearn.graph import Edge, Graph, KeepEdges, Node, Topology, apply_passes, one_level_params
from topolearn.ops import Cost


def test_resnet38_has_the_paper_s_parameters() -> None:
    graph = topolearn.load_graph("resnet38-cifar100")
    assert graph.cost.params == 567_220
    assert len(graph.nodes) == 21
    assert len(graph.edges) == 156
    assert sum(edge.learnable for edge in graph.edges) == 18 * 17 // 2
    # Stem; six blocks of two 3x3 convolutions per stage, the first of a stage from half the channels; classifier.
    stem = 9 * 3 * 16 * 32 * 32
    first = 12 * 9 * 16 * 16 * 32 * 32
    second = (9 * 16 * 32 + 11 * 9 * 32 * 32) * 16 * 16
    third = (9 * 32 * 64 + 11 * 9 * 64 * 64) * 8 * 8
    # Block 7's in-edges arrive with 16 channels, as declared by its sources; likewise block 13's with 32.
    assert graph.cost.macs == stem + first + second + third + 64 * 100


@given(graphs(max_inputs=2))
def test_the_whole_is_the_sum_of_its_parts_but_for_shared_ones(graph: Graph) -> None:
    cost = graph.cost
    parts = [*cost.nodes.values(), *cost.edges]
    assert set(cost.nodes) == set(graph.nodes)
    assert len(cost.edges) == len(graph.edges)
    assert cost.macs == sum(part.macs for part in parts)
    seen: set[str] = set()
    repeated = 0
    for node in graph.nodes.values():
        for part, group in node.share.items():
            if group in seen:
                repeated += node.rule.part_cost(part, node.input, graph.image).params  # type: ignore[arg-type]
            seen.add(group)
    assert cost.params == sum(part.params for part in parts) - repeated


def shared(*groups: str | None) -> Graph:
    """One block per group on an image of 3 x 8 x 8, each with a projection from 3 to 4 channels."""
    nodes = [Node("image", "input", {"size": (3, 8, 8)})]  # type: ignore[arg-type]
    for i, group in enumerate(groups):
        share = {} if group is None else {"projection": group}
        params = {"channels": 4, "shortcut": "projection"}
        nodes.append(Node(f"b{i}", "resnet.basic", params, share=share))  # type: ignore[arg-type]
    nodes.append(Node("out", "identity"))
    edges = [Edge("image", f"b{i}") for i in range(len(groups))] + [Edge(f"b{i}", "out") for i in range(len(groups))]
    return Graph("g", nodes, tuple(edges), ("out",)).declare_inputs().verify()


def test_a_shared_part_counts_once_in_parameters_and_once_per_use_in_macs() -> None:
    block = 9 * 3 * 4 + 9 * 4 * 4 + 2 * 2 * 4
    projection = 3 * 4 + 2 * 4
    alone, together = shared(None, None, None), shared("g", "g", "g")
    assert alone.cost.params == 3 * (block + projection)
    assert together.cost.params == 3 * block + projection
    assert shared("g", "g", "h").cost.params == 3 * block + 2 * projection
    assert together.cost.macs == alone.cost.macs == 3 * (9 * 3 * 4 + 9 * 4 * 4 + 3 * 4) * 64


def test_edges_cost_at_the_shape_they_bring() -> None:
    nodes = [
        Node("image", "input", {"size": (3, 8, 8)}),  # type: ignore[arg-type]
        Node("a", "conv", {"out_channels": 4, "stride": 2}),  # type: ignore[arg-type]
        Node("sum", "identity"),
        Node("all", "concat", aggregate="concat"),
    ]
    edges = (
        Edge("image", "a"),
        Edge("image", "sum", "project"),
        Edge("a", "sum"),
        Edge("image", "all", "project"),
        Edge("sum", "all"),
    )
    graph = Graph("g", nodes, edges, ("all",)).declare_inputs().verify()
    assert graph.cost.edges == (
        Cost(),
        Cost(3 * 4 + 8, 3 * 4 * 16),
        Cost(),
        Cost(3 * 3 + 6, 3 * 3 * 16),  # its share of the concat
        Cost(),
    )


def layers(*keep: tuple[str, str]) -> tuple[Graph, Topology]:
    """Three layers of two branches and a head; which of the edges between layers are kept."""
    params = {"width": 2, "out_channels": 4}
    nodes = [Node("image", "input", {"size": (4, 8, 8)})]  # type: ignore[arg-type]
    nodes += [Node(name, "resnext.branch", params) for name in ("a1", "a2", "b1", "b2", "c1", "c2")]
    nodes += [Node("head", "classifier", {"classes": 3})]
    between = [(f"{x}{i}", f"{y}{j}") for x, y in ("ab", "bc") for i in (1, 2) for j in (1, 2)]
    edges = [Edge("image", "a1"), Edge("image", "a2"), Edge("c1", "head"), Edge("c2", "head", learnable=True)]
    edges += [Edge(*pair, learnable=True) for pair in between]
    graph = Graph("g", nodes, tuple(edges), ("head",)).declare_inputs().verify()
    kept = [not edge.learnable or (edge.src, edge.dst) in keep for edge in graph.edges]
    return graph, Topology(tuple(kept), (1.0,) * len(kept))


def test_the_one_level_rule_looks_at_out_edges_only() -> None:
    # a2 feeds b2, which nobody reads: the one-level rule drops b2, the recursive one a2 as well.
    graph, topology = layers(("a1", "b1"), ("a2", "b2"), ("b1", "c1"), ("b1", "c2"), ("c2", "head"))
    branch = graph.cost.nodes["b2"].params
    assert one_level_params(graph, topology) == graph.cost.params - branch
    assert apply_passes(graph, KeepEdges(topology)).cost.params == graph.cost.params - 2 * branch
    graph, everything = layers(*((f"{x}{i}", f"{y}{j}") for x, y in ("ab", "bc") for i in (1, 2) for j in (1, 2)))
    assert one_level_params(graph, everything) == graph.cost.params - branch  # c2 -> head is not kept


def test_the_one_level_rule_counts_shared_parts_once() -> None:
    graph = shared("g", "g", "g")
    keep = [edge.src != "b1" for edge in graph.edges]
    block = graph.cost.nodes["b1"].params
    projection = 3 * 4 + 2 * 4
    topology = Topology(tuple(keep), (1.0,) * len(keep))
    assert one_level_params(graph, topology) == graph.cost.params - (block - projection)
