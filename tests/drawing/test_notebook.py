"""What graphs, networks and results show in a notebook."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import topolearn
from topolearn.drawing import draw, svg

SVG = "{http://www.w3.org/2000/svg}"


def test_a_graph_shows_its_picture(tmp_path: Path) -> None:
    graph = topolearn.load_graph("digits")
    draw(graph, tmp_path / "graph.svg")
    text = graph._repr_svg_()
    assert text == svg(graph)
    assert (tmp_path / "graph.svg").read_text(encoding="utf-8").endswith(text)
    assert ElementTree.fromstring(text).tag == f"{SVG}svg"
    assert topolearn.compile(graph)._repr_svg_() == text


def test_a_result_shows_its_table_and_its_graph() -> None:
    result = topolearn.fit("digits", epochs=2, device="cpu", quiet=True)
    html = result._repr_html_()
    root = ElementTree.fromstring(f"<div>{html}</div>")
    words = [cell.text for cell in root.iter("td")]
    assert "parameters" in words
    assert f"{result.graph.cost.params:,}" in words
    assert root.find(f"{SVG}svg") is not None
    assert svg(result.graph, result.searched) in html
