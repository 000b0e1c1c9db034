"""Pictures of networks for dense prediction: where encoder and decoder stand, and which edges are drawn."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

import topolearn
from tests.drawing.samples import Drawing
from tests.graph.test_decoder import decoder, fully_dense, pruned_decoders
from topolearn.drawing import draw
from topolearn.drawing.canvas import text_width
from topolearn.drawing.decoder_layout import Decoder, arrange_decoder
from topolearn.drawing.layout import Box, Layout
from topolearn.drawing.picture import SOURCES, WIDTHS, _Painter
from topolearn.drawing.scene import FAMILIES, NEGATIVE, Scene
from topolearn.graph import Edge, EliminateDead, Graph, KeepEdges, Topology
from topolearn.graph.decoder import decoder_stages

BACKBONE, POOLING, STAGE = (FAMILIES[name][2] for name in ("backbone", "pooling", "decoder stage"))


@pytest.fixture(scope="module")
def full() -> Graph:
    return topolearn.load_graph("fdn-mobilenetv2-voc")


@pytest.fixture(scope="module")
def published() -> Graph:
    return topolearn.load_graph("sparsemask-mobilenetv2-voc")


def arranged(graph: Graph, box: Box | None = None) -> tuple[Decoder, Layout]:
    parts = Decoder.of(graph)
    assert parts is not None
    boxes = dict.fromkeys(graph.nodes, box or Box(0.5, 0.25))
    return parts, arrange_decoder(parts, [(edge.src, edge.dst) for edge in graph.edges], boxes)


class TestParts:
    def test_a_feature_and_its_stage_share_a_column(self, full: Graph) -> None:
        parts = Decoder.of(full)
        assert parts is not None
        assert parts.levels == {
            2: (("e1", "d1"), ("e2", "d2")),
            4: (("e3", "d3"),),
            8: (("e4", "d4"),),
            16: (("e5", "d5"), ("e6", "d6")),
            32: (("e7", "d7"), ("e8", "d8"), ("e9", "d9")),
            "global": (("g", None),),
        }
        assert (parts.before, parts.after) == (("image",), ("head",))
        assert parts.backbones == {"backbone": tuple(f"e{i}" for i in range(1, 10))}

    def test_a_stage_stands_under_the_first_that_it_reads_of_its_stride(self, published: Graph) -> None:
        parts = Decoder.of(published)
        assert parts is not None
        assert parts.levels == {
            2: (("e1", "d1"),),
            16: (("e6", "d6"),),
            32: (("e7", "d7"), ("e8", None), ("e9", "d8")),
            "global": (("g", None),),
        }

    def test_an_encoder_of_single_nodes(self) -> None:
        parts = Decoder.of(decoder({"d5": "e5 g", "d2": "e5 g d5", "d1": "e1 d2 image"}))
        assert parts is not None
        assert parts.levels == {
            1: (("image", "d1"), ("e1", None)),
            2: (("e2", "d2"),),
            4: (("e3", None),),
            8: (("e4", None), ("e5", "d5")),
            "global": (("g", None),),
        }
        assert (parts.before, parts.backbones, parts.after) == ((), {}, ("head",))

    def test_more_stages_than_features_of_a_stride(self) -> None:
        parts = Decoder.of(decoder({"d5": "e4 g", "d4": "d5 g", "d1": "e1 d4"}))
        assert parts is not None
        assert parts.levels[8] == (("e4", "d4"), ("e5", "d5"))
        parts = Decoder.of(decoder({"d5": "e5 g", "d4": "e5 d5", "d1": "e1 d4"}))
        assert parts is not None
        assert parts.levels[8] == (("e4", None), ("e5", "d4"), (None, "d5"))

    @pytest.mark.parametrize("name", ["digits", "fcn-mobilenetv2-voc", "resnet38-cifar100"])
    def test_other_graphs_have_none(self, name: str) -> None:
        graph = topolearn.load_graph(name)
        assert Decoder.of(graph) is None
        assert Scene(graph).decoder is None

    def test_a_decoder_that_goes_back_into_the_encoder_is_none(self) -> None:
        graph = decoder({"d5": "e5", "d4": "e4", "d2": "e2", "d1": "e1 d5 d4 d2"})
        edges = [edge for edge in graph.edges if (edge.src, edge.dst) != ("e3", "e4")]
        edges += [Edge("d2", "e4", "conv_resize"), Edge("e3", "d2", "conv_resize")]
        graph = EliminateDead()(graph.replace(edges=tuple(edges))).verify()
        assert Decoder.of(graph) is None


class TestPlaces:
    def test_encoder_over_decoder_and_resolution_falls_to_the_right(self, full: Graph) -> None:
        parts, layout = arranged(full)
        centres = layout.centres
        assert {centres[name][1] for name in parts.encoder} == {0.0}
        (row,) = {centres[name][1] for name in parts.stages}
        assert row < -0.5
        for i in range(1, 10):
            assert centres[f"e{i}"][0] == centres[f"d{i}"][0]
            assert centres["image"][0] < centres[f"e{i}"][0] < centres["g"][0]
        assert [centres[f"e{i}"][0] for i in range(1, 10)] == sorted(centres[f"e{i}"][0] for i in range(1, 10))
        assert centres["head"] == (centres["image"][0], row)

    def test_a_backbone_is_a_bar_over_its_features(self, full: Graph) -> None:
        _, layout = arranged(full)
        bar, (x, y) = layout.boxes["backbone"], layout.centres["backbone"]
        assert y > 0.25
        assert x - bar.width / 2 == pytest.approx(layout.centres["e1"][0] - 0.25)
        assert x + bar.width / 2 == pytest.approx(layout.centres["e9"][0] + 0.25)
        for i in range(1, 10):
            curve = layout.curves["backbone", f"e{i}"]
            assert [x for x, _ in curve] == pytest.approx([layout.centres[f"e{i}"][0]] * 4)

    def test_a_band_for_each_resolution_holds_its_boxes(self, full: Graph) -> None:
        parts, layout = arranged(full)
        assert [band.words for band in layout.bands] == ["1/2", "1/4", "1/8", "1/16", "1/32", "global"]
        for band, columns in zip(layout.bands, parts.levels.values(), strict=True):
            inside = {name for pair in columns for name in pair if name is not None}
            for name in (*parts.encoder, *parts.stages):
                left, right = (layout.centres[name][0] + sign * 0.25 for sign in (-1, 1))
                assert (band.low[0] < left and right < band.high[0]) == (name in inside)
        assert all(left.high[0] < right.low[0] for left, right in itertools.pairwise(layout.bands))

    @pytest.mark.parametrize("name", ["fdn-mobilenetv2-voc", "sparsemask-mobilenetv2-voc", "unet-mobilenetv2-voc"])
    def test_no_edge_goes_behind_a_box(self, name: str) -> None:
        graph = topolearn.load_graph(name)
        _, layout = arranged(graph)
        for (src, dst), curve in layout.curves.items():
            for x, y in sampled(curve):
                for other, (left, bottom) in layout.centres.items():
                    box = layout.boxes[other]
                    inside = abs(x - left) < box.width / 2 - 1e-9 and abs(y - bottom) < box.height / 2 - 1e-9
                    assert not inside, (src, dst, other)

    def test_edges_end_on_the_border_of_their_boxes(self, full: Graph) -> None:
        _, layout = arranged(full)
        for pair, curve in layout.curves.items():
            for name, (x, y) in zip(pair, (curve[0], curve[-1]), strict=True):
                (cx, cy), box = layout.centres[name], layout.boxes[name]
                across, up = abs(x - cx) / (box.width / 2), abs(y - cy) / (box.height / 2)
                assert max(across, up) == pytest.approx(1.0)

    def test_edges_into_one_stage_do_not_cross(self, full: Graph) -> None:
        _, layout = arranged(full)
        for stage in ("d1", "d5", "d7"):
            row = layout.centres[stage][1]
            fan = [curve for (_, dst), curve in layout.curves.items() if dst == stage and curve[0][1] > row + 0.5]
            fan.sort(key=lambda curve: curve[0][0])
            assert len(fan) > 3
            for left, right in itertools.pairwise(fan):
                # At equal heights, because all of them fall by the same curve.
                pairs = zip(sampled(left), sampled(right), strict=True)
                assert all(x < other for (x, _), (other, _) in pairs)

    def test_edges_between_stages_pass_under_what_is_between(self, full: Graph) -> None:
        _, layout = arranged(full)
        row = layout.centres["d1"][1]
        assert {y for _, y in layout.curves["d2", "d1"]} == {row}
        depths = [min(y for _, y in sampled(layout.curves[f"d{i}", "d1"])) for i in range(3, 10)]
        assert depths == sorted(depths, reverse=True)
        assert depths[0] < row - 0.25

    def test_several_heads_stand_one_under_the_other(self) -> None:
        graph = decoder({"d5": "e5 g", "d2": "e2 d5", "d1": "e1 d5 d2"}, {"head": "d1", "aside": "d5"})
        _, layout = arranged(graph)
        (x, y), (other, below) = layout.centres["head"], layout.centres["aside"]
        assert x == other < layout.centres["d1"][0]
        assert below < y - 0.25
        # The edge to the second passes under the stages that are between.
        assert all(y < layout.centres["d1"][1] - 0.12 for _, y in sampled(layout.curves["d5", "aside"]))

    def test_what_follows_the_decoder_goes_on_to_the_left(self) -> None:
        graph = decoder({"d5": "e5 g", "d1": "e1 d5"}, {"last": "more", "more": "head", "head": "d1"})
        parts = Decoder.of(graph)
        assert parts is not None
        assert parts.after == ("head", "more", "last")
        edges = [(edge.src, edge.dst) for edge in graph.edges]
        for order in (edges, edges[::-1]):
            centres = arrange_decoder(parts, order, dict.fromkeys(graph.nodes, Box(0.5, 0.25))).centres
            xs = [centres[name][0] for name in ("d1", "head", "more", "last")]
            assert [round(left - right, 6) for left, right in itertools.pairwise(xs)] == [0.8] * 3

    @settings(suppress_health_check=[HealthCheck.too_slow])
    @given(pruned_decoders())
    def test_whatever_is_left_boxes_stand_apart_in_their_bands(self, graph: Graph) -> None:
        parts = Decoder.of(graph)
        assert (parts is None) == (len(decoder_stages(graph)) < 2)
        if parts is None:
            return
        assert {*parts.before, *parts.backbones, *parts.encoder, *parts.stages, *parts.after} == graph.nodes.keys()
        _, layout = arranged(graph)
        assert layout.curves.keys() == {(edge.src, edge.dst) for edge in graph.edges}
        for one, other in itertools.combinations(layout.centres.values(), 2):
            assert abs(one[0] - other[0]) > 0.5 or abs(one[1] - other[1]) > 0.25
        strides = list(parts.levels)
        for name in (*parts.encoder, *parts.stages):
            band = layout.bands[strides.index(graph.shapes[name].stride)]
            assert band.low[0] < layout.centres[name][0] < band.high[0]
        for curve in layout.curves.values():
            for x, y in sampled(curve):
                assert layout.low[0] <= x <= layout.high[0]
                assert layout.low[1] <= y <= layout.high[1]


class TestDrawing:
    def test_what_is_left_of_a_search(self, full: Graph, published: Graph, tmp_path: Path) -> None:
        draw(published, tmp_path / "one.svg", full)
        picture = Drawing(tmp_path / "one.svg")
        assert len(picture.curves("edges-learned")) == 15
        assert "edges-pruned" not in picture.groups
        removed = {"e2", "e3", "e4", "e5", "d2", "d3", "d4", "d5", "d9"}
        for name in full.nodes:
            assert ("fill: #ffffff" in picture.style(f"node-{name}")) == (name in removed)
        words = picture.words()
        assert "22 → 13 nodes · 102 → 23 edges" in words[words.index("sparsemask-mobilenetv2-voc") + 1]
        assert words[words.index("e2") + 1] == "e3"  # nothing is left to count
        assert words[words.index("d1") + 1 :][:2] == ["9", "1"]

    def test_edges_have_the_colour_of_what_they_come_from(self, published: Graph) -> None:
        strokes = Scene(published).strokes
        colours = {pair: strokes[pair].colour for pair in strokes if pair[1] == "d1"}
        assert colours == {
            **{(f"e{i}", "d1"): BACKBONE for i in (1, 6, 7, 8, 9)},
            ("g", "d1"): POOLING,
            **{(f"d{i}", "d1"): STAGE for i in (6, 7, 8)},
        }
        kinds = [word for word, _, _ in Scene(published).edge_kinds()]
        assert kinds == ["pooling", "backbone", "decoder stage"]

    def test_weights_are_widths_and_negative_ones_have_a_colour(self, full: Graph, tmp_path: Path) -> None:
        weights = [(-1.0 if i % 7 == 0 else 0.25 * (1 + i % 4)) * edge.learnable for i, edge in enumerate(full.edges)]
        weights = [weight or edge.weight for weight, edge in zip(weights, full.edges, strict=True)]
        learned = KeepEdges(Topology((True,) * len(weights), tuple(weights)))(full).verify()
        scene = Scene(learned, full)
        into = [edge for edge in learned.edges if edge.dst == "d3"]
        assert {edge.weight for edge in into} == {-1.0, 0.25, 0.5, 0.75, 1.0}
        for edge in into:
            stroke = scene.strokes[edge.src, edge.dst]
            assert stroke.width == scene.width(abs(edge.weight))
            assert (stroke.colour == NEGATIVE) == (edge.weight < 0)
        draw(learned, tmp_path / "one.svg", full)
        words = Drawing(tmp_path / "one.svg").words()
        assert {"learned, negative", SOURCES, WIDTHS} <= set(words)

    def test_labels_fit_their_boxes(self, full: Graph) -> None:
        painter = _Painter(Scene(full), "t")
        for name, ends in painter.ends.items():
            assert text_width("".join((name, *ends)), 5.5) < painter.boxes[name].width
        assert painter.ends["d1"] == ("18", "1")

    def test_a_picture_is_as_wide_as_a_page(self, full: Graph) -> None:
        # 970 pixels of CSS, at which the names are 11 pixels tall.
        assert _Painter(Scene(full), "t").figure().get_size_inches()[0] < 10.2

    def test_a_graph_too_large_for_boxes_keeps_its_dots(self, monkeypatch: pytest.MonkeyPatch) -> None:
        graph = decoder(fully_dense(5))
        assert Scene(graph).decoder is not None
        monkeypatch.setattr("topolearn.drawing.scene.MAX_BOXES", 12)
        assert Scene(graph).decoder is None

    def test_bytes_are_the_same_every_time(self, published: Graph, full: Graph, tmp_path: Path) -> None:
        for name in ("one.svg", "two.svg"):
            draw(published, tmp_path / name, full)
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()

    def test_bands_lie_behind(self, full: Graph, tmp_path: Path) -> None:
        draw(full, tmp_path / "one.svg")
        words = Drawing(tmp_path / "one.svg").words()
        assert [word for word in words if word.startswith("1/") or word == "global"] == [
            "1/2",
            "1/4",
            "1/8",
            "1/16",
            "1/32",
            "global",
        ]


def sampled(curve: list[tuple[float, float]], count: int = 40) -> list[tuple[float, float]]:
    """Points of cubic pieces, the two ends left out."""
    points = []
    for start in range(0, len(curve) - 1, 3):
        piece = curve[start : start + 4]
        for step in range(1, count):
            t = step / count
            factors = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
            x, y = (sum(f * point[axis] for f, point in zip(factors, piece, strict=True)) for axis in (0, 1))
            points.append((x, y))
    return points


def test_a_searched_stage_that_was_renormalised_is_still_one(full: Graph) -> None:
    nodes = [
        dataclasses.replace(node, op="identity", aggregate="normalised") if node.id.startswith("d") else node
        for node in full.nodes.values()
    ]
    assert Decoder.of(full.replace(nodes=nodes).verify()) == Decoder.of(full)
