"""Draws images and maps of their pixels (labels, predictions) in rows, with the colours of classes below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from topolearn.drawing.canvas import DIM, INK, check_path, save, text_width
from topolearn.drawing.palette import Colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0
"""Inches: 900 pixels, as images in an SVG have 100 pixels per inch."""
MARGIN, GAP = 0.15, 0.08
"""Inches around everything, and between pictures."""
TALLEST = 1.2
"""Maximum height of a row relative to the width of a column; taller images are drawn narrower."""
HEADING, LINE, SWATCH = 0.28, 0.23, 0.13
"""Inches: height of the column names, height of a line of the legend, side of a colour square in it."""
FONT = 8.5
"""Points."""


def draw_rows(
    rows: Sequence[Sequence[Colours]], path: Path | str, headings: Sequence[str], legend: Sequence[tuple[str, Colours]]
) -> None:
    """Draw rows of pictures, each as wide as its column.

    In an SVG the picture of a column and a row (from 0) is the image ``HEADING-ROW``.

    Args:
        rows: One (H, W, 3) uint8 picture per heading in each row; the pictures of a row have one size.
        path: An SVG, PNG or PDF file; written whole or not at all.
        headings: Names of the columns.
        legend: Names and (3,) colours of classes, in lines below the rows.

    Raises:
        TopolearnError: The file cannot be written, or has another suffix.
    """
    path = Path(path)
    check_path(path)
    save(_figure(rows, headings, legend), path)


def _figure(
    rows: Sequence[Sequence[Colours]], headings: Sequence[str], legend: Sequence[tuple[str, Colours]]
) -> Figure:
    """Return the figure; one unit of the page is an inch, from its top."""
    from matplotlib.figure import Figure

    column = (WIDTH - 2 * MARGIN - (len(headings) - 1) * GAP) / len(headings)
    heights = [column * min(TALLEST, row[0].shape[0] / row[0].shape[1]) for row in rows]
    figure = Figure(facecolor="white")
    page = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    for place, heading in enumerate(headings):
        x = MARGIN + place * (column + GAP)
        page.text(x, MARGIN + 0.06, heading, fontsize=FONT + 1, fontweight="bold", color=INK, va="center_baseline")
    top = MARGIN + HEADING
    tall = _draw_legend(page, legend, top + sum(heights) + GAP * (len(heights) - 1)) + MARGIN
    figure.set_size_inches(WIDTH, tall)
    page.axis("off")
    page.set_xlim(0, WIDTH)
    page.set_ylim(tall, 0)
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for place, picture in enumerate(row):
            width = min(column, height * picture.shape[1] / picture.shape[0])
            left = MARGIN + place * (column + GAP) + (column - width) / 2
            axes = figure.add_axes((left / WIDTH, 1 - (top + height) / tall, width / WIDTH, height / tall))
            axes.axis("off")
            shown = axes.imshow(picture, aspect="auto")
            shown.set_gid(f"{headings[place]}-{number}")
        top += height + GAP
    return figure


def _draw_legend(page: Axes, legend: Sequence[tuple[str, Colours]], top: float) -> float:
    """Draw names and their colours in lines, from ``top`` downwards; return the y where they end."""
    from matplotlib.patches import Rectangle

    x, y = WIDTH, top + GAP + 0.12 - LINE
    for name, colour in legend:
        width = SWATCH + 0.06 + text_width(name, FONT) + 0.14
        if x + width > WIDTH - MARGIN:
            x, y = MARGIN, y + LINE
        square = (x, y - SWATCH / 2)
        page.add_patch(Rectangle(square, SWATCH, SWATCH, facecolor=tuple(colour / 255), edgecolor=DIM, linewidth=0.5))
        page.text(x + SWATCH + 0.06, y, name, fontsize=FONT, color=DIM, va="center", parse_math=False)
        x += width
    return y - 0.12 - GAP + LINE
