"""Macros of nodes and edges, and what a file may leave out."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import topolearn
from topolearn.errors import FormatError, GraphError
from topolearn.format import library, load_graph, loads
from topolearn.format.ranges import MAX_IDS, RangeError, expand
from topolearn.format.tree import parse, resolve
from topolearn.graph import Edge, Graph
from topolearn.ops import Shape


def read(nodes: str, edges: str, outputs: str = "[out]", top: str = "") -> Graph:
    """A graph over an image of 3 x 8 x 8; ``nodes`` and ``edges`` are lines of block style."""
    block = "\n".join(f"  {line.strip()}" for line in nodes.strip().splitlines())
    listed = "\n".join(f"  - {line.strip()}" for line in edges.strip().splitlines())
    text = f"topolearn: 1\nname: g\n{top}inputs: {{image: [3, 8, 8]}}\nnodes:\n{block}\nedges:\n{listed}\n"
    return loads(f"{text}outputs: {outputs}\n", "g.yaml")


def pairs(graph: Graph) -> list[str]:
    return [f"{edge.src}-{edge.dst}" for edge in graph.edges]


class TestRanges:
    @pytest.mark.parametrize(
        ("word", "ids"),
        [
            ("a", ["a"]),
            ("a[1..3]", ["a1", "a2", "a3"]),
            ("a[2..2]b", ["a2b"]),
            ("a[0..1]_[1..2]", ["a0_1", "a0_2", "a1_1", "a1_2"]),
            ("a[9..11]", ["a9", "a10", "a11"]),
            ("a[08..09]", ["a8", "a9"]),
        ],
    )
    def test_a_range_stands_for_ids(self, word: str, ids: list[str]) -> None:
        assert expand(word) == ids

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("a[3..1]", "is empty: 1 comes before 3"),
            ("a[1..1000000]", "stands for 1,000,000 nodes; at most 100,000 are allowed"),
            ("a[1..9999]_[1..9999]", "stands for 99,980,001 nodes"),
            ("a[1..]", "is not a range; write it as"),
            ("a[1-3]", "is not a range"),
            ("a[1..3", "is not a range"),
            ("a[1..3]]", "is not a range"),
            ("a[1..99999999999]", "is not a range"),
        ],
    )
    def test_a_range_that_stands_for_nothing_or_too_much(self, word: str, message: str) -> None:
        with pytest.raises(RangeError, match=message):
            expand(word)
        assert len(expand(f"a[1..{MAX_IDS}]")) == MAX_IDS

    def test_parameters_are_dealt_out_over_a_range(self) -> None:
        graph = read(
            """
            a[1..3]: {op: conv, out_channels: [4, 5, 6], stride: [1, 2, 1], kernel: 1, aggregate: [sum, mean, sum]}
            out: {op: relu}
            """,
            """
            {connect: chain, nodes: [image, "a[1..3]", out]}
            """,
        )
        assert [graph.nodes[f"a{i}"].params for i in (1, 2, 3)] == [
            {"out_channels": 4, "stride": 1, "kernel": 1},
            {"out_channels": 5, "stride": 2, "kernel": 1},
            {"out_channels": 6, "stride": 1, "kernel": 1},
        ]
        assert [node.aggregate for node in graph.nodes.values()] == ["sum", "sum", "mean", "sum", "sum"]
        assert graph.shapes["a3"] == Shape(6, 2)

    def test_inputs_and_groups_are_dealt_out_too(self) -> None:
        graph = read(
            """
            a[1..2]: {op: resnet.basic, channels: 8, shortcut: projection, share: {projection: p}}
            b[1..2]: {op: relu, input: [{channels: 8, stride: 1}, {channels: 8, stride: 2}]}
            c[1..2]: {op: resnet.basic, channels: 9, shortcut: projection, stride: 2, share: [{projection: q}, {}]}
            out: {op: relu, input: {channels: 9, stride: 4}}
            """,
            """
            {from: image, to: "a[1..2]"}
            {connect: bipartite, from: "a[1..2]", to: "b[1..2]", op: align}
            {connect: chain, nodes: [b1, c1, out], op: align}
            {connect: chain, nodes: [b2, c2, out], op: align}
            """,
        )
        assert graph.nodes["a1"].share == graph.nodes["a2"].share == {"projection": "p"}
        assert (graph.nodes["c1"].share, graph.nodes["c2"].share) == ({"projection": "q"}, {})
        assert (graph.nodes["b1"].input, graph.nodes["b2"].input) == (Shape(8, 1), Shape(8, 2))

    def test_a_list_for_a_single_node_is_its_value(self) -> None:
        graph = loads(
            "topolearn: 1\nname: g\ninputs: {x: [4]}\nnodes:\n  out: {op: linear, out_features: 2}\n"
            "edges: [{from: x, to: out}]\noutputs: out\n"
        )
        assert graph.inputs == ("x",)
        assert graph.outputs == ("out",)


class TestEdges:
    def test_lists_and_ranges_of_ids(self) -> None:
        graph = read(
            """
            a[1..2]: {op: relu}
            b[1..2]: {op: relu}
            out: {op: relu}
            """,
            """
            {from: image, to: ["a[1..2]", b1]}
            {from: [a1, b1], to: b2}
            {from: ["a[1..2]", ["b[1..2]"]], to: out, learnable: true, weight: 0.5}
            """,
        )
        assert pairs(graph) == [
            "image-a1",
            "image-a2",
            "image-b1",
            "a1-b2",
            "b1-b2",
            "a1-out",
            "a2-out",
            "b1-out",
            "b2-out",
        ]
        assert graph.edges[-1] == Edge("b2", "out", learnable=True, weight=0.5)
        assert graph.edges[0] == Edge("image", "a1")

    def test_groups_by_target_with_weights(self) -> None:
        graph = read(
            """
            a: {op: relu}
            out: {op: relu, aggregate: mean}
            """,
            """
            {weight: 2, into: {a: [image], out: [a, image: -0.25]}}
            """,
        )
        assert [edge.weight for edge in graph.edges] == [2.0, -0.25, 2.0]

    def test_parameters_of_the_edge_op(self) -> None:
        graph = read("out: {op: relu, input: {channels: 8, stride: 2}}", "{from: image, to: out, op: align, offset: 2}")
        assert graph.edges[0].params == {"offset": 2}

    def test_the_input_is_filled_in_once(self) -> None:
        graph = read(
            """
            a: {op: conv, out_channels: 8}
            b: {op: conv, out_channels: 4, stride: 2}
            out: {op: concat}
            sum: {op: relu}
            """,
            """
            {from: image, to: [a, b]}
            {from: [a, b], to: [sum], op: align}
            {from: a, to: out, op: align}
            {from: [b, sum], to: out}
            """,
        )
        assert graph.nodes["sum"].input == Shape(8, 2)
        assert graph.nodes["out"].input == Shape(20, 2)


class TestPlaces:
    def test_a_shipped_graph_is_found_by_name_from_any_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = load_graph(library.folder("graphs") / "resnet38-cifar100.yaml")
        monkeypatch.chdir(tmp_path)
        assert topolearn.load_graph("resnet38-cifar100") == expected
        assert topolearn.load_graph("graphs/resnet38-cifar100.yaml") == expected
        (tmp_path / "resnet38-cifar100").write_text("topolearn: 2")
        with pytest.raises(FormatError, match="format version 2"):
            topolearn.load_graph("resnet38-cifar100")

    def test_a_path_may_be_a_string_or_a_path(self, tmp_path: Path) -> None:
        path = tmp_path / "g.yaml"
        topolearn.dump_graph(load_graph("resnet38-cifar100"), str(path))
        assert topolearn.load_graph(str(path)) == topolearn.load_graph(path)

    def test_a_byte_order_mark_and_windows_line_ends(self, tmp_path: Path) -> None:
        text = load_graph("resnet38-cifar100").to_yaml()
        (tmp_path / "g.yaml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        assert load_graph(tmp_path / "g.yaml") == load_graph("resnet38-cifar100")


class TestOverrides:
    def test_a_dotted_path_sets_a_value(self) -> None:
        graph = load_graph(
            "resnet38-cifar100",
            {
                "nodes.head.classes": "10",
                "data": "cifar10",
                "inputs.image": "[1, 16, 16]",
                "nodes.block[1..6].shortcut": "projection",
            },
        )
        assert graph.nodes["head"].params["classes"] == 10
        assert (graph.data, graph.image) == ("cifar10", (16, 16))
        assert graph.nodes["block3"].params["shortcut"] == "projection"

    def test_a_new_node_or_field(self) -> None:
        graph = load_graph("resnet38-cifar100", {"nodes.head.dropout": "0.5", "name": "mine"})
        assert graph.nodes["head"].params["dropout"] == 0.5
        assert graph.name == "mine"

    def test_an_entry_of_a_list(self) -> None:
        residual = load_graph(
            "toponet6-sepconv-cifar100",
            {"edges.1.connect": "residual", "edges.1.interval": "2", "inputs.image.2": "64"},
        )
        # Three blocks of two nodes: (3 + 1)(3 + 2) / 2 + 3 edges; 7 * 8 / 2 in the stages that stay complete.
        stages = [
            sum(edge.learnable and edge.dst.startswith(f"stage{k}") for edge in residual.edges) for k in (1, 2, 3)
        ]
        assert stages == [13, 28, 28]
        assert residual.image == (64, 32)

    @pytest.mark.parametrize(
        ("path", "value", "message"),
        [
            ("nodes.haed.classes", "10", "--set nodes.haed.classes: there is no 'haed' in .*; did you mean 'head'?"),
            ("name.x", "1", "--set name.x: 'name' in .* holds no keys"),
            ("edges.9.connect", "chain", "edges.9.connect: '9' is no entry of that list in .*; count from 1 to 4"),
            ("edges.x", "1", "--set edges.x: 'x' is no entry of that list"),
            ("nodes.head.class", "1", "unknown key 'class' of node 'head'; did you mean 'classes'"),
            ("nodes.head.classes", "ten", "'classes' of op 'classifier' is 'ten', but it should be a whole number"),
            ("nodes.head.classes", "[", r"^--set nodes\.head\.classes=\[: not valid YAML"),
        ],
    )
    def test_what_cannot_be_set(self, path: str, value: str, message: str) -> None:
        with pytest.raises(FormatError, match=message):
            load_graph("resnet38-cifar100", {path: value})

    def test_an_error_in_the_value_names_the_override(self) -> None:
        with pytest.raises(FormatError) as caught:
            load_graph("resnet38-cifar100", {"name": "x", "nodes.head": "{op: clasifier}"})
        assert str(caught.value).startswith("--set nodes.head={op: clasifier}: unknown op 'clasifier'; did you mean")
        with pytest.raises(FormatError, match=r"^--set nodes\.head\.classes=0: 'classes' of op 'classifier' is 0"):
            load_graph("resnet38-cifar100", {"nodes.head.classes": "0"})


class TestYaml:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("", None),
            ("~", None),
            ("null", None),
            ("true", True),
            ("False", False),
            ("yes", "yes"),
            ("on", "on"),
            ("12", 12),
            ("+12", 12),
            ("-012", -12),
            ("0o17", 15),
            ("0x1F", 31),
            ("0o8", "0o8"),
            ("1_000", "1_000"),
            ("12:30", "12:30"),
            ("1.5", 1.5),
            (".5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("-.inf", float("-inf")),
            ("+.INF", float("inf")),
            ("1.2.3", "1.2.3"),
            ("2024-01-01", "2024-01-01"),
        ],
    )
    def test_plain_scalars_follow_the_core_schema_of_yaml_1_2(self, text: str, value: object) -> None:
        assert resolve(text) == value
        assert type(resolve(text)) is type(value)

    def test_quotes_make_strings(self) -> None:
        assert parse("a: '1'\nb: \"true\"\nc: |\n  1\nd: 1\n", "f").root.plain() == {
            "a": "1",
            "b": "true",
            "c": "1\n",
            "d": 1,
        }

    def test_aliases_stand_for_values(self) -> None:
        root = parse("a: &x {k: [1, 2]}\nb: *x\nc: [*x, *x]\n", "f").root.plain()
        assert root["b"] == root["a"] == {"k": [1, 2]}
        assert root["c"] == [root["a"], root["a"]]

    def test_aliases_work_in_a_graph(self) -> None:
        graph = read(
            """
            a: &relu {op: relu}
            b: *relu
            out: *relu
            """,
            """
            {connect: chain, nodes: &all [image, a, b, out]}
            {from: image, to: [b, out], learnable: true}
            """,
        )
        assert all(graph.nodes[name].op == "relu" for name in ("a", "b", "out"))

    def test_parts_know_their_place(self) -> None:
        root = parse("a:\n  - x\n  - {b: y}\n", "f").root
        places = {(tree.line, tree.column) for tree in (root.values["a"], root.values["a"].items[1].values["b"])}  # type: ignore[attr-defined]
        assert places == {(1, 2), (2, 8)}


def test_graph_errors_are_graph_errors_and_file_errors_format_errors() -> None:
    with pytest.raises(GraphError):
        read("out: {op: relu}", "{from: image, to: out, learnable: true}", "[image, nowhere]")
    with pytest.raises(FormatError):
        read("out: {op: relux}", "{from: image, to: out}")


def test_declaration_order_breaks_ties() -> None:
    for order in itertools.permutations("abc"):
        nodes = "\n".join(f"{name}: {{op: relu}}" for name in order) + "\nout: {op: relu}"
        graph = read(nodes, "{from: image, to: [a, b, c]}\n{from: [c, b, a], to: out}")
        assert list(graph.nodes) == ["image", *order, "out"]
        assert pairs(graph)[3:] == [f"{name}-out" for name in order]
