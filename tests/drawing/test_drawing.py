"""What is in the drawing of a learned graph: modules in rows, learned edges, empty branches."""

from __future__ import annotations

from pathlib import Path

import pytest

import topolearn
from tests.drawing.samples import Drawing, keep_largest, modules, values_of
from topolearn.drawing import draw
from topolearn.drawing.layout import Box, arrange
from topolearn.drawing.scene import FAMILIES, MAX_PRUNED, Scene
from topolearn.graph import Graph

FILL = FAMILIES["residual block"][1]


def drawing(learned: Graph, searched: Graph, folder: Path) -> Drawing:
    draw(learned, folder / "graph.svg", searched)
    return Drawing(folder / "graph.svg")


@pytest.fixture(scope="module")
def searched() -> Graph:
    return modules(15)


@pytest.fixture(scope="module")
def learned(searched: Graph) -> Graph:
    return keep_largest(searched, 3, values_of(searched))


def branches(graph: Graph) -> set[str]:
    return {name for name in graph.nodes if name.startswith("m")}


def test_learned_edges_join_the_branches_that_they_join(searched: Graph, learned: Graph, tmp_path: Path) -> None:
    picture = drawing(learned, searched, tmp_path)
    kept = [name for name in searched.nodes if name in branches(learned)]
    place = dict(zip(kept, (point for point, _ in picture.marks("nodes-kept")), strict=True))
    drawn = {(line[0][0], line[1][0]) for line in picture.curves("edges-learned")}
    edges = [(edge.src, edge.dst) for edge in learned.edges if {edge.src, edge.dst} <= branches(learned)]
    assert len(picture.curves("edges-learned")) == len(edges) > 20
    assert drawn == {(place[src][0], place[dst][0]) for src, dst in edges}
    # An SVG's y goes down: rows follow each other from top to bottom.
    assert all(place[src][1] < place[dst][1] for src, dst in edges)


def test_every_module_is_a_row_and_pruned_branches_are_empty(searched: Graph, learned: Graph, tmp_path: Path) -> None:
    picture = drawing(learned, searched, tmp_path)
    kept, pruned = picture.marks("nodes-kept"), picture.marks("nodes-pruned")
    assert len(kept) == len(branches(learned))
    assert len(pruned) == len(branches(searched)) - len(branches(learned)) > 0
    assert {style.partition(";")[0] for _, style in kept} == {f"fill: {FILL}"}
    assert {style.partition(";")[0] for _, style in pruned} == {"fill: #ffffff"}
    rows: dict[float, list[float]] = {}
    for (x, y), _ in [*kept, *pruned]:
        rows.setdefault(y, []).append(x)
    assert len(rows) == 3
    assert len({tuple(sorted(xs)) for xs in rows.values()}) == 1  # one below the other
    assert all(len(set(xs)) == 15 for xs in rows.values())


def test_rows_are_named_and_counted(searched: Graph, learned: Graph, tmp_path: Path) -> None:
    words = drawing(learned, searched, tmp_path).words()
    for number in (1, 2, 3):
        left = sum(name.startswith(f"m{number}_") for name in learned.nodes)
        assert words[words.index(f"m{number}_[1..15]") + 1] == f"{left} of 15"


def test_pruned_and_fixed_edges_are_told_apart(searched: Graph, learned: Graph, tmp_path: Path) -> None:
    picture = drawing(learned, searched, tmp_path)
    pruned, fixed = picture.curves("edges-pruned"), picture.curves("edges-fixed")
    assert len(pruned) == len(searched.edges) - len(learned.edges)
    assert len(fixed) == sum(not {edge.src, edge.dst} <= branches(learned) for edge in learned.edges)
    assert "removed" in picture.words()


def test_too_many_pruned_edges_are_left_out_and_the_heading_says_so(tmp_path: Path) -> None:
    searched = modules(20)
    learned = keep_largest(searched, 1, values_of(searched))
    gone = len(searched.edges) - len(learned.edges)
    assert gone > MAX_PRUNED
    picture = drawing(learned, searched, tmp_path)
    assert "edges-pruned" not in picture.groups
    assert f"the {gone} pruned edges are not drawn" in picture.words()
    assert "pruned" not in picture.words()


def test_boxes_of_removed_nodes_are_empty(tmp_path: Path) -> None:
    searched = topolearn.load_graph("digits")
    learned = keep_largest(searched, 2, values_of(searched))
    picture = drawing(learned, searched, tmp_path)
    removed = searched.nodes.keys() - learned.nodes.keys()
    assert removed
    for name in searched.nodes:
        style = picture.style(f"node-{name}")
        assert ("fill: #ffffff" in style and "stroke-dasharray" in style) == (name in removed)
    candidates = {(edge.src, edge.dst) for edge in searched.edges if edge.learnable}
    left = [edge for edge in learned.edges if (edge.src, edge.dst) in candidates]
    assert len(picture.curves("edges-learned")) == len(left) > 0


def test_a_complete_graph_keeps_its_line(tmp_path: Path) -> None:
    searched = topolearn.load_graph("resnet110-cifar100")
    scene = Scene(searched)
    assert scene.line
    assert not scene.rows
    assert len(scene.dots) == 54


@pytest.mark.parametrize("name", ["digits", "resnet38-cifar100", "resnext29-8x8-cifar100"])
def test_pictures_are_small(name: str, tmp_path: Path) -> None:
    searched = topolearn.load_graph(name)
    learned = keep_largest(searched, 4, values_of(searched))
    assert len(drawing(learned, searched, tmp_path).text) < 200_000


def test_an_edge_that_passes_a_row_goes_round_its_squares() -> None:
    names = ["s", *(f"a{i}" for i in range(3)), *(f"b{i}" for i in range(3)), "t"]
    edges = [("s", f"a{i}") for i in range(3)] + [(f"a{i}", f"b{i}") for i in range(3)]
    edges += [(f"b{i}", "t") for i in range(3)] + [("a1", "t")]
    boxes = dict.fromkeys(names, Box(0.2, 0.2))
    layout = arrange(names, edges, boxes, rows=True)
    assert [len(layout.curves[pair]) for pair in edges[:-1]] == [2] * 9
    xs = {layout.centres[f"b{i}"][0] for i in range(3)}
    y = layout.centres["b0"][1]
    passing = [point for point in layout.curves["a1", "t"] if abs(point[1] - y) < 0.11]
    assert passing
    assert all(abs(x - point[0]) > 0.1 for x in xs for point in passing)
    assert layout.low[0] <= min(x for curve in layout.curves.values() for x, _ in curve)
