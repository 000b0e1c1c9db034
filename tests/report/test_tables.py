"""Tables on a terminal, as text and as Markdown."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import pytest
from rich.console import Console

import topolearn
from tests.drawing.samples import keep_largest, modules, values_of
from topolearn.ops import Shape
from topolearn.report import Change, NumberText, Table, compare, facts, headline, node_table, resolution
from topolearn.report.tables import is_share, metric_heading, metric_number, metric_spec

TABLE = Table(("name", "count", "share"), (("a|b", 12345, 0.5), ("c", None, 0.123456)), "Title", "a note")


def test_plain_columns_are_aligned() -> None:
    assert TABLE.plain() == "Title\nname   count   share\na|b   12,345     0.5\nc          –  0.1235\na note"


def test_html_shows_what_cells_hold_as_text() -> None:
    hostile = "</td><script>alert(1)</script>&\x1b[31m"
    found = Table((hostile, "count"), ((hostile, 1),), hostile, hostile).html()
    assert found.count("&lt;/td&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;") == 4
    assert "<script" not in found
    assert "\x1b" not in found
    root = ElementTree.fromstring(f"<div>{TABLE.html()}</div>")
    assert [[cell.text for cell in row] for row in root.iter("tr")] == [["name", "count", "share"], *TABLE.cells()]
    assert [cell.get("style") for cell in next(root.iter("tr"))] == [
        f"text-align: {side}" for side in ("left", "right", "right")
    ]


def test_markdown_escapes_bars_and_aligns_numbers() -> None:
    assert TABLE.markdown().splitlines() == [
        "**Title**",
        "",
        "| name | count | share |",
        "| --- | ---: | ---: |",
        "| a\\|b | 12,345 | 0.5 |",
        "| c | – | 0.1235 |",
        "",
        "a note",
    ]
    assert Table(("a",), (("x",),)).markdown() == "| a |\n| --- |\n| x |"


def test_rich_shows_every_cell_and_takes_no_markup() -> None:
    buffer = io.StringIO()
    Console(file=buffer, width=80).print(Table(("[bold]", "n"), (("block[1..3]", 3),), "T").rich())
    text = buffer.getvalue()
    assert all(word in text for word in ("T", "[bold]", "block[1..3]", "3"))


def test_a_row_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 values does not fit 2 columns"):
        Table(("a", "b"), ((1,),))


@pytest.mark.parametrize(
    ("change", "before", "after", "difference"),
    [
        (Change("params", 1000, 250), "1,000", "250", "-75.0%"),
        (Change("accuracy", 0.951, 0.964, ".2%"), "95.10%", "96.40%", "+1.30 points"),
        (Change("bits_per_byte", 2.0, 1.5, metric_spec("bits_per_byte")), "2.0000", "1.5000", "-25.0%"),
        (Change("latency", 2.0, 1.5, ".2f", " ms"), "2.00 ms", "1.50 ms", "-25.0%"),
        (Change("new", None, 3), "", "3", ""),
        (Change("gone", 3, None), "3", "", ""),
        (Change("from nothing", 0, 3), "0", "3", ""),
        (Change("same", 7, 7), "7", "7", "+0.0%"),
    ],
)
def test_before_and_after(change: Change, before: str, after: str, difference: str) -> None:
    table = compare([change])
    assert table.columns == ("", "given", "final", "change")
    assert table.rows == ((change.name, before, after, difference),)
    assert table.is_numeric(1)
    assert isinstance(table.rows[0][1], NumberText)


@pytest.mark.parametrize(
    ("metric", "value", "spec", "heading", "number"),
    [
        ("accuracy", 0.12345, ".2%", "accuracy, %", "12.35"),
        ("miou", 1.0, ".2%", "miou, %", "100.00"),
        ("ods", 0.5, ".2%", "ods, %", "50.00"),
        ("error", 0.5, ".4f", "error", "0.5000"),
        ("mae", 0.05, ".4f", "mae", "0.0500"),
        ("bits_per_byte", 2.41784, ".4f", "bits_per_byte", "2.4178"),
        ("loss", 12.0, ".4f", "loss", "12.0000"),
    ],
)
def test_a_metric_is_a_share_in_per_cent_or_a_plain_number(
    metric: str, value: float, spec: str, heading: str, number: str
) -> None:
    assert metric_spec(metric) == spec
    assert (metric_heading(metric), metric_number(metric, value)) == (heading, number)
    assert is_share(metric) == heading.endswith("%")


def test_headings_and_title_of_a_comparison() -> None:
    table = compare([Change("edges", 10, 5)], title="What was learned", before="searched", after="learned")
    assert table.plain().splitlines()[:2] == ["What was learned", "       searched  learned  change"]


def test_a_graph_in_numbers() -> None:
    graph = topolearn.load_graph("resnet38-cifar100")
    known = facts(graph)
    assert {key: known[key] for key in ("name", "nodes", "edges", "learnable_edges", "params")} == {
        "name": "resnet38-cifar100",
        "nodes": 21,
        "edges": 156,
        "learnable_edges": 153,
        "params": 567_220,
    }
    assert headline(graph).splitlines() == [
        "resnet38-cifar100: classification, data cifar100",
        "21 nodes, 156 edges (153 learnable, up to 17 into a node)",
        "567,220 parameters, 83,024,128 MACs",
    ]


def test_the_size_of_a_dense_prediction_is_told() -> None:
    graph = topolearn.load_graph("unet-mobilenetv2-voc")
    shape = graph.shapes[graph.outputs[0]]
    assert isinstance(shape, Shape)
    high, wide = shape.size(graph.image)
    size = f"{graph.outputs[0]} gives 21×{high}×{wide} for {graph.image[0]}×{graph.image[1]}"
    assert resolution(graph) == size
    assert headline(graph).endswith(f" MACs; {size}")
    assert resolution(topolearn.load_graph("digits")) == ""


def test_nodes_in_a_table() -> None:
    graph = topolearn.load_graph("resnet38-cifar100")
    table = node_table(graph)
    rows = {row[0]: row for row in table.rows}
    assert len(rows) == 21
    assert rows["image"] == ("image", "input", "", "", "3×32×32", 0, 0, 0, 0, 1)
    assert rows["block7"] == (
        "block7", "resnet.basic", "mean", "16×32×32", "32×16×16", 13_952, 16 * 16 * 9 * 32 * 48, 6, 6, 11
    )  # fmt: skip
    assert rows["head"][3:5] == ("64×8×8", "100")
    assert table.note is None
    short = node_table(graph, limit=5)
    assert len(short.rows) == 5
    assert short.note == "… and 16 more nodes"


def test_degrees_before_and_after() -> None:
    graph = modules(4)
    small = keep_largest(graph, 1, values_of(graph))
    table = node_table(small, graph)
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert set(rows) == set(small.nodes)
    readers = sum(edge.src == "m1_1" for edge in small.edges)
    assert 0 < readers < 4
    assert (rows["m1_1"]["in-edges"], rows["m1_1"]["out-edges"]) == (1, f"4 → {readers}")
    assert (rows["m2_1"]["in-edges"], rows["m2_1"]["learnable"]) == ("4 → 1", 4)
    assert all(table.is_numeric(table.columns.index(name)) for name in ("in-edges", "learnable", "out-edges"))
    gone = [name for name in graph.nodes if name not in small.nodes]
    assert gone
    assert table.note == f"removed nodes: {', '.join(gone)}"
    assert node_table(small, graph, limit=2).note == (
        f"… and {len(small.nodes) - 2} more nodes; removed nodes: {', '.join(gone[:2])}, …"
    )


def test_edges_that_cost_something_are_noted() -> None:
    graph = topolearn.load_graph("resnet38-cifar100")
    from dataclasses import replace

    edges = tuple(replace(edge, op="project") if edge.dst == "block2" else edge for edge in graph.edges)
    note = node_table(graph.replace(edges=edges).verify()).note
    assert note == "edges: 288 parameters, 262,144 MACs"


def test_a_value_on_the_way_has_a_column_of_its_own() -> None:
    table = compare([Change("accuracy", None, 0.9, ".2%", between=0.8), Change("edges", 10, 5)], note="what to do")
    assert table.columns == ("", "given", "end of search", "final", "change")
    assert table.cells() == [["accuracy", "", "80.00%", "90.00%", ""], ["edges", "10", "", "5", "-50.0%"]]
    assert table.plain().endswith("what to do")


@pytest.mark.parametrize(
    ("quartiles", "change"),
    [
        (((1.9, 2.1), (1.4, 1.6)), "-25.0%"),
        (((1.6, 2.1), (1.4, 1.6)), ""),
        (((1.9, 2.1), (1.4, 3.0)), ""),
        (((1.4, 3.0), (1.5, 1.6)), ""),
    ],
)
def test_a_difference_that_may_be_chance_is_not_shown(
    quartiles: tuple[tuple[float, float], tuple[float, float]], change: str
) -> None:
    latency = Change("latency", 2.0, 1.5, ".1f", " ms", quartiles=quartiles)
    (cells,) = compare([latency]).cells()
    (low, high), _ = quartiles
    assert cells[1] == f"2.0 ({low}–{high}) ms"
    assert cells[-1] == change
