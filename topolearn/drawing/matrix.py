"""The learnable edges of a graph as matrices of their values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from topolearn.drawing.canvas import check_path, heading, save
from topolearn.drawing.heatmap import heatmap
from topolearn.drawing.panels import panels
from topolearn.errors import GraphError
from topolearn.graph import Graph


def adjacency(
    graph: Graph,
    path: Path | str,
    values: Sequence[float] | None = None,
    kept: Sequence[bool] | None = None,
    title: str | None = None,
) -> None:
    """Draw targets (rows) by sources (columns) of the learnable edges, coloured by their values.

    What has no source and no target in common becomes a matrix of its own: one for each pair of
    neighbouring modules of a ResNeXt. Kept edges are blue (negative ones orange) with a border, dropped
    ones grey; the darker, the larger. In an SVG the group ``kept`` holds the borders, where cells are large
    enough to have any.

    Args:
        graph: A graph with learnable edges, the searched one.
        path: An SVG, PNG or PDF file; appears whole or not at all.
        values: (E,) a learner's values of all edges, as masks; the edges' own weights where not given.
        kept: (E,) which edges are left; where not given, those whose value is not 0.
        title: What stands above, the graph's name where not given.

    Raises:
        TopolearnError: No learnable edges, not one value per edge, or a file that cannot be written.
    """
    path = Path(path)
    check_path(path)
    if not graph.candidates:
        raise GraphError(
            f"graph '{graph.name}' has no learnable edges to draw; for what a run learned, name its folder"
        )
    found = [edge.weight for edge in graph.edges] if values is None else [float(value) for value in values]
    if len(found) != len(graph.edges):
        raise GraphError(f"{len(found)} values do not fit a graph of {len(graph.edges)} edges")
    left = [value != 0.0 for value in found] if kept is None else list(kept)
    save(heatmap(panels(graph), found, left, heading(title or graph.name)), path)
