"""A graph that can be moved and zoomed; nodes and edges under the mouse say what they are and cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from topolearn.drawing import Placed, place
from topolearn.drawing.layout import Pair, Point
from topolearn.graph import Graph
from topolearn.page.charts import WIDTH, plot
from topolearn.report.summary import size_text

if TYPE_CHECKING:
    from bokeh.models import Model

MOST_HEIGHT = 900
"""Pixels."""
PIECES = 12
"""Straight pieces of each cubic piece of a curve."""


def graph_view(graph: Graph, searched: Graph | None = None) -> Model:
    """Draw a graph, or a learned graph within the searched one, to be explored.

    Args:
        graph: The graph.
        searched: The graph that it was learned in. What was removed is drawn faintly.
    """
    from bokeh.models import HoverTool, Range1d

    placed = place(graph, searched)
    (left, low), (right, high) = placed.layout.low, placed.layout.high
    height = min(MOST_HEIGHT, max(200, round(WIDTH * (high - low + 0.6) / (right - left + 0.6))))
    chart = plot(WIDTH, height, "", "", match_aspect=True, active_scroll="wheel_zoom", active_drag="pan")
    chart.axis.visible = False
    chart.grid.visible = False
    chart.x_range = Range1d(start=left - 0.3, end=right + 0.3)
    chart.y_range = Range1d(start=low - 0.3, end=high + 0.3)
    edges = chart.multi_line(
        "x", "y", source=_edges(placed), line_color="colour", line_width="width", line_alpha="alpha", line_cap="round"
    )
    nodes = chart.rect(
        "x", "y", width="width", height="height", source=_nodes(placed, graph), fill_color="fill", line_color="outline"
    )
    chart.add_tools(
        HoverTool(renderers=[edges], tooltips=[("edge", "@edge"), ("weight", "@weight"), ("", "@state")]),
        HoverTool(
            renderers=[nodes],
            tooltips=[
                ("node", "@name"),
                ("op", "@op"),
                ("gives", "@shape"),
                ("parameters", "@params"),
                ("MACs", "@macs"),
                ("", "@state"),
            ],
        ),
    )
    named = {name: box for name, box in placed.layout.boxes.items() if name not in placed.scene.dots}
    chart.text(
        x=[placed.layout.centres[name][0] for name in named],
        y=[placed.layout.centres[name][1] for name in named],
        text=list(named),
        angle=np.pi / 2 if placed.upright else 0.0,
        text_align="center",
        text_baseline="middle",
        text_font_size="10px",
        text_color="#24292f",
    )
    finished: Model = chart
    return finished


def _nodes(placed: Placed, graph: Graph) -> dict[str, list[Any]]:
    """Return a column for each thing that a node shows or says."""
    scene, layout = placed.scene, placed.layout
    found: dict[str, list[Any]] = {key: [] for key in _NODE}
    for name in scene.order:
        whole = graph if name in graph.nodes or scene.searched is None else scene.searched
        cost = whole.cost.nodes[name]
        fill, outline = scene.look_of(name)
        box = layout.boxes[name]
        row = (
            *layout.centres[name],
            box.width,
            box.height,
            name,
            scene.nodes[name].op,
            size_text(whole.shapes[name], whole.image),
            f"{cost.params:,}",
            f"{cost.macs:,}",
            "" if name in graph.nodes else "removed",
            fill,
            outline,
        )
        for key, value in zip(_NODE, row, strict=True):
            found[key].append(value)
    return found


_NODE = ("x", "y", "width", "height", "name", "op", "shape", "params", "macs", "state", "fill", "outline")


def _edges(placed: Placed) -> dict[str, list[Any]]:
    """Return a column for each thing that an edge shows or says."""
    scene = placed.scene
    found: dict[str, list[Any]] = {key: [] for key in _EDGE}
    for pair in scene.drawn:
        stroke, line = scene.strokes[pair], _line(placed.layout.curves[pair])
        edge = scene.kept.get(pair, scene.edges[pair])
        row = (
            line[:, 0],
            line[:, 1],
            _words(pair),
            f"{edge.weight:.4g}" if pair in scene.kept else "",
            {"pruned": "removed"}.get(stroke.kind, stroke.kind),
            stroke.colour,
            stroke.width,
            stroke.alpha,
        )
        for key, value in zip(_EDGE, row, strict=True):
            found[key].append(value)
    return found


_EDGE = ("x", "y", "edge", "weight", "state", "colour", "width", "alpha")


def _words(pair: Pair) -> str:
    return f"{pair[0]} → {pair[1]}"


def _line(curve: list[Point]) -> npt.NDArray[np.float32]:
    """Return the (N, 2) corners of a line that follows a curve of cubic pieces; see :class:`Layout`."""
    points = np.array(curve)
    if len(points) == 2:
        return points.astype(np.float32)
    t = np.linspace(0.0, 1.0, PIECES + 1)[:, None]
    pieces = [points[:1]]
    for i in range(0, len(points) - 1, 3):
        a, b, c, d = points[i : i + 4]
        pieces.append(((1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d)[1:])
    return np.concatenate(pieces).astype(np.float32)
