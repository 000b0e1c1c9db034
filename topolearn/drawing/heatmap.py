"""Draws matrices of edge values in one figure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from topolearn.drawing.canvas import DIM, INK, NEGATIVE, POSITIVE, text_width, write
from topolearn.drawing.layout import Point, range_text, stem
from topolearn.drawing.panels import MatrixPanel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.6
"""Maximum width of matrices side by side, in inches."""
FONT = 7.0
SMALL = 6.0
"""Points: text, and labels of rows and columns."""
NUMBERED = 0.26
"""Minimum side of a cell in inches for writing its value into it."""
NAMED = 0.1
"""Minimum side of a cell for naming its row and column."""
BORDERED = 0.15
"""Minimum side of a cell for a border if its edge is kept."""
RULED = 0.06
"""Minimum side of a cell for lines around it."""
MAX_NUMBERS = 400
"""Maximum number of values written."""
STEPS = 64
"""Number of shades of each colour."""
MAX_RECTANGLES = 10_000
"""With more cells than this, they are an image: pixels of a few bytes each."""
PIXELS = 8
"""Most pixels along each side of a cell of an image; some programs blur an image of one pixel per cell."""
SIDE = 4_096
"""Most pixels along each side of an image, if its cells have more than one."""
MARGIN = 0.22

_Floats = npt.NDArray[np.float64]
_Shades = tuple[str, str, str]
KEPT: _Shades = ("#cfe2fd", POSITIVE, "#0b3d91")
NEGATED: _Shades = ("#fde0cc", NEGATIVE, "#7a2d04")
DROPPED: _Shades = ("#f3f5f7", "#b9c0c8", "#6e7781")
"""Colours of small, middling and large values."""


@dataclass(frozen=True)
class _Labels:
    """Names along one side of a matrix: position in cells, and text."""

    texts: tuple[tuple[float, str], ...]

    @property
    def width(self) -> float:
        return max((text_width(text, SMALL) for _, text in self.texts), default=0.0)


def heatmap(panels: Sequence[MatrixPanel], values: Sequence[float], kept: Sequence[bool], title: str) -> Figure:
    """Draw matrices side by side, in as many rows as they need.

    Args:
        panels: The matrices.
        values: (E,) value of every edge.
        kept: (E,) whether each edge is kept.
        title: Title above the matrices.
    """
    return _Painter(panels, values, kept, title).figure()


class _Painter:
    def __init__(
        self, panels: Sequence[MatrixPanel], values: Sequence[float], kept: Sequence[bool], title: str
    ) -> None:
        self.panels = panels
        self.values = values
        self.kept = kept
        shown = [index for panel in panels for index in panel.cells.values()]
        self.count, self.left = len(shown), sum(kept[index] for index in shown)
        self.largest = max(abs(values[index]) for index in shown) or 1.0
        self.negative = any(kept[index] and values[index] < 0 for index in shown)
        self.positive = any(kept[index] and values[index] >= 0 for index in shown)
        staged = any(len(panel.rows) > 1 or len(panel.columns) > 1 for panel in panels)
        self.heading = (
            title,
            (f"{self.left:,} of " if self.left < self.count else "")
            + f"{self.count:,} learnable edges{' kept' if self.left < self.count else ''}; row reads column"
            + ("; dark lines part stages" if staged else ""),
        )
        self.cell = self._cell()
        signed, size = np.array(values), np.abs(values) / self.largest
        by_sign = np.where(signed[:, None] >= 0, _colours(KEPT, size), _colours(NEGATED, size))
        self.colours = np.where(np.array(kept)[:, None], by_sign, _colours(DROPPED, size))
        """(E, 3) red, green, blue of every edge."""

    def _cell(self) -> float:
        """Return the side of a cell: large if all matrices fit side by side, else two inches for the largest matrix."""
        largest = max(max(len(panel.targets), len(panel.sources)) for panel in self.panels)
        abreast = (WIDTH - 0.5 * len(self.panels)) / sum(len(panel.sources) for panel in self.panels)
        tall = 7.0 / max(len(panel.targets) for panel in self.panels)
        return max(min(0.3, abreast, tall), min(0.2, 2.0 / largest))

    # -- figure --------------------------------------------------------------------------------

    def figure(self) -> Figure:
        from matplotlib.figure import Figure

        cell, single = self.cell, len(self.panels) == 1
        left = [self._labels(panel.targets, panel.rows) for panel in self.panels]
        under = [self._labels(panel.sources, panel.columns) for panel in self.panels]
        indent = max(labels.width for labels in left) + 0.1
        foot = max(self._depth(labels) for labels in under) + 0.06
        head = 0.0 if single else 0.2
        sizes = [
            (
                max(cell * len(panel.sources), 0.0 if single else text_width(panel.title, FONT) - indent),
                cell * len(panel.targets),
            )
            for panel in self.panels
        ]
        places, across, down = _flow([(indent + wide + 0.1, head + tall + foot + 0.12) for wide, tall in sizes])
        wide = max(across, *(text_width(text, FONT + 2.5 - 1.5 * i) for i, text in enumerate(self.heading)), 3.2)
        width, height = wide + 2 * MARGIN, down + 1.3
        figure = Figure(figsize=(width, height), facecolor="white")
        page = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        # One unit of the page is an inch.
        page.axis("off")
        borders = []
        for number, (panel, rows, columns, (x, y)) in enumerate(zip(self.panels, left, under, places, strict=True)):
            corner = (MARGIN + x + indent, height - 0.7 - y - head)  # upper left
            self._draw_cells(page, panel, corner, f"cells-{number}")
            self._draw_lines(page, panel, corner)
            self._draw_values(page, panel, corner)
            self._draw_names(page, rows, columns, corner, cell * len(panel.targets))
            if not single:
                page.text(corner[0], corner[1] + 0.08, panel.title, fontsize=FONT, color=INK, va="baseline")
            borders += self._borders(panel, corner)
        self._draw_borders(page, borders)
        for i, text in enumerate(self.heading):
            style: dict[str, Any] = {"fontweight": "bold", "color": INK} if i == 0 else {"color": DIM}
            page.text(MARGIN, height - 0.26 - 0.2 * i, text, fontsize=FONT + 2 - 1.5 * i, va="center", **style)
        self._draw_legend(page)
        page.set_xlim(0, width)
        page.set_ylim(0, height)
        return figure

    def _labels(self, names: Sequence[str], stages: Sequence[Sequence[str]]) -> _Labels:
        """Return every node's id, only its number if the title says the rest, or stages if cells are too small."""
        if self.cell < NAMED:
            if len(self.panels) > 1 and len({stem(name) for name in names}) == 1:
                return _Labels(())
            starts = itertools.accumulate([0, *map(len, stages)])
            return _Labels(
                tuple((start + len(stage) / 2, range_text(stage)) for start, stage in zip(starts, stages, strict=False))
            )
        numbers = len(self.panels) > 1 and len(names) > 1 and len({stem(name) for name in names}) == 1
        texts = (name.removeprefix(stem(name)) if numbers else name for name in names)
        return _Labels(tuple((i + 0.5, text) for i, text in enumerate(texts)))

    def _depth(self, columns: _Labels) -> float:
        """Return how far the names under a matrix reach down."""
        return columns.width if self._upright(columns) else 0.12

    def _upright(self, columns: _Labels) -> bool:
        """Whether names are rotated, because they would overlap otherwise."""
        places = [place for place, _ in columns.texts]
        closest = min((second - first for first, second in itertools.pairwise(places)), default=1e9)
        return columns.width > 0.9 * closest * self.cell

    # -- one matrix ----------------------------------------------------------------------------

    def _draw_cells(self, page: Axes, panel: MatrixPanel, corner: Point, group: str) -> None:
        colours = self.colours[list(panel.cells.values())]
        if self.count <= MAX_RECTANGLES:
            corners = [self._at(corner, *place) for place in panel.cells]
            _rectangles(page, corners, (self.cell, self.cell), colours, group)
            return
        pixels = np.full((len(panel.targets), len(panel.sources), 3), 255, np.uint8)
        rows, columns = zip(*panel.cells, strict=True)
        pixels[rows, columns] = np.round(255 * colours)
        right, bottom = self._at(corner, *pixels.shape[:2])
        each = max(1, min(PIXELS, SIDE // max(pixels.shape)))
        pixels = pixels.repeat(each, axis=0).repeat(each, axis=1)
        # With 'none' an SVG holds the pixels themselves.
        extent = (corner[0], right, bottom, corner[1])
        page.imshow(pixels, extent=extent, aspect="auto", interpolation="none", zorder=-1).set_gid(group)

    def _draw_lines(self, page: Axes, panel: MatrixPanel, corner: Point) -> None:
        """Draw lines between cells, and stronger lines between stages."""
        from matplotlib.collections import LineCollection

        fine: list[list[Point]] = []
        strong: list[list[Point]] = []
        for axis, stages in enumerate((panel.rows, panel.columns)):
            # Lines are only along candidates: a staircase in a complete graph.
            along: dict[int, list[int]] = {}
            for place in panel.cells:
                for line in (place[axis], place[axis] + 1):
                    along.setdefault(line, []).append(place[1 - axis])
            *inner, last = itertools.accumulate(map(len, stages))
            for line, cells in along.items():
                ends = ((line, min(cells)), (line, max(cells) + 1))
                segment = [self._at(corner, *(end if axis == 0 else end[::-1])) for end in ends]
                if line in inner:
                    strong.append(segment)
                elif self.cell >= RULED or line in (0, last):
                    fine.append(segment)
        page.add_collection(LineCollection(fine, colors="#d0d7de", linewidths=0.4, zorder=3), autolim=False)
        page.add_collection(LineCollection(strong, colors=INK, linewidths=0.9, zorder=6), autolim=False)

    def _at(self, corner: Point, row: float, column: float) -> Point:
        """Return the upper left corner of a cell."""
        return (corner[0] + self.cell * column, corner[1] - self.cell * row)

    def _draw_values(self, page: Axes, panel: MatrixPanel, corner: Point) -> None:
        """Write the values into the cells if there is room."""
        if self.cell < NUMBERED or self.count > MAX_NUMBERS or self.largest >= 10:
            return
        for (row, column), index in panel.cells.items():
            red, green, blue = self.colours[index]
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
            page.text(
                *self._at(corner, row + 0.5, column + 0.5),
                number(self.values[index]),
                fontsize=5.5,
                color="white" if dark else INK,
                ha="center",
                va="center_baseline",
                zorder=5,
                gid=f"value-{panel.sources[column]}-{panel.targets[row]}",
            )

    def _draw_names(self, page: Axes, rows: _Labels, columns: _Labels, corner: Point, tall: float) -> None:
        (x, y), cell = corner, self.cell
        for place, text in rows.texts:
            page.text(x - 0.06, y - cell * place, text, fontsize=SMALL, color=DIM, ha="right", va="center_baseline")
        upright = self._upright(columns)
        for place, text in columns.texts:
            page.text(
                x + cell * place,
                y - tall - 0.05,
                text,
                fontsize=SMALL,
                color=DIM,
                rotation=90 if upright else 0,
                ha="center",
                va="top",
            )

    def _borders(self, panel: MatrixPanel, corner: Point) -> list[Point]:
        """Return the upper left corners of the cells of kept edges."""
        return [self._at(corner, row, column) for (row, column), index in panel.cells.items() if self.kept[index]]

    def _draw_borders(self, page: Axes, corners: Sequence[Point]) -> None:
        from matplotlib.collections import PathCollection
        from matplotlib.path import Path as Curve

        if self.cell < BORDERED or not corners or len(corners) == self.count:
            return
        points, codes = [], []
        inset, side = 0.006, self.cell - 0.012
        for left, top in corners:
            x, y = left + inset, top - inset
            points += [(x, y), (x + side, y), (x + side, y - side), (x, y - side), (x, y)]
            codes += [Curve.MOVETO, Curve.LINETO, Curve.LINETO, Curve.LINETO, Curve.CLOSEPOLY]
        borders = PathCollection(
            [Curve(points, codes)], facecolors="none", edgecolors=KEPT[2], linewidths=0.8, zorder=4, clip_on=False
        )
        borders.set_gid("kept")
        page.add_collection(borders, autolim=False)

    # -- legend --------------------------------------------------------------------------------

    def _draw_legend(self, page: Axes) -> None:
        """Draw a bar of shades for each kind of edge, from 0 to the largest value."""
        x, y = MARGIN, 0.3
        word = "kept" if self.left < self.count else "value"
        kinds = [(word, KEPT)] if self.positive else []
        kinds += [(f"{word}, negative", NEGATED)] if self.negative else []
        kinds += [("dropped", DROPPED)] if self.left < self.count else []
        for word, shades in kinds:
            x = write(page, x, y, f"{word}  0", FONT) + 0.06
            corners = [(x + 0.55 * i / STEPS, y + 0.05) for i in range(STEPS)]
            _rectangles(page, corners, (0.55 / STEPS, 0.1), _colours(shades, np.linspace(0, 1, STEPS)))
            sign = "−" if shades is NEGATED else ""
            x = write(page, x + 0.6, y, f"{sign}{self.largest:.3g}", FONT) + 0.2


def number(value: float) -> str:
    """Format a value in at most four characters: ``.52``, ``1.0``, ``−.30``."""
    text = f"{abs(value):.2f}" if abs(value) < 0.995 else f"{abs(value):.1f}"
    return f"{'−' if value < 0 else ''}{text.removeprefix('0')}"


def _colours(shades: _Shades, shares: _Floats) -> _Floats:
    """Return the (..., 3) colours at ``shares``, from 0 (small) to 1 (large): one of :data:`STEPS`."""
    from matplotlib.colors import LinearSegmentedColormap

    colours: _Floats = LinearSegmentedColormap.from_list("shades", shades, N=STEPS)(shares)[..., :3]
    return colours


def _rectangles(page: Axes, corners: Sequence[Point], size: Point, colours: _Floats, group: str | None = None) -> None:
    """Draw rectangles of one size by their upper left corners; those of one colour are one path."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path as Curve

    (wide, tall) = size
    outlines: dict[tuple[float, ...], list[Point]] = {}
    for (x, y), colour in zip(corners, colours.tolist(), strict=True):
        outline = [(x, y), (x + wide, y), (x + wide, y - tall), (x, y - tall), (x, y)]
        outlines.setdefault(tuple(colour), []).extend(outline)
    piece = [Curve.MOVETO, Curve.LINETO, Curve.LINETO, Curve.LINETO, Curve.CLOSEPOLY]
    paths = [Curve(points, piece * (len(points) // 5)) for points in outlines.values()]
    # The thin outline closes the gaps that rounding would leave between neighbours.
    cells = PathCollection(
        paths, facecolors=list(outlines), edgecolors="face", linewidths=0.1, zorder=-1, clip_on=False
    )
    cells.set_gid(group)
    page.add_collection(cells, autolim=False)


def _flow(sizes: Sequence[Point]) -> tuple[list[Point], float, float]:
    """Place boxes like words of a text; return their upper left corners, with y downwards, and the total size."""
    places = []
    x = y = tall = across = 0.0
    for width, height in sizes:
        if x and x + width > WIDTH:
            x, y, tall = 0.0, y + tall, 0.0
        places.append((x, y))
        x, tall = x + width, max(tall, height)
        across = max(across, x)
    return places, across, y + tall
