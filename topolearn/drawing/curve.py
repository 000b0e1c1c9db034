"""Draws quantities over a share: lines with bands, and single points, in panels one above the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from topolearn.drawing.canvas import DIM, INK, NEGATIVE, POSITIVE, check_path, heading, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT, GAP = 5.6, 2.6, 0.14
"""Inches: width of the panels, height of a panel of height 1, and gap between two panels."""
LEFT, RIGHT, ABOVE, BELOW = 0.75, 0.2, 0.45, 0.55
FONT = 8.0
COLOURS = (POSITIVE, "#6e7781")
"""Colours of the first and the second line."""


@dataclass(frozen=True)
class Line:
    """A quantity as a line over the share.

    Attributes:
        name: Name in the legend.
        x: Shares, ascending.
        y: The quantity at each share.
        spread: Half the height of the band at each share; None for no band.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    spread: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Mark:
    """A single point.

    Attributes:
        name: Name in the legend.
        x: The share.
        y: The quantity.
    """

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class CurvePanel:
    """A panel for one quantity.

    Attributes:
        label: Name of the quantity.
        lines: At most two lines, with the same names in all panels.
        mark: The single point.
        height: Height relative to other panels.
        is_share: Whether the quantity is a share, shown in per cent, or a plain number.
    """

    label: str
    lines: tuple[Line, ...]
    mark: Mark
    height: float = 1.0
    is_share: bool = True


def draw_curves(panels: Sequence[CurvePanel], path: Path | str, *, title: str, below: str) -> None:
    """Draw panels over one axis of shares; the first panel has the legend.

    An SVG has the groups ``line-PANEL-LINE``, ``band-PANEL-LINE`` and ``mark-PANEL`` (numbers from 0).

    Args:
        panels: Panels from top to bottom.
        path: An SVG, PNG or PDF file; written whole or not at all.
        title: Title above the panels.
        below: Label of the axis of shares.

    Raises:
        TopolearnError: The file cannot be written, or has another suffix.
    """
    path = Path(path)
    check_path(path)
    from matplotlib.figure import Figure

    heights = [HEIGHT * panel.height for panel in panels]
    width = LEFT + WIDTH + RIGHT
    height = ABOVE + sum(heights) + GAP * (len(panels) - 1) + BELOW
    figure = Figure(figsize=(width, height), facecolor="white")
    figure.text(
        LEFT / width, 1 - 0.22 / height, heading(title), fontsize=FONT + 2, fontweight="bold", color=INK, va="center"
    )
    top = height - ABOVE
    for number, (panel, tall) in enumerate(zip(panels, heights, strict=True)):
        axes = figure.add_axes((LEFT / width, (top - tall) / height, WIDTH / width, tall / height))
        _draw_panel(axes, panel, number)
        if number == 0:
            axes.legend(loc="best", fontsize=FONT - 0.5, frameon=False, labelcolor=INK, handlelength=1.6)
        last = number == len(panels) - 1
        axes.tick_params(labelbottom=last)
        if last:
            axes.set_xlabel(below, fontsize=FONT, color=DIM)
        top -= tall + GAP
    save(figure, path)


def _draw_panel(axes: Axes, panel: CurvePanel, number: int) -> None:
    from matplotlib.ticker import MultipleLocator, PercentFormatter, ScalarFormatter

    for place, (line, colour) in enumerate(zip(panel.lines, COLOURS, strict=False)):
        (curve,) = axes.plot(
            line.x, line.y, color=colour, linewidth=1.6, marker="o", markersize=3, label=line.name, zorder=3 - place
        )
        curve.set_gid(f"line-{number}-{place}")
        if line.spread is not None:
            band = axes.fill_between(
                line.x,
                [y - spread for y, spread in zip(line.y, line.spread, strict=True)],
                [y + spread for y, spread in zip(line.y, line.spread, strict=True)],
                color=colour,
                alpha=0.2,
                linewidth=0,
                zorder=1,
            )
            band.set_gid(f"band-{number}-{place}")
    (mark,) = axes.plot(
        panel.mark.x,
        panel.mark.y,
        linestyle="none",
        marker="D",
        markersize=6,
        markerfacecolor=NEGATIVE,
        markeredgecolor="white",
        label=panel.mark.name,
        zorder=4,
    )
    mark.set_gid(f"mark-{number}")
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MultipleLocator(0.1))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0) if panel.is_share else ScalarFormatter(useOffset=False))
    axes.set_ylabel(panel.label, fontsize=FONT, color=DIM)
    axes.yaxis.set_label_coords(0.2 / WIDTH - LEFT / WIDTH, 0.5)  # aligned with the labels of other panels
    axes.tick_params(labelsize=FONT - 1, colors=DIM, length=3, width=0.6)
    axes.grid(True, color="#eaeef2", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#afb8c1")
        spine.set_linewidth(0.6)
