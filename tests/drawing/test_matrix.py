"""Matrices of edge values: which there are, and that every cell shows its edge."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import topolearn
from tests.drawing.samples import Drawing, keep_largest, kept_largest, modules, values_of
from topolearn.drawing import adjacency, heatmap
from topolearn.drawing.heatmap import number
from topolearn.drawing.panels import panels
from topolearn.errors import TopolearnError
from topolearn.format import loads
from topolearn.graph import Graph


@pytest.fixture(scope="module")
def digits() -> Graph:
    return topolearn.load_graph("digits")


def drawing(folder: Path, graph: Graph, *arguments: object, **options: object) -> Drawing:
    adjacency(graph, folder / "matrix.svg", *arguments, **options)  # type: ignore[arg-type]
    return Drawing(folder / "matrix.svg")


class TestPanels:
    def test_neighbouring_modules_are_one_matrix_each(self) -> None:
        graph = modules(5, count=4)
        found = panels(graph)
        assert [panel.title for panel in found] == [f"m{i}_[1..5] → m{i + 1}_[1..5]" for i in (1, 2, 3)]
        assert all((len(panel.targets), len(panel.sources), len(panel.cells)) == (5, 5, 25) for panel in found)
        for panel in found:
            for (row, column), index in panel.cells.items():
                edge = graph.edges[index]
                assert (edge.src, edge.dst) == (panel.sources[column], panel.targets[row])
        assert sorted(index for panel in found for index in panel.cells.values()) == sorted(
            index for indices in graph.candidates.values() for index in indices
        )

    def test_a_complete_graph_is_one_matrix_of_stages(self) -> None:
        (panel,) = panels(topolearn.load_graph("resnet38-cifar100"))
        assert (len(panel.targets), len(panel.sources), len(panel.cells)) == (17, 17, 153)
        assert [len(stage) for stage in panel.rows] == [5, 6, 6]
        assert [len(stage) for stage in panel.columns] == [6, 6, 5]
        assert panel.title == "block[1..17] → block[2..18]"

    def test_targets_of_different_candidates(self, digits: Graph) -> None:
        assert [panel.title for panel in panels(digits)] == ["a[1..6] → b[1..6]", "b[1..6] → c[1..6]", "c[1..6] → join"]
        graph = loads(
            "topolearn: 1\nname: g\ninputs: {image: [3, 8, 8]}\nnodes:\n  a: {op: relu}\n  b[1..2]: {op: relu}\n"
            "  c: {op: relu}\nedges:\n  - {from: image, to: a, learnable: true}\n"
            '  - {connect: bipartite, from: [image, a], to: "b[1..2]", learnable: true}\n'
            '  - {from: "b[1..2]", to: c}\noutputs: [c]\n'
        )
        (panel,) = panels(graph)
        assert (panel.targets, panel.sources, len(panel.cells)) == (("a", "b1", "b2"), ("image", "a"), 5)
        assert panel.title == "image, a → a, b[1..2]"


class TestCells:
    def test_every_cell_shows_its_edge(self, digits: Graph, tmp_path: Path) -> None:
        values = values_of(digits)
        kept = kept_largest(digits, 3, values)
        picture = drawing(tmp_path, digits, values, kept)
        assert not picture.images()
        for i, panel in enumerate(panels(digits)):
            fills = picture.cells(f"cells-{i}")
            assert fills.keys() == panel.cells.keys()
            for place, index in panel.cells.items():
                assert (fills[place][2] - fills[place][0] > 0.15) == kept[index]
            for same in (True, False):
                cells = sorted((values[index], place) for place, index in panel.cells.items() if kept[index] == same)
                light = [fills[place].sum() for _, place in cells]
                assert all(first >= second - 1e-9 for first, second in itertools.pairwise(light))

    def test_values_are_written_into_large_cells(self, digits: Graph, tmp_path: Path) -> None:
        values = values_of(digits)
        picture = drawing(tmp_path, digits, values, kept_largest(digits, 3, values))
        for indices in digits.candidates.values():
            for index in indices:
                edge = digits.edges[index]
                assert picture.word(f"value-{edge.src}-{edge.dst}") == number(values[index])
        picture = drawing(tmp_path, modules(15))
        assert not any(name.startswith("value-") for name in picture.groups if name)

    def test_kept_edges_have_a_border(self, digits: Graph, tmp_path: Path) -> None:
        values = values_of(digits)
        marks = kept_largest(digits, 3, values)
        picture = drawing(tmp_path, digits, values, marks)
        kept = sum(mark and edge.learnable for mark, edge in zip(marks, digits.edges, strict=True))
        assert len(picture.curves("kept")) == kept > 10
        assert f"{kept} of 78 learnable edges kept; row reads column" in picture.words()

    def test_very_many_cells_are_enlarged_pixels(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        graph = topolearn.load_graph("resnet38-cifar100")
        assert len(drawing(tmp_path, graph, [0.0] * len(graph.edges)).cells("cells-0")) == 17 * 18 // 2
        monkeypatch.setattr(heatmap, "MAX_RECTANGLES", 100)
        (image,) = drawing(tmp_path, graph, [0.0] * len(graph.edges)).images()
        white = np.all(image == 1.0, axis=-1)  # what is no candidate
        assert np.array_equal(white, np.kron(np.triu(np.ones((17, 17), bool), 1), np.ones((8, 8), bool)))
        monkeypatch.setattr(heatmap, "SIDE", 90)  # a large image would need gigabytes
        (image,) = drawing(tmp_path, graph, [0.0] * len(graph.edges)).images()
        assert image.shape[:2] == (5 * 17, 5 * 17)

    def test_without_values_the_weights_are_drawn(self, digits: Graph, tmp_path: Path) -> None:
        picture = drawing(tmp_path, digits)
        assert "78 learnable edges; row reads column" in picture.words()
        assert "kept" not in picture.groups
        assert {word for word in picture.words() if word.startswith(("value", "kept", "dropped"))} == {"value  0"}

    def test_signs_have_colours_of_their_own(self, digits: Graph, tmp_path: Path) -> None:
        values = [-value for value in values_of(digits)]
        fills = drawing(tmp_path, digits, values).cells("cells-0")
        (panel, *_) = panels(digits)
        for place, index in panel.cells.items():
            assert (fills[place][0] - fills[place][2] > 0.1) == (values[index] < 0)

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.0, ".00"), (0.524, ".52"), (0.999, "1.0"), (1.0, "1.0"), (2.04, "2.0"), (-0.3, "−.30"), (-1.5, "−1.5")],
    )
    def test_numbers_are_short(self, value: float, text: str) -> None:
        assert number(value) == text


class TestFiles:
    def test_it_is_written_the_same_every_time(self, digits: Graph, tmp_path: Path) -> None:
        weights = np.linspace(-1, 1, len(digits.edges)).tolist()
        for name in ("one.svg", "two.svg"):
            adjacency(digits, tmp_path / name, weights, title="learned")
        assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()

    @pytest.mark.parametrize("name", ["digits", "resnet38-cifar100", "resnet110-cifar100", "resnext29-8x8-cifar100"])
    def test_it_is_small(self, name: str, tmp_path: Path) -> None:
        graph = topolearn.load_graph(name)
        values = values_of(graph)
        assert len(drawing(tmp_path, graph, values, kept_largest(graph, 4, values)).text) < 300_000

    @pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 1e9])
    def test_values_of_one_size(self, digits: Graph, tmp_path: Path, value: float) -> None:
        adjacency(digits, tmp_path / "one.png", [value] * len(digits.edges))
        assert (tmp_path / "one.png").stat().st_size > 1000

    def test_what_cannot_be_drawn(self, digits: Graph, tmp_path: Path) -> None:
        learned = keep_largest(digits, 1, values_of(digits))
        with pytest.raises(
            TopolearnError, match="graph 'digits' has no learnable edges to draw; to draw what a run learned"
        ):
            adjacency(learned, tmp_path / "one.svg")
        with pytest.raises(TopolearnError, match="3 values do not fit a graph of 86 edges"):
            adjacency(digits, tmp_path / "one.svg", [1.0, 2.0, 3.0])
        with pytest.raises(TopolearnError, match="give it one of the endings"):
            adjacency(digits, tmp_path / "one.gif")
        assert list(tmp_path.iterdir()) == []
