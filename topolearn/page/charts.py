"""Charts of numbers over epochs and steps, which can be zoomed and name what is under the mouse."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bokeh.models import GridPlot, Model

GREY = "#7d8590"
"""Colour of text and lines: readable on white and on black."""
COLOURS = ("#1f6feb", "#d1570c", "#2a8153", "#a63d7a", "#a87512", "#6e50b5", "#0b7285", "#b8483b")
"""Colours of lines; they come back if there are more lines."""
WIDTH, HEIGHT = 1040, 260
SMALL_WIDTH, SMALL_HEIGHT = 340, 200
"""Pixels of a chart, and of each of several side by side."""
ABREAST = 3
MOST_TARGETS = 36
"""Largest number of targets that are drawn; those whose values moved most are."""
MOST_NUMBERS = 1_000_000
"""Largest number of values of movements in a page: about 8 MB. With more, steps are left out evenly."""


@dataclass(frozen=True)
class Curve:
    """A quantity over epochs.

    Attributes:
        name: What it is of, such as the name of a run.
        x: Epochs, ascending.
        y: The quantity after each of these epochs.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def curves(
    label: str, lines: Sequence[Curve], *, x_label: str = "epoch", marks: Mapping[str, float] | None = None
) -> Model:
    """Draw curves in one chart.

    Args:
        label: Name of the quantity.
        lines: The curves.
        x_label: Name of the horizontal axis.
        marks: Name of a moment -> its place; each becomes an upright line.
    """
    from bokeh.models import HoverTool
    from bokeh.models.annotations import Label, Span

    chart = plot(WIDTH, HEIGHT, x_label, label)
    for i, curve in enumerate(lines):
        colour = COLOURS[i % len(COLOURS)]
        data: dict[str, Any] = {"x": curve.x, "y": curve.y, "name": [curve.name] * len(curve.x)}
        legend = {"legend_label": curve.name} if len(lines) > 1 else {}
        chart.line("x", "y", source=data, color=colour, line_width=2, **legend)
        dots = chart.scatter("x", "y", source=data, color=colour, size=5)
        chart.add_tools(HoverTool(renderers=[dots], tooltips=[("", "@name"), (x_label, "@x"), (label, "@y{0.0000}")]))
    if marks:
        chart.x_range.range_padding = 0.06  # room for the first name
    for name, place in (marks or {}).items():
        chart.add_layout(Span(location=place, dimension="height", line_color=GREY, line_dash="dashed"))
        chart.add_layout(
            Label(x=place, y=0, y_units="screen", x_offset=4, text=name, text_color=GREY, text_font_size="11px")
        )
    if len(lines) > 1:
        chart.legend.label_text_color = GREY
        chart.legend.background_fill_alpha = 0.0
        chart.legend.border_line_alpha = 0.0
        chart.legend.location = "center"
        chart.add_layout(chart.legend[0], "right")
    finished: Model = chart
    return finished


def dots(label: str, rows: Mapping[str, Mapping[int, float]]) -> Model:
    """Draw the runs of a comparison: a row for each recipe, a dot for each seed, and a line at the mean.

    A bar reaches from one sample standard deviation below the mean to one above it.

    Args:
        label: Name of the quantity.
        rows: Name of a recipe -> seed -> the quantity. A recipe without runs has an empty row.
    """
    from bokeh.models import FactorRange, HoverTool
    from bokeh.models.annotations import Span

    names = list(rows)
    height = 90 + 28 * len(names)
    chart = plot(WIDTH, height, label, "", y_range=FactorRange(factors=names[::-1]))
    for name, runs in rows.items():
        values = list(runs.values())
        if len(values) > 1:
            mean, spread = statistics.fmean(values), statistics.stdev(values)
            chart.hbar([name], left=[mean - spread], right=[mean + spread], height=0.5, color=COLOURS[0], alpha=0.2)
            chart.scatter([mean], [name], marker="dash", angle=math.pi / 2, size=16, color=COLOURS[0], line_width=2)
    points = [(name, seed, value) for name, runs in rows.items() for seed, value in runs.items()]
    data = dict(zip(("name", "seed", "value"), map(list, zip(*points, strict=True)), strict=False))
    if data:
        found = chart.scatter("value", "name", source=data, size=8, color=COLOURS[0], fill_alpha=0.6)
        tooltips = [("", "@name"), ("seed", "@seed"), (label, "@value{0.0000}")]
        chart.add_tools(HoverTool(renderers=[found], tooltips=tooltips))
    chart.ygrid.grid_line_color = None
    for row in range(1, len(names)):
        chart.add_layout(Span(location=row, dimension="width", line_color=GREY, line_alpha=0.25))
    finished: Model = chart
    return finished


