"""Pages in a real browser: nothing complains, nothing is loaded, and graphs can be explored."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

import topolearn
from tests.drawing.samples import keep_largest, values_of
from tests.page.browser import Browser, browser, needs_browser
from tests.page.test_document import full
from topolearn.format import loads
from topolearn.page import Page, dots, graph_view, movements

pytestmark = needs_browser

LOCAL = {"file", "data", "blob"}

# A chart of a page, by its number; then the place of a point of it in the window.
CHART = """
const charts = [];
const visit = view => {
  if (view.model.type === "Figure") charts.push(view);
  for (const child of view.child_views ?? []) visit(child);
};
for (const view of Bokeh.index.roots ?? Object.values(Bokeh.index)) visit(view);
const chart = charts[arguments[0]];
"""
PLACE = (
    CHART
    + """
chart.el.scrollIntoView({block: "center"});
const {left, top} = chart.canvas_view.el.getBoundingClientRect();
return [left + chart.frame.x_scale.compute(arguments[1]), top + chart.frame.y_scale.compute(arguments[2])];
"""
)
RANGE = CHART + "return [chart.model.x_range.start, chart.model.x_range.end];"
TOOLTIPS = """
const texts = [];
const visit = root => {
  for (const el of root.querySelectorAll("*")) {
    if (el.classList.contains("bk-Tooltip")) texts.push(el.shadowRoot ? el.shadowRoot.textContent : el.textContent);
    if (el.shadowRoot) visit(el.shadowRoot);
  }
};
visit(document);
return texts.join(" ");
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A page with a graph to explore, and its chart."""
    graph = topolearn.load_graph("digits")
    chart: Any = graph_view(keep_largest(graph, 2, values_of(graph)), graph)
    page = Page("graph")
    page.chart(chart)
    path = tmp_path_factory.mktemp("page") / "graph.html"
    page.write(path)
    return path, chart


def hover(chromium: Browser, place: list[float]) -> str:
    """Move the mouse to a place of the window, and return what is shown there."""
    actions = ActionChains(chromium.driver)
    for offset in (3, 0):  # a mouse that moves
        actions.w3c_actions.pointer_action.move_to_location(round(place[0]) + offset, round(place[1]))
    actions.perform()
    for _ in range(40):
        text: str = chromium.run(TOOLTIPS)
        if text:
            return text
        actions.pause(0.05).perform()
    return ""


def test_hostile_words_run_nothing_and_load_nothing(chromium: Browser, tmp_path: Path) -> None:
    page = full()
    page.write(tmp_path / "page.html")
    chromium.complaints(), chromium.requests()
    chromium.open(tmp_path / "page.html")
    assert chromium.complaints() == []
    assert chromium.requests() <= LOCAL
    assert chromium.driver.title.startswith("</script><img src=x")
    assert chromium.run("return document.images.length") == 0
    assert "</script><img src=x onerror" in chromium.run("return document.querySelector('h1').textContent")


def test_a_graph_can_be_explored(chromium: Browser, explored: tuple[Path, Any]) -> None:
    path, chart = explored
    chromium.open(path)
    nodes = chart.renderers[1].data_source.data
    i = nodes["name"].index("b3")
    place = chromium.run(PLACE, 0, nodes["x"][i], nodes["y"][i])
    text = hover(chromium, place)
    assert "b3" in text
    assert nodes["op"][i] in text
    assert nodes["params"][i] in text
    edges = chart.renderers[0].data_source.data
    j = edges["edge"].index("stem → a2")
    middle = len(edges["x"][j]) // 2
    text = hover(chromium, chromium.run(PLACE, 0, float(edges["x"][j][middle]), float(edges["y"][j][middle])))
    assert "stem → a2" in text
    before = chromium.run(RANGE, 0)
    origin = ScrollOrigin.from_viewport(round(place[0]), round(place[1]))
    ActionChains(chromium.driver).scroll_from_origin(origin, 0, -300).perform()
    after = chromium.run(RANGE, 0)
    assert after[1] - after[0] < before[1] - before[0]
    assert chromium.complaints() == []


def test_it_is_readable_on_black(explored: tuple[Path, Any]) -> None:
    with browser(dark=True) as dark:
        dark.open(explored[0])
        assert dark.run("return matchMedia('(prefers-color-scheme: dark)').matches")
        colour = dark.run("return getComputedStyle(document.querySelector('h1')).color")
        assert min(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) > 200
        assert dark.complaints() == []


LARGE = """
topolearn: 1
name: large
inputs: {image: [3, 8, 8]}
nodes:
  stem: {op: conv, out_channels: 2}
  n[1..1000]: {op: identity, input: {channels: 2, stride: 1}}
  head: {op: classifier, classes: 2}
edges:
  - {from: image, to: stem}
  - {connect: chain, nodes: [stem, "n[1..1000]", head]}
"""


def test_a_large_graph_and_its_movements(chromium: Browser, tmp_path: Path) -> None:
    longer = "".join(
        f"  - {{from: n{i}, to: [{', '.join(f'n{j}' for j in range(i + 2, min(i + 22, 1001)))}], learnable: true}}\n"
        for i in range(1, 999)
    )
    graph = loads(LARGE + longer + "outputs: [head]\n")
    assert len(graph.nodes) > 1000
    assert len(graph.edges) > 20_000
    edges = [(edge.src, edge.dst) for edge in graph.edges if edge.learnable]
    values = np.random.default_rng(0).random((300, len(edges)), np.float32)
    charts, left_out = movements(np.arange(300), values, edges, [True] * len(edges))
    assert left_out > 900
    page = Page("large")
    page.chart(graph_view(graph))
    page.chart(charts)
    page.write(tmp_path / "large.html")
    chromium.open(tmp_path / "large.html")
    assert chromium.run(CHART + "return chart.model.renderers[1].data_source.data.name.length", 0) == len(graph.nodes)
    assert chromium.complaints() == []


def test_the_dots_of_a_comparison_say_what_they_are(chromium: Browser, tmp_path: Path) -> None:
    name = "</script><img src=x onerror=alert(1)>"
    page = Page("comparison")
    page.chart(dots("accuracy", {name: {3: 0.5, 4: 0.75}, "other": {3: 0.6}}))
    page.write(tmp_path / "page.html")
    chromium.complaints(), chromium.requests()
    chromium.open(tmp_path / "page.html")
    place = chromium.run(PLACE.replace("arguments[2])]", "[arguments[2], 0])]"), 0, 0.75, name)
    text = hover(chromium, place)
    assert name in text
    assert "4" in text
    assert "0.7500" in text
    assert chromium.complaints() == []
    assert chromium.requests() <= LOCAL
