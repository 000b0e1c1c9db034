"""Pictures of images and of what is known of their pixels, row by row, with the colours of classes below."""

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
"""Inches: 900 pixels where an SVG has 100 of an image to the inch."""
MARGIN, GAP = 0.15, 0.08
"""Around everything, and between pictures."""
TALLEST = 1.2
"""Height of a row over the width of a column; taller images are drawn narrower."""
HEADING, LINE, SWATCH = 0.28, 0.23, 0.13
"""Height of the names of the columns and of a line of the legend; side of a colour in it."""
FONT = 8.5
"""Points."""


def draw_rows(
    rows: Sequence[Sequence[Colours]], path: Path | str, headings: Sequence[str], legend: Sequence[tuple[str, Colours]]
) -> None:
    """Draw rows of pictures, each as wide as its column.

    In an SVG the picture of a column and a row (from 0) is the image ``HEADING-ROW``.

    Args:
        rows: As many (H, W, 3) uint8 pictures as there are headings, all of a row of one size.
        path: An SVG, PNG or PDF file; appears whole or not at all.
        headings: What the columns show.
        legend: Names and (3,) colours of classes, in lines below the rows.

    Raises:
        TopolearnError: A file that cannot be written, or of another kind.
    """
    path = Path(path)
    check_path(path)
    save(_figure(rows, headings, legend), path)


def _figure(
    rows: Sequence[Sequence[Colours]], headings: Sequence[str], legend: Sequence[tuple[str, Colours]]
) -> Figure:
    """One unit of the page is an inch, from its top."""
    from matplotlib.figure import Figure

    column = (WIDTH - 2 * MARGIN - (len(headings) - 1) * GAP) / len(headings)
    heights = [column * min(TALLEST, row[0].shape[0] / row[0].shape[1]) for row in rows]
    lines = _lines([name for name, _ in legend])
    tall = MARGIN + HEADING + sum(heights) + GAP * (len(heights) - 1) + MARGIN + LINE * len(lines)
    figure = Figure(figsize=(WIDTH, tall), facecolor="white")
    page = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    page.axis("off")
    page.set_xlim(0, WIDTH)
    page.set_ylim(tall, 0)
    for place, heading in enumerate(headings):
        x = MARGIN + place * (column + GAP)
        page.text(x, MARGIN + 0.06, heading, fontsize=FONT + 1, fontweight="bold", color=INK, va="center_baseline")
    top = MARGIN + HEADING
    for number, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for place, picture in enumerate(row):
            width = min(column, height * picture.shape[1] / picture.shape[0])
            left = MARGIN + place * (column + GAP) + (column - width) / 2
            axes = figure.add_axes((left / WIDTH, 1 - (top + height) / tall, width / WIDTH, height / tall))
            axes.axis("off")
            shown = axes.imshow(picture, aspect="auto")
            shown.set_gid(f"{headings[place]}-{number}")
        top += height + GAP
    for number, line in enumerate(lines):
        _draw_line(page, [legend[i] for i in line], top + LINE * number + 0.12)
    return figure


def _lines(names: Sequence[str]) -> list[list[int]]:
    """Places of the names that stand in each line of the legend."""
    lines: list[list[int]] = []
    x = WIDTH
    for place, name in enumerate(names):
        width = _width(name)
        if x + width > WIDTH - MARGIN:
            lines.append([])
            x = MARGIN
        lines[-1].append(place)
        x += width
    return lines


def _width(name: str) -> float:
    return SWATCH + 0.06 + text_width(name, FONT) + 0.14


def _draw_line(page: Axes, entries: Sequence[tuple[str, Colours]], y: float) -> None:
    from matplotlib.patches import Rectangle

    x = MARGIN
    for name, colour in entries:
        square = (x, y - SWATCH / 2)
        page.add_patch(Rectangle(square, SWATCH, SWATCH, facecolor=tuple(colour / 255), edgecolor=DIM, linewidth=0.5))
        page.text(x + SWATCH + 0.06, y, name, fontsize=FONT, color=DIM, va="center", parse_math=False)
        x += _width(name)
