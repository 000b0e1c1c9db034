"""Pictures: written whole, the same bytes every time, and showing what they should."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib import image

import topolearn
from tests.drawing.samples import Drawing, keep_largest, stages, values_of, with_an_added_node
from tests.strategies import graphs, topologies
from topolearn.drawing import draw
from topolearn.drawing.canvas import text_width
from topolearn.drawing.layout import Box, arrange, generations, is_line, range_text, stem
from topolearn.drawing.picture import WIDTHS, _label, _Painter
from topolearn.drawing.scene import FAMILIES, Scene, family
from topolearn.errors import TopolearnError
from topolearn.format import loads
from topolearn.graph import Graph, KeepEdges, Topology
from topolearn.graph.degrees import degrees
from topolearn.ops import NODE_OPS

BRANCHES = """\
topolearn: 1
name: branches
inputs: {image: [3, 32, 32]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 16}
  a[1..4]: {op: resnext.branch, width: 4, out_channels: 16}
  b[1..4]: {op: resnext.branch, width: 4, out_channels: 16}
  join: {op: relu}
  head: {op: classifier, classes: 10}
edges:
  - {from: image, to: stem}
  - {from: stem, to: "a[1..4]"}
  - {connect: bipartite, from: "a[1..4]", to: "b[1..4]", learnable: true}
  - {from: ["b[1..4]", stem], to: join}
  - {from: join, to: head}
