"""Charts and graphs hold what they are given: every curve, every edge, its values and its costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bokeh.models import GlyphRenderer, HoverTool, MultiLine, Rect

import topolearn
from tests.drawing.samples import keep_largest, modules, values_of
from topolearn.drawing import place
from topolearn.graph import Graph
from topolearn.page import Curve, charts, curves, graph_view, movements


def renderers(chart: Any, kind: type) -> list[GlyphRenderer]:
    return [each for each in chart.renderers if isinstance(each.glyph, kind)]


def columns(renderer: GlyphRenderer) -> dict[str, list[Any]]:
    data: dict[str, list[Any]] = {key: list(values) for key, values in renderer.data_source.data.items()}
    return data


def test_curves_have_a_legend_if_there_are_several() -> None:
    alone: Any = curves("loss", [Curve("a", (1, 2), (0.5, 0.25))])
    assert not alone.legend
    both: Any = curves("loss", [Curve("a", (1, 2), (0.5, 0.25)), Curve("b", (1,), (1.0,))], marks={"search": 0.5})
    assert [item.label.value for item in both.legend[0].items] == ["a", "b"]
    assert columns(both.renderers[0])["y"] == [0.5, 0.25]


class TestGraphs:
    @pytest.fixture(params=["digits", "resnet38-cifar100", "fdn-mobilenetv2-camvid", "modules"])
    def graph(self, request: pytest.FixtureRequest) -> Graph:
        return modules(15) if request.param == "modules" else topolearn.load_graph(request.param)

    def test_nodes_say_what_they_are_and_cost(self, graph: Graph) -> None:
        chart: Any = graph_view(graph)
        (nodes,) = renderers(chart, Rect)
        found = columns(nodes)
        assert sorted(found["name"]) == sorted(graph.nodes)
        for name, op, params in zip(found["name"], found["op"], found["params"], strict=True):
            assert op == graph.nodes[name].op
            assert params == f"{graph.cost.nodes[name].params:,}"
        assert not any(found["state"])

    def test_what_was_removed_is_there_too(self, graph: Graph) -> None:
        small = keep_largest(graph, 1, values_of(graph))
        chart: Any = graph_view(small, graph)
        (nodes,), (edges,) = renderers(chart, Rect), renderers(chart, MultiLine)
        found = columns(nodes)
        gone = {name for name, state in zip(found["name"], found["state"], strict=True) if state == "removed"}
        assert gone == graph.nodes.keys() - small.nodes.keys()
        lines = columns(edges)
        kept = {(edge.src, edge.dst) for edge in small.edges}
        drawn = [tuple(words.split(" → ")) for words in lines["edge"]]
        assert drawn == place(small, graph).scene.drawn
        assert kept <= set(drawn)
        for pair, state, weight in zip(drawn, lines["state"], lines["weight"], strict=True):
            assert (state == "removed") == (pair not in kept) == (weight == "")

    def test_edges_lead_from_node_to_node(self, graph: Graph) -> None:
        chart: Any = graph_view(graph)
        (nodes,), (edges,) = renderers(chart, Rect), renderers(chart, MultiLine)
        found, lines = columns(nodes), columns(edges)
        at = {name: i for i, name in enumerate(found["name"])}
        for words, xs, ys in zip(lines["edge"], lines["x"], lines["y"], strict=True):
            for name, x, y in zip(words.split(" → "), (xs[0], xs[-1]), (ys[0], ys[-1]), strict=True):
                i = at[name]
                assert abs(x - found["x"][i]) <= found["width"][i] / 2 + 0.05
                assert abs(y - found["y"][i]) <= found["height"][i] / 2 + 0.05


class TestMovements:
    STEPS = np.arange(0, 50, 5)

    def test_each_target_has_a_chart_with_its_edges(self) -> None:
        edges = [("a", "c"), ("b", "c"), ("a", "d")]
        values = np.arange(30.0).reshape(10, 3)
        grid, left_out = movements(self.STEPS, values, edges, [True, False, True])
        found: list[Any] = [child for child, *_ in grid.children]
        assert left_out == 0
        assert [chart.title.text for chart in found] == ["into c", "into d"]
        removed, kept = renderers(found[0], MultiLine)
        assert columns(removed)["source"] == ["b"]
        assert columns(kept)["source"] == ["a"]
        assert columns(kept)["state"] == ["kept"]
        assert np.array_equal(columns(kept)["y"][0], values[:, 0])
        assert np.array_equal(columns(kept)["x"][0], self.STEPS)
        assert all(("from", "@source") in tool.tooltips for tool in found[0].tools if isinstance(tool, HoverTool))

    def test_of_many_targets_those_that_moved_most_are_drawn(self) -> None:
        count = charts.MOST_TARGETS + 4
        edges = [("a", f"t{i}") for i in range(count)]
        values = np.outer(np.arange(10.0), np.arange(count))
        grid, left_out = movements(self.STEPS, values, edges, [True] * count)
        assert left_out == 4
        titles = [chart.title.text for chart, *_ in grid.children]
        assert titles == [f"into t{i}" for i in range(4, count)]

    def test_of_very_many_values_some_steps_are_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(charts, "MOST_NUMBERS", 8)
        grid, _ = movements(self.STEPS, np.zeros((10, 2)), [("a", "c"), ("b", "c")], [True, True])
        ((chart, *_),) = grid.children
        (lines,) = renderers(chart, MultiLine)
        assert columns(lines)["x"][0].tolist() == [0, 15, 30, 45]
