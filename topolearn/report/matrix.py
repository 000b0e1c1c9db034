"""The learnable edges of a graph as a matrix of their values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from topolearn.errors import GraphError
from topolearn.graph import Graph
from topolearn.report.canvas import NEGATIVE, POSITIVE, check_path, save

MAX_LABELS = 40
"""Most labels on an axis; of more, every n-th is written."""


def adjacency(graph: Graph, path: Path | str, weights: Sequence[float] | None = None, title: str | None = None) -> None:
    """Draw targets (rows) by sources (columns) of the learnable edges, coloured by their values.

    Args:
        graph: A graph with learnable edges, the searched one.
        path: An SVG, PNG or PDF file; appears whole or not at all.
        weights: (E,) values of all edges, 0 for dropped ones; the edges' own where not given.
        title: What stands above, the graph's name where not given.

    Raises:
        TopolearnError: No learnable edges, as many weights as edges are not given, or a file that
            cannot be written.
    """
    path = Path(path)
    check_path(path)
    if not graph.candidates:
        raise GraphError(f"graph '{graph.name}' has no learnable edges to draw")
    values = [edge.weight for edge in graph.edges] if weights is None else [float(weight) for weight in weights]
    if len(values) != len(graph.edges):
        raise GraphError(f"{len(values)} weights do not fit a graph of {len(graph.edges)} edges")

    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    learnable = [index for indices in graph.candidates.values() for index in indices]
    used = {graph.edges[index].src for index in learnable}
    sources = [name for name in graph.nodes if name in used]
    targets = [name for name in graph.nodes if name in graph.candidates]
    row, column = ({name: i for i, name in enumerate(names)} for names in (targets, sources))
    matrix = np.full((len(targets), len(sources)), np.nan)
    for index in learnable:
        edge = graph.edges[index]
        matrix[row[edge.dst], column[edge.src]] = values[index]
    largest = float(np.nanmax(np.abs(matrix))) or 1.0
    signed = bool(np.nanmin(matrix) < 0)
    kept = int(np.count_nonzero(np.nan_to_num(matrix)))

    cell = min(0.28, 7.0 / max(matrix.shape))
    label = 0.075 * max(map(len, [*sources, *targets])) + 0.3
    wide, tall = cell * len(sources), cell * len(targets)
    width, height = max(wide + label + 1.1, 3.6), tall + label + 0.75
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((label / width, label / height, wide / width, tall / height))
    axes.set_facecolor("#dfe3e8")  # no candidate
    shades = [NEGATIVE, "white", POSITIVE] if signed else ["white", POSITIVE]
    image = axes.imshow(
        np.ma.masked_invalid(matrix),
        cmap=LinearSegmentedColormap.from_list("weights", shades),
        vmin=-largest if signed else 0.0,
        vmax=largest,
        aspect="auto",
        interpolation="nearest",
    )
    if cell > 0.1:
        for i in range(len(targets) + 1):
            axes.axhline(i - 0.5, color="#c9d0d8", linewidth=0.5)
        for j in range(len(sources) + 1):
            axes.axvline(j - 0.5, color="#c9d0d8", linewidth=0.5)
    for axis, names in ((axes.xaxis, sources), (axes.yaxis, targets)):
        step = -(-len(names) // MAX_LABELS)
        axis.set_ticks(range(0, len(names), step), names[::step], fontsize=7)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", rotation=90)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.add_axes(((label + wide + 0.18) / width, label / height, 0.12 / width, tall / height))
    scale = figure.colorbar(image, cax=bar)
    scale.outline.set_visible(False)
    scale.ax.tick_params(labelsize=7, length=2)
    heading = f"{title or graph.name}: {kept:,} of {len(learnable):,} learnable edges"
    figure.text(0.2 / width, 1 - 0.25 / height, heading, fontsize=9, fontweight="bold", color="#24292f")
    figure.text(
        0.2 / width, 1 - 0.45 / height, "rows take, columns give; grey: no candidate", fontsize=7, color="#57606a"
    )
    save(figure, path)
