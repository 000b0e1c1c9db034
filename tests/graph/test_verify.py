"""Verification names the cycle, the unknown id, the two shapes and the mend."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.strategies import graphs
from topolearn.errors import GraphError
from topolearn.graph import Edge, Graph, Node
from topolearn.ops import Shape


def graph(nodes: list[Node], edges: list[Edge], outputs: tuple[str, ...] = ("out",)) -> Graph:
    """``nodes`` behind an image of 3 x 8 x 8."""
    return Graph("g", [Node("image", "input", {"size": (3, 8, 8)}), *nodes], tuple(edges), outputs)


def plain(name: str, channels: int = 3, stride: int = 1, **fields: object) -> Node:
    return Node(name, "identity", input=Shape(channels, stride), **fields)  # type: ignore[arg-type]


IN_OUT = [Edge("image", "out")]


@given(graphs(max_inputs=2))
def test_valid_graphs_verify_and_return_themselves(graph: Graph) -> None:
    assert graph.verify() is graph


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            graph([plain("out")], [Edge("image", "out"), Edge("image", "uot")]),
            "edge image -> uot: unknown node 'uot'; did you mean 'out'?",
        ),
        (
            graph([plain("out")], IN_OUT, ("uot",)),
            "unknown output 'uot'; did you mean 'out'?",
        ),
        (graph([plain("out")], IN_OUT, ()), "the graph has no output; list one under 'outputs'"),
        (graph([plain("out")], IN_OUT, ("out", "out")), "an output is listed twice; keep one of them"),
        (
            Graph("g", [plain("out")], (), ("out",)),
            "the graph has no input; declare one under 'inputs', such as 'image: [3, 32, 32]'",
        ),
        (graph([plain("2nd"), plain("out")], IN_OUT), "'2nd' is not an id; use letters, digits and '_', not starting"),
        (graph([plain("a\n"), plain("out")], IN_OUT), "is not an id"),
        (graph([plain("out", aggregate="max")], IN_OUT), "node 'out': unknown aggregate 'max'; known: concat, mean"),
        (graph([plain("out")], [*IN_OUT, *IN_OUT]), "edge image -> out occurs twice; keep one of them"),
        (
            graph([plain("a"), plain("b"), plain("out")], [Edge("a", "b"), Edge("b", "a"), Edge("b", "out")]),
            "the edges form a cycle: a -> b -> a; remove one of them",
        ),
        (graph([plain("out")], [*IN_OUT, Edge("out", "out")]), "the edges form a cycle: out -> out"),
        (
            graph([plain("a"), plain("out")], [*IN_OUT, Edge("image", "a"), Edge("a", "image")]),
            "the edges form a cycle: image -> a -> image",
        ),
        (
            Graph(
                "g",
                [Node("x", "input", {"size": (3,)}), Node("y", "input", {"size": (3,)}), plain("out")],
                (Edge("x", "y"), Edge("y", "out")),
                ("out",),
            ),
            "edge x -> y: an input takes no edges",
        ),
        (graph([plain("a"), plain("out")], [*IN_OUT, Edge("a", "out")]), "node 'a' has no in-edge; connect it or"),
        (
            graph([plain("a"), plain("out")], [*IN_OUT, Edge("image", "a")]),
            "no path leads from node 'a' to an output; connect it or remove it",
        ),
        (graph([Node("out", "identity")], IN_OUT), "node 'out' declares no input; call declare_inputs() first"),
        (
            graph([Node("out", "konv", input=Shape(3, 1))], IN_OUT),
            "node 'out': unknown op 'konv'; did you mean 'conv'?",
        ),
        (
            graph([Node("out", "conv", {"out_channels": -1}, input=Shape(3, 1))], IN_OUT),
            "node 'out': 'out_channels' of op 'conv' is -1, but it should be greater than 0",
        ),
        (
            graph([plain("out", channels=8)], IN_OUT),
            "edge image -> out: the source gives 3 channels at stride 1, but the target takes 8 channels at stride 1;"
            " use the edge op 'align' (no parameters) or 'project'",
        ),
        (
            graph([plain("out", stride=2)], [Edge("image", "out", "resiz")]),
            "edge image -> out: unknown edge op 'resiz'; did you mean 'resize'?",
        ),
        (
            graph([plain("a", stride=2), plain("out")], [Edge("image", "a", "align"), Edge("a", "out", "align")]),
            "edge a -> out: 'align' cannot bring 3 channels at stride 2 to 3 channels at stride 1;"
            " use 'resize' or 'conv_resize'",
        ),
        (
            graph([Node("out", "concat", input=Shape(3, 1))], IN_OUT),
            "node 'out': op 'concat' needs 'aggregate: concat'",
        ),
        (
            graph([plain("out", aggregate="concat")], [Edge("image", "out", learnable=True)]),
            "a learnable edge cannot end in a concat; use 'aggregate: sum' with the edge op 'project', or with"
            " 'conv_resize' and an 'input' of the node if its sources differ in size",
        ),
        (
            graph([plain("out", channels=5, aggregate="concat")], IN_OUT),
            "node 'out' declares 5 channels, but its sources concatenate to 3",
        ),
        (
            graph([Node("out", "linear", {"out_features": 2}, input=Shape(3, 1))], IN_OUT),
            "node 'out': 'linear' needs a vector, but its input is 3 channels at stride 1; use 'classifier'",
        ),
        (
            graph([Node("out", "feature", {"name": "low"})], IN_OUT),
            "node 'out': a feature node reads a backbone, but its source is an ordinary node",
        ),
        (
            graph([Node("out", "feature", {"name": "low"})], [Edge("image", "out", weight=0.5)]),
            "node 'out': a 'feature' reads exactly one backbone through a plain, fixed edge",
        ),
    ],
)
def test_what_is_wrong_and_the_mend_are_named(broken: Graph, message: str) -> None:
    with pytest.raises(GraphError) as caught:
        broken.verify()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_knows_the_edge_or_node_at_fault() -> None:
    with pytest.raises(GraphError) as caught:
        graph([plain("a"), plain("b"), plain("out")], [Edge("a", "b"), Edge("b", "a"), Edge("b", "out")]).verify()
    assert caught.value.edge == ("b", "a")
    with pytest.raises(GraphError) as caught:
        graph([plain("a"), plain("out")], [*IN_OUT, Edge("image", "a")]).verify()
    assert caught.value.node == "a"


def test_a_second_input_has_a_whole_stride_relative_to_the_first() -> None:
    def two(height: int) -> Graph:
        nodes = [
            Node("image", "input", {"size": (3, 9, 9)}),
            Node("half", "input", {"size": (2, height, 5)}),
            Node("out", "conv", {"out_channels": 4}, "concat"),
        ]
        edges = (Edge("image", "out", "align"), Edge("half", "out"))
        return Graph("g", nodes, edges, ("out",)).declare_inputs().verify()

    assert two(5).shapes["half"] == Shape(2, 2)
    assert two(5).nodes["out"].input == Shape(5, 2)
    with pytest.raises(GraphError, match="input 'half' is 4 x 5, which is not the first input's 9 x 9 divided by"):
        two(4)


class TestDeclaredInputs:
    def test_the_default_is_the_most_channels_and_the_largest_stride(self) -> None:
        nodes = [
            Node("a", "conv", {"out_channels": 8}),
            Node("b", "conv", {"out_channels": 4, "stride": 2}),
            Node("out", "identity"),
        ]
        edges = [Edge("image", "a"), Edge("image", "b"), Edge("a", "out", "align"), Edge("b", "out", "align")]
        assert graph(nodes, edges).declare_inputs().verify().nodes["out"].input == Shape(8, 2)

    def test_a_concat_takes_the_sum_of_channels(self) -> None:
        nodes = [Node("a", "conv", {"out_channels": 8}), Node("out", "concat", aggregate="concat")]
        edges = [Edge("image", "a"), Edge("image", "out"), Edge("a", "out")]
        assert graph(nodes, edges).declare_inputs().verify().nodes["out"].input == Shape(11, 1)

    def test_a_given_input_stays(self) -> None:
        made = graph([plain("out", channels=8, stride=2)], [Edge("image", "out", "align")])
        assert made.declare_inputs() == made

    def test_a_global_source_and_a_vector(self) -> None:
        nodes = [Node("pool", "global_avg_pool"), Node("logits", "classifier", {"classes": 4}), Node("out", "identity")]
        edges = [Edge("image", "pool"), Edge("pool", "logits"), Edge("logits", "out")]
        made = graph(nodes, edges).declare_inputs().verify()
        assert made.nodes["logits"].input == Shape(3, "global")
        assert made.nodes["out"].input == Shape(4, None)


class TestSharing:
    @staticmethod
    def blocks(*kinds: dict[str, object], groups: tuple[str, ...] = ("g", "g")) -> Graph:
        nodes = [
            Node(
                f"b{i}", "resnet.basic", {"channels": 4, "shortcut": "projection", **kind}, share={"projection": group}
            )
            for i, (kind, group) in enumerate(zip(kinds, groups, strict=True))
        ]
        nodes.append(Node("out", "concat", aggregate="concat"))
        edges = [Edge("image", f"b{i}") for i in range(len(kinds))]
        edges += [Edge(f"b{i}", "out", "align") for i in range(len(kinds))]
        return graph(nodes, edges).declare_inputs()

    def test_equal_parts_may_be_shared(self) -> None:
        assert self.blocks({}, {}).verify()

    @pytest.mark.parametrize("kind", [{"stride": 2}, {"channels": 5}, {"affine": False}, {"shortcut": "pad"}])
    def test_parts_that_differ_may_not(self, kind: dict[str, object]) -> None:
        with pytest.raises(GraphError, match="node 'b1' cannot share group 'g' with 'b0': the parts differ"):
            self.blocks({}, kind).verify()
        assert self.blocks({}, kind, groups=("g", "h")).verify()

    def test_an_unknown_part_gets_a_suggestion(self) -> None:
        node = Node("out", "resnet.basic", {"channels": 4}, input=Shape(3, 1), share={"projecton": "g"})
        with pytest.raises(GraphError, match="unknown part 'projecton'; did you mean 'projection'"):
            graph([node], IN_OUT).verify()
        with pytest.raises(GraphError, match="'identity' has no part that can be shared"):
            graph([plain("out", share={"projection": "g"})], IN_OUT).verify()

    @pytest.mark.parametrize("group", ["a b", "", 3, None])
    def test_a_group_has_a_name(self, group: object) -> None:
        node = Node("out", "resnet.basic", {"channels": 4}, input=Shape(3, 1), share={"projection": group})
        with pytest.raises(GraphError, match="is not a group's name"):
            graph([node], IN_OUT).verify()