def movements(
    steps: npt.NDArray[Any], values: npt.NDArray[Any], edges: Sequence[tuple[str, str]], kept: Sequence[bool]
) -> tuple[GridPlot, int]:
    """Draw how the learner's values of edges moved during a search, in one small chart for each target.

    Args:
        steps: (R,) steps taken.
        values: (R, L) values of the learnable edges.
        edges: (L,) source and target of each edge.
        kept: (L,) whether each edge was kept.

    Returns:
        The charts, and the number of targets without one, because there are more than :data:`MOST_TARGETS`.
    """
    from bokeh.layouts import gridplot
    from bokeh.models import HoverTool

    targets: dict[str, list[int]] = {}
    for i, (_, target) in enumerate(edges):
        targets.setdefault(target, []).append(i)
    finite = np.nan_to_num(values.astype(np.float32))
    moved = {target: float(np.abs(np.diff(finite[:, own], axis=0)).sum()) for target, own in targets.items()}
    most = set(sorted(moved, key=lambda target: -moved[target])[:MOST_TARGETS])
    shown = {target: own for target, own in targets.items() if target in most}
    every = -(-len(steps) * sum(map(len, shown.values())) // MOST_NUMBERS) or 1
    rows = np.unique(np.append(np.arange(0, len(steps), every), len(steps) - 1))
    charts: list[Any] = []
    for target, own in shown.items():
        chart = plot(SMALL_WIDTH, SMALL_HEIGHT, "step", "", title=f"into {target}")
        chart.toolbar_location = None
        for state, colour, alpha in ((False, "#b9c0c8", 0.8), (True, COLOURS[0], 0.9)):
            chosen = [i for i in own if kept[i] == state]
            if chosen:
                data = {
                    "x": [steps[rows].astype(np.int32)] * len(chosen),
                    "y": [values[rows, i].astype(np.float32) for i in chosen],
                    "source": [edges[i][0] for i in chosen],
                    "state": ["kept" if state else "removed"] * len(chosen),
                    "last": [float(values[-1, i]) for i in chosen],
                }
                lines = chart.multi_line("x", "y", source=data, color=colour, alpha=alpha, line_width=1.5)
                tooltips = [("from", "@source"), ("", "@state"), ("at the end", "@last{0.0000}")]
                chart.add_tools(HoverTool(renderers=[lines], tooltips=tooltips))
        charts.append(chart)
    return gridplot(charts, ncols=ABREAST, merge_tools=False, toolbar_location=None), len(targets) - len(shown)


def plot(width: int, height: int, x_label: str, y_label: str, **options: Any) -> Any:
    """Return an empty chart of Bokeh that looks right on white and on black."""
    from bokeh.plotting import figure

    chart: Any = figure(
        width=width,
        height=height,
        tools="pan,wheel_zoom,box_zoom,reset",
        x_axis_label=x_label,
        y_axis_label=y_label,
        background_fill_alpha=0.0,
        border_fill_alpha=0.0,
        outline_line_color=None,
        **options,
    )
    chart.toolbar.logo = None
    chart.title.text_color = GREY
    for axis in chart.axis:
        axis.axis_label_text_color = axis.major_label_text_color = GREY
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = GREY
        axis.axis_label_text_font_style = "normal"
    chart.grid.grid_line_color = GREY
    chart.grid.grid_line_alpha = 0.25
    return chart
