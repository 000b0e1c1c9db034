"""Draws the learnable edges of a graph as matrices of their values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from topolearn.drawing.canvas import check_path, embedded, heading, save
from topolearn.drawing.heatmap import heatmap
from topolearn.drawing.panels import panels
from topolearn.errors import GraphError
from topolearn.graph import Graph

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def adjacency(
    graph: Graph,
    path: Path | str,
    values: Sequence[float] | None = None,
    kept: Sequence[bool] | None = None,
    title: str | None = None,
) -> None:
    """Draw the learnable edges as matrices of targets (rows) by sources (columns), coloured by value.

    Edges without a common source or target go into separate matrices: one for each pair of neighbouring modules of a
    ResNeXt. Kept edges are blue (negative ones orange) with a border, dropped ones grey. Larger values are darker. In
    an SVG the group ``kept`` holds the borders, if cells are large enough for borders.

    Args:
        graph: The searched graph, with learnable edges.
        path: An SVG, PNG or PDF file; written whole or not at all.
        values: (E,) a learner's values of all edges, such as masks; default: the edges' weights.
        kept: (E,) which edges are kept; default: those with a value that is not 0.
        title: Title; default: the graph's name.

    Raises:
        TopolearnError: No learnable edges, not one value per edge, or the file cannot be written.
    """
    path = Path(path)
    check_path(path)
    save(_figure(graph, values, kept, title), path)


def adjacency_svg(
    graph: Graph,
    values: Sequence[float] | None = None,
    kept: Sequence[bool] | None = None,
    title: str | None = None,
) -> str:
    """Return the picture that :func:`adjacency` writes to an SVG file, to be part of a page."""
    return embedded(_figure(graph, values, kept, title))


def _figure(graph: Graph, values: Sequence[float] | None, kept: Sequence[bool] | None, title: str | None) -> Figure:
    if not graph.candidates:
        raise GraphError(
            f"graph '{graph.name}' has no learnable edges to draw; to draw what a run learned, name the run's folder"
        )
    found = [edge.weight for edge in graph.edges] if values is None else [float(value) for value in values]
    if len(found) != len(graph.edges):
        raise GraphError(f"{len(found)} values do not fit a graph of {len(graph.edges)} edges")
    left = [value != 0.0 for value in found] if kept is None else list(kept)
    return heatmap(panels(graph), found, left, heading(title or graph.name))