outputs: [head]
"""


@pytest.fixture(scope="module")
def branches() -> Graph:
    return loads(BRANCHES)


def learned(graph: Graph) -> Graph:
    """Every target keeps its first candidate, with a negative weight for the last."""
    keep = [True] * len(graph.edges)
    weights = [1.0] * len(graph.edges)
    for indices in graph.candidates.values():
        for index in indices[1:]:
            keep[index] = False
        weights[indices[0]] = 0.5
    weights[next(reversed(graph.candidates.values()))[0]] = -2.0
    return KeepEdges(Topology(tuple(keep), tuple(weights)))(graph).verify()


class TestFiles:
    def test_an_svg_has_the_same_bytes_every_time(self, branches: Graph, tmp_path: Path) -> None:
        for name in ("one.svg", "two.svg"):
            draw(learned(branches), tmp_path / name, branches)
        text = (tmp_path / "one.svg").read_text()
        assert text == (tmp_path / "two.svg").read_text()
        assert "<dc:date>" not in text
        assert str(tmp_path) not in text

    def test_a_png_has_the_same_bytes_every_time(self, branches: Graph, tmp_path: Path) -> None:
        for name in ("one.png", "two.PNG"):
            draw(branches, tmp_path / name)
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.PNG").read_bytes()
        pixels = image.imread(tmp_path / "one.png")
        assert pixels.shape[1] > pixels.shape[0] > 100
        assert not np.all(pixels == 1.0)

    def test_a_pdf(self, branches: Graph, tmp_path: Path) -> None:
        draw(branches, tmp_path / "one.pdf")
        assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")

    @pytest.mark.parametrize("name", ["one.jpg", "one", "one.svg.gz"])
    def test_another_ending_is_refused(self, branches: Graph, tmp_path: Path, name: str) -> None:
        with pytest.raises(TopolearnError, match=r"give it one of the endings \.svg, \.png, \.pdf"):
            draw(branches, tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_a_missing_folder_is_one_clear_error(self, branches: Graph, tmp_path: Path) -> None:
        with pytest.raises(TopolearnError, match="cannot write"):
            draw(branches, tmp_path / "nowhere" / "one.svg")

    def test_matplotlib_s_settings_stay(self, branches: Graph, tmp_path: Path) -> None:
        import matplotlib as mpl

        before = dict(mpl.rcParams)
        draw(branches, tmp_path / "one.svg")
        assert dict(mpl.rcParams) == before


class TestContent:
    def test_heading(self, branches: Graph) -> None:
        assert Scene(branches).counts() == ("12 nodes · 27 edges (16 learnable) · 3,194 parameters · 2,670,752 MACs")
        counts = Scene(learned(branches), branches).counts()
        assert counts == "12 → 9 nodes · 27 → 12 edges · 3,194 → 2,234 parameters · 2,670,752 → 1,835,168 MACs"

    def test_strokes_tell_fixed_learned_and_pruned_edges_apart(self, branches: Graph) -> None:
        strokes = Scene(learned(branches), branches).strokes
        kinds = {
            "fixed": strokes["image", "stem"],
            "positive": strokes["a1", "b1"],
            "negative": strokes["a1", "b4"],
            "pruned": strokes["a2", "b1"],
        }
        assert len({stroke.colour for stroke in kinds.values()}) == 4
        assert kinds["pruned"].width < kinds["fixed"].width < kinds["positive"].width
        assert strokes["stem", "a2"] == kinds["pruned"]  # its target is gone

    def test_width_follows_the_weight_within_a_target(self, branches: Graph) -> None:
        edges = tuple(
            replace(edge, weight={"a1": 4.0, "a2": 2.0}.get(edge.src, 1.0)) if edge.learnable else edge
            for edge in branches.edges
        )
        strokes = Scene(branches.replace(edges=edges)).strokes
        assert strokes["a1", "b1"].width > strokes["a2", "b1"].width > strokes["a3", "b1"].width
        assert strokes["a1", "b1"] == strokes["a1", "b2"]

    def test_fixed_edges_are_compared_with_too(self, branches: Graph) -> None:
        weight = {("a1", "b1"): 0.5, ("a2", "b1"): 0.25}
        edges = tuple(
            replace(edge, weight=weight.get((edge.src, edge.dst), 1.0), learnable=(edge.src, edge.dst) in weight)
            for edge in branches.edges
        )
        scene = Scene(branches.replace(edges=edges))
        assert [scene.strokes[pair].width for pair in weight] == [scene.width(0.5), scene.width(0.25)]

    def test_widths_are_shares_of_the_largest_weight(self, branches: Graph, tmp_path: Path) -> None:
        small = KeepEdges(
            Topology((True,) * len(branches.edges), tuple(-0.2 * (1 + i % 3) for i in range(len(branches.edges))))
        )(branches)
        scene = Scene(small, branches)
        into = [edge for edge in small.edges if edge.dst == "b2"]
        largest = max(abs(edge.weight) for edge in into)
        widths = [scene.strokes[edge.src, edge.dst].width for edge in into]
        # In sixteenths: an SVG keeps edges of one look together.
        shares = [round(16 * abs(edge.weight) / largest) / 16 for edge in into]
        assert widths == [scene.width(share) for share in shares]
        assert len(set(widths)) == 3
        draw(small, tmp_path / "one.svg", branches)
        words = Drawing(tmp_path / "one.svg").words()
        assert words[words.index(WIDTHS) + 1 :][:3] == ["0.1", "0.5", "1"]

    def test_equal_weights_need_no_scale(self, branches: Graph, tmp_path: Path) -> None:
        draw(branches, tmp_path / "one.svg")
        assert WIDTHS not in Drawing(tmp_path / "one.svg").words()

    def test_legend_says_what_there_is(self, branches: Graph) -> None:
        assert [kind[0] for kind in Scene(branches).edge_kinds()] == ["fixed", "learnable"]
        small = learned(branches)
        assert [kind[0] for kind in Scene(small, branches).edge_kinds()] == [
            "fixed",
            "learned, positive",
            "learned, negative",
            "pruned",
        ]

    def test_long_ranges_become_dots(self) -> None:
        graph = loads(BRANCHES.replace("[1..4]", "[1..32]"))
        scene = Scene(graph)
        assert set(scene.dots) == {f"{letter}{i}" for letter in "ab" for i in range(1, 33)}
        assert scene.rows
        assert not scene.line
        assert (Scene(loads(BRANCHES)).dots, Scene(loads(BRANCHES)).rows) == ({}, False)

    def test_of_very_many_edges_the_fixed_and_strongest_are_drawn(
        self, branches: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("topolearn.drawing.scene.MAX_EDGES", 15)
        scene = Scene(branches)
        assert len(scene.drawn) == 15
        assert {pair for pair in scene.edges if not scene.edges[pair].learnable} <= set(scene.drawn)
        assert len({dst for _, dst in scene.drawn if dst.startswith("b")}) == 4
        draw(branches, tmp_path / "one.svg")

    def test_every_op_has_a_colour(self) -> None:
        families = {name: family(name) for name in NODE_OPS}
        assert "other" not in families.values()
        assert set(families.values()) == set(FAMILIES) - {"other", "decoder stage"}
        assert families["global_avg_pool"] == "pooling"
        assert families["relu_conv_bn"] == "convolution"
        assert families["relu"] == "identity, sum, concat"
        assert family("mine.special") == "other"

    def test_nodes_that_pruning_added_are_drawn(self, tmp_path: Path) -> None:
        graph, small = with_an_added_node()
        scene = Scene(small, graph)
        assert scene.order == ["image", "a", "b", "a_to_c", "c"]
        draw(small, tmp_path / "one.svg", graph)

    @settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_graph_can_be_drawn(self, data: st.DataObject, tmp_path: Path) -> None:
        graph = data.draw(graphs(max_inputs=2))
        draw(graph, tmp_path / "all.svg")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = KeepEdges(data.draw(topologies(graph)))(graph)
        draw(small, tmp_path / "small.png", graph)


class TestDegrees:
    def test_in_before_and_out_after_the_name(self, branches: Graph, tmp_path: Path) -> None:
        draw(branches, tmp_path / "one.svg")
        words = Drawing(tmp_path / "one.svg").words()
        assert words[words.index("a1") :][:3] == ["a1", "1", "4"]
        # An input has nothing in, an output nothing out.
        assert words[words.index("image") :][:3] == ["image", "1", "stem"]
        assert words[words.index("join") :] == ["join", "5", "1", "head", "1"]
        assert "number of edges" in words

    def test_before_and_after(self, branches: Graph, tmp_path: Path) -> None:
        small = learned(branches)
        draw(small, tmp_path / "one.svg", branches)
        words = Drawing(tmp_path / "one.svg").words()
        assert words[words.index("a1") :][:3] == ["a1", "1", "4"]
        assert words[words.index("b1") :][:3] == ["b1", "4→1", "1"]
        assert words[words.index("a2") :][:3] == ["a2", "1→0", "4→0"]
        assert words[words.index("stem") :][:3] == ["stem", "1", "5→2"]
        assert "number of edges, before → after" in words

    def test_a_node_that_pruning_added(self) -> None:
        graph, small = with_an_added_node()
        found = degrees(small, graph)
        assert [degree.text() for degree in found["a_to_c"]] == ["1", "1"]
        assert [degree.text(" → ") for degree in found["c"]] == ["2 → 1", "0"]
        assert [degree.text() for degree in found["b"]] == ["1→0", "1→0"]

    def test_they_stay_within_their_boxes(self, tmp_path: Path) -> None:
        for graph in (stages(), topolearn.load_graph("digits")):
            values = values_of(graph)
            small = keep_largest(graph, 2, values)
            painter = _Painter(Scene(small, graph), "t")
            for name, box in painter.boxes.items():
                length = box.height if painter.upright else box.width
                ends = []
                for text, along, size, _ in _label(name, *painter.ends[name], length):
                    half = text_width(text, size) / 2
                    assert abs(along) + half < length / 2
                    ends.append((along - half, along + half))
                ends.sort()
                assert all(right < left for (_, right), (left, _) in itertools.pairwise(ends))


class TestCompleteStages:
    def test_they_stand_on_a_line_each_under_its_own_arcs(self) -> None:
        graph = stages()
        scene = Scene(graph)
        assert scene.line
        assert scene.dots == {}
        layout = arrange(scene.order, list(scene.edges), dict.fromkeys(scene.order, Box(0.25, 0.8)))
        assert {y for _, y in layout.centres.values()} == {0.0}
        for stage in (1, 2, 3):
            within = [name for name in scene.order if name.startswith(f"s{stage}_")]
            assert len(within) == 8
            left, right = layout.centres[within[0]][0], layout.centres[within[-1]][0]
            curves = [curve for (src, dst), curve in layout.curves.items() if {src, dst} <= set(within)]
            assert len(curves) == 28
            assert all(left <= x <= right for curve in curves for x, _ in curve)

    def test_a_learned_one_is_drawn_with_widths_and_degrees(self, tmp_path: Path) -> None:
        graph = stages()
        values = [-0.25 * (i % 4 + 1) if edge.learnable else 1.0 for i, edge in enumerate(graph.edges)]
        keep = [not edge.learnable or abs(values[i]) > 0.3 for i, edge in enumerate(graph.edges)]
        small = KeepEdges(Topology.of(graph, keep, values))(graph).verify()
        draw(small, tmp_path / "one.svg", graph)
        picture = Drawing(tmp_path / "one.svg")
        assert len(picture.curves("edges-learned")) == sum(edge.weight < 0 for edge in small.edges)
        words = picture.words()
        into = [sum(edge.dst == "s2_out" for edge in each.edges) for each in (graph, small)]
        assert words[words.index("s2_out") :][:2] == ["s2_out", f"{into[0]}→{into[1]}"]


class TestLayout:
    @staticmethod
    def of(graph: Graph) -> tuple[list[str], list[tuple[str, str]], dict[str, Box]]:
        return list(graph.nodes), [(e.src, e.dst) for e in graph.edges], dict.fromkeys(graph.nodes, Box(0.4, 0.25))

    def test_a_near_complete_graph_is_a_line_with_arcs(self) -> None:
        nodes, edges, boxes = self.of(topolearn.load_graph("resnet38-cifar100"))
        layout = arrange(nodes, edges, boxes)
        assert layout.line
        xs = [layout.centres[name][0] for name in nodes]
        assert xs == sorted(xs)
        assert {y for _, y in layout.centres.values()} == {0.0}

        def peak(src: str, dst: str) -> float:
            return max(abs(y) for _, y in layout.curves[src, dst])

        heights = [peak("block1", f"block{i}") for i in range(3, 19)]
        assert heights == sorted(heights)
        assert peak("block1", "block2") == 0.0

    def test_branches_stand_in_layers_in_their_order(self, branches: Graph) -> None:
        nodes, edges, boxes = self.of(branches)
        layout = arrange(nodes, edges, boxes)
        assert not layout.line
        assert len({layout.centres[f"a{i}"][0] for i in range(1, 5)}) == 1
        ys = [layout.centres[f"a{i}"][1] for i in range(1, 5)]
        assert ys == sorted(ys, reverse=True)
        assert all(layout.centres[src][0] < layout.centres[dst][0] for src, dst in edges)

    @given(graphs(max_inputs=2))
    def test_boxes_do_not_overlap_and_curves_join_them(self, graph: Graph) -> None:
        nodes, edges, boxes = self.of(graph)
        layout = arrange(nodes, edges, boxes)
        centres = [layout.centres[name] for name in nodes]
        for i, (x0, y0) in enumerate(centres):
            for x1, y1 in centres[i + 1 :]:
                assert abs(x0 - x1) >= 0.4 or abs(y0 - y1) >= 0.25 - 1e-9
        for src, dst in edges:
            curve = layout.curves[src, dst]
            assert len(curve) % 3 == 1
            assert abs(curve[0][0] - layout.centres[src][0]) <= 0.2 + 1e-9
            assert abs(curve[-1][0] - layout.centres[dst][0]) <= 0.2 + 1e-9
            assert curve[0][0] < curve[-1][0]

    def test_generations(self) -> None:
        layers = generations("abcd", [("a", "b"), ("b", "d"), ("a", "c"), ("a", "d")])
        assert layers == [["a"], ["b", "c"], ["d"]]
        assert not is_line(layers, [])

    def test_ranges(self) -> None:
        assert (stem("block12"), stem("m1_2"), stem("head")) == ("block", "m1_", "head")
        assert range_text(["m1_1", "m1_2", "m1_3"]) == "m1_[1..3]"
        assert range_text(["head"]) == "head"
        assert range_text(["a", "b"]) == "a … b"
