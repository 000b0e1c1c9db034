"""Draws a graph: one graph alone, or a learned graph within the searched one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.drawing.canvas import DIM, INK, POSITIVE, check_path, embedded, heading, save, text_width, write
from topolearn.drawing.decoder_layout import arrange_decoder
from topolearn.drawing.layout import Box, Layout, Point, arrange, range_text, stem
from topolearn.drawing.scene import FAMILIES, GONE, Scene
from topolearn.graph import Graph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Curve

FONT = 8.0
"""Points."""
SMALL = 5.5
"""Points: degrees, at both ends of a box."""
MARGIN = 0.25
LINE = 0.22
"""Distance from one line of the legend to the next."""
BAND = "#f3f5f8"
"""Background of nodes of one resolution."""
SAMPLE = ("name", "in", "out")
"""Legend of a box."""
SOURCES = "into a decoder stage, from:"
"""Legend of a decoder's edges."""
WIDTHS = "|weight| over the largest into the same node:"
"""Legend of widths."""
RASTER_EDGES = 3000
"""With more edges than this, an SVG holds them as an image; more edges in one place are darker."""


def draw(graph: Graph, path: Path | str, searched: Graph | None = None, title: str | None = None) -> None:
    """Draw a graph to a file.

    A graph with many nodes in long ranges, such as a ResNeXt of single branches, is drawn as in the MaskConnect paper:
    modules are rows of squares, removed branches are empty squares, and learned edges are lines between them.

    A network with a decoder is drawn as an encoder above its decoder, with resolution falling from left to right and
    without pruned edges; see :mod:`topolearn.drawing.decoder_layout`.

    An SVG has the groups ``edges-fixed``, ``edges-learned``, ``edges-pruned``, ``nodes-kept`` and ``nodes-pruned``.
    A node that is a box has its own group, ``node-ID``.

    Args:
        graph: The graph to draw.
        path: An SVG, PNG or PDF file; written whole or not at all.
        searched: The graph that ``graph`` was learned in. Its pruned edges are drawn faintly, if they are few enough
            not to hide the learned ones; its removed nodes are empty outlines.
        title: First line of the heading; default: the graph's name.

    Raises:
        TopolearnError: The file cannot be written, or has another suffix.
    """
    path = Path(path)
    check_path(path)
    save(_Painter(Scene(graph, searched), heading(title or graph.name)).figure(), path)


@dataclass(frozen=True)
class Placed:
    """What a picture of a graph shows, and where.

    Attributes:
        scene: The nodes and edges, and how they look.
        layout: Their places, in inches, with y upwards.
        upright: Whether names are written from bottom to top.
    """

    scene: Scene
    layout: Layout
    upright: bool


def place(graph: Graph, searched: Graph | None = None) -> Placed:
    """Place the nodes and edges of a graph as :func:`draw` does, for another program to draw."""
    painter = _Painter(Scene(graph, searched), "")
    return Placed(painter.scene, painter.layout, painter.upright)


def svg(graph: Graph, searched: Graph | None = None) -> str:
    """Return the picture that :func:`draw` writes to an SVG file, to be part of a page."""
    return embedded(_Painter(Scene(graph, searched), heading(graph.name)).figure())


def _path(curves: Sequence[Sequence[Point]]) -> Curve:
    """Return curves of a layout as one path."""
    from matplotlib.path import Path as Curve

    codes = []
    for points in curves:
        piece = Curve.LINETO if len(points) == 2 else Curve.CURVE4
        codes += [Curve.MOVETO, *[piece] * (len(points) - 1)]
    return Curve([*itertools.chain(*curves)], codes)


def _side(end: str) -> float:
    """Return the inches that a degree at one end of a box needs, up to the name."""
    return text_width(end, SMALL) + 0.12 if end else 0.09


def _label_width(name: str, start: str, end: str) -> float:
    """Return the inches that a name and the degrees at its ends need."""
    return max(0.4, _side(start) + text_width(name, FONT) + _side(end))


def _label(name: str, start: str, end: str, length: float) -> list[tuple[str, float, float, str]]:
    """Return the texts in a box of ``length`` inches: text, offset from the middle, size in points, colour."""
    free = (length - text_width(name, FONT)) / 2
    middle = max(_side(start) - free, min(0.0, free - _side(end)))  # the box's middle, if there is room
    first, last = (length / 2 - 0.06 - text_width(text, SMALL) / 2 for text in (start, end))
    texts = [(name, middle, FONT, INK), (start, -first, SMALL, DIM), (end, last, SMALL, DIM)]
    return [each for each in texts if each[0]]


class _Painter:
    def __init__(self, scene: Scene, title: str) -> None:
        self.scene = scene
        self.upright = scene.line and len(scene.nodes) > 10
        """Whether boxes are upright, so that more of them fit on a line."""
        self.ends = {name: self._ends(name) for name in scene.order if name not in scene.dots}
        """Id -> in-degree and out-degree as text, for nodes that are boxes."""
        self.layout = self._layout()
        self.boxes = self.layout.boxes
        self.heading = [text for text in (title, scene.counts(), scene.left_out()) if text]

    def _layout(self) -> Layout:
        scene, boxes = self.scene, self._boxes()
        if scene.decoder is not None:
            return arrange_decoder(scene.decoder, scene.drawn, boxes)
        return arrange(scene.order, list(scene.edges), boxes, scene.drawn, rows=scene.rows)

    def _ends(self, name: str) -> tuple[str, str]:
        """Return both degrees as text; empty if a node never had edges. With a decoder, pruned edges do not count."""
        into, out = self.scene.degrees[name]
        if self.scene.decoder is not None:
            return f"{into.after or ''}", f"{out.after or ''}"
        return into.text() if into.before else "", out.text() if out.before else ""

    def _boxes(self) -> dict[str, Box]:
        boxes = {name: Box(size, size) for name, size in self.scene.dots.items()}
        widths = {name: _label_width(name, *ends) for name, ends in self.ends.items()}
        if self.upright:
            return boxes | dict.fromkeys(widths, Box(0.25, max(widths.values(), default=0.25)))
        return boxes | {name: Box(width, 0.25) for name, width in widths.items()}

    def figure(self) -> Figure:
        from matplotlib.figure import Figure

        layout, runs = self.layout, self._runs()
        figure = Figure(facecolor="white")
        # One unit of both is an inch: the page counts from its lower left corner, the axes are the layout's.
        page, axes = (figure.add_axes((0.0, 0.0, 1.0, 1.0)) for _ in range(2))
        beside = 0.1 if self.scene.rows else 0.0
        names = max((text_width(range_text(run), FONT - 1) for run in runs), default=0.0) * bool(beside) + beside
        counts = max((text_width(self._count(run), FONT - 1) for run in runs), default=0.0) * bool(beside) + beside
        drawing = layout.high[0] - layout.low[0] + names + counts
        legend = self._draw_legend(page)
        heading = (text_width(line, FONT + (3.5 if i == 0 else 0.5)) for i, line in enumerate(self.heading))
        wide = max(drawing, legend, *heading)
        tall = layout.high[1] - layout.low[1]
        captions = 0.3 if runs and not self.scene.rows else 0.0
        above, below = 0.34 + 0.19 * len(self.heading), 0.5 + LINE + captions
        width, height = wide + 2 * MARGIN, tall + above + below
        figure.set_size_inches(width, height)
        self._draw_bands(axes)
        self._draw_edges(axes)
        self._draw_boxes(axes)
        self._draw_dots(axes)
        self._draw_captions(axes, runs)
        for index, line in enumerate(self.heading):
            page.text(
                MARGIN,
                height - MARGIN - 0.2 * index - (0.05 if index else 0.0),
                line,
                fontsize=FONT + (3 if index == 0 else 0.5),
                fontweight="bold" if index == 0 else "normal",
                color=INK if index == 0 else DIM,
                va="center",
            )
        # Rows are centred between the text above and below.
        left = layout.low[0] - names - MARGIN - ((wide - drawing) / 2 if self.scene.rows else 0.0)
        for part, (x, y) in ((page, (0.0, 0.0)), (axes, (left, layout.low[1] - below))):
            part.axis("off")
            part.set_xlim(x, x + width)
            part.set_ylim(y, y + height)
        return figure

    def _draw_bands(self, axes: Axes) -> None:
        from matplotlib.patches import FancyBboxPatch

        for band in self.layout.bands:
            width, height = band.high[0] - band.low[0], band.high[1] - band.low[1]
            style = "round,pad=0,rounding_size=0.08"
            axes.add_patch(
                FancyBboxPatch(band.low, width, height, boxstyle=style, fc=BAND, lw=0, zorder=0, clip_on=False)
            )
            middle = (band.low[0] + band.high[0]) / 2
            axes.text(middle, band.y, band.words, fontsize=FONT - 1, color=DIM, ha="center", va="center_baseline")

    # -- edges ---------------------------------------------------------------------------------

    def _draw_edges(self, axes: Axes) -> None:
        from matplotlib.collections import PathCollection
        from matplotlib.colors import to_rgba

        strokes = self.scene.strokes
        raster = len(self.scene.drawn) > RASTER_EDGES
        for kind, pairs in itertools.groupby(self.scene.drawn, key=lambda pair: strokes[pair].kind):
            looks = [(strokes[pair].colour, strokes[pair].width, strokes[pair].alpha, pair) for pair in pairs]
            # Edges of the same look are one path in an SVG, which halves the bytes.
            groups = (
                [[look] for look in looks]
                if raster
                else [list(group) for _, group in itertools.groupby(looks, key=lambda look: look[:3])]
            )
            edges = PathCollection(
                [_path([self.layout.curves[pair] for *_, pair in group]) for group in groups],
                facecolors="none",
                edgecolors=[to_rgba(group[0][0], group[0][2]) for group in groups],
                linewidths=[group[0][1] for group in groups],
                capstyle="round",
                zorder=1,
                clip_on=False,
                rasterized=raster,
            )
            edges.set_gid(f"edges-{kind}")
            axes.add_collection(edges, autolim=False)

    # -- nodes ---------------------------------------------------------------------------------

    def _draw_boxes(self, axes: Axes) -> None:
        from matplotlib.patches import FancyBboxPatch

        for name in self.scene.order:
            if name in self.scene.dots:
                continue
            (x, y), box = self.layout.centres[name], self.boxes[name]
            alive = name in self.scene.graph.nodes
            fill, outline = self.scene.look_of(name)
            patch = FancyBboxPatch(
                (x - box.width / 2, y - box.height / 2),
                box.width,
                box.height,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=fill,
                edgecolor=outline,
                linestyle="-" if alive else (0, (2.5, 2)),
                linewidth=0.9,
                zorder=3,
                clip_on=False,
            )
            patch.set_gid(f"node-{name}")
            axes.add_patch(patch)
            for text, along, size, colour in _label(name, *self.ends[name], box.height if self.upright else box.width):
                place = (x, y + along) if self.upright else (x + along, y)
                self._write(axes, text, place, size, colour if alive else GONE)

    def _write(self, axes: Axes, text: str, place: Point, size: float, colour: str) -> None:
        axes.text(
            *place,
            text,
            fontsize=size,
            color=colour,
            rotation=90 if self.upright else 0,
            rotation_mode="anchor",
            ha="center",
            va="center_baseline",
            zorder=4,
        )

    def _draw_dots(self, axes: Axes) -> None:
        """Draw the nodes without a name; removed ones are empty."""
        for state, alive in (("pruned", False), ("kept", True)):
            names = [name for name in self.scene.dots if (name in self.scene.graph.nodes) == alive]
            if not names:
                continue
            size = 72 * self.scene.dots[names[0]]
            looks = [FAMILIES[self.scene.family_of(name)] for name in names]
            line = min(0.9, 0.14 * size)
            dots = axes.scatter(
                [self.layout.centres[name][0] for name in names],
                [self.layout.centres[name][1] for name in names],
                s=(size - line) ** 2,
                marker="s" if self.scene.rows else "o",
                facecolors=[fill for _, fill, _ in looks] if alive else "white",
                edgecolors=[outline for _, _, outline in looks] if alive else GONE,
                linewidths=line,
                zorder=3,
                clip_on=False,
            )
            dots.set_gid(f"nodes-{state}")

    def _runs(self) -> list[list[str]]:
        """Return the runs of dots that are side by side and form one range."""
        centres, runs = self.layout.centres, list[list[str]]()
        layer = 1 if self.scene.rows else 0
        for name in self.scene.order:
            if name not in self.scene.dots:
                continue
            last = runs[-1][-1] if runs else None
            if (
                last is not None
                and stem(last) == stem(name)
                and (self.scene.line or centres[last][layer] == centres[name][layer])
            ):
                runs[-1].append(name)
            else:
                runs.append([name])
        return runs

    def _count(self, run: list[str]) -> str:
        """Return how many nodes of a range are left; empty without a searched graph."""
        if self.scene.searched is None:
            return ""
        return f"{sum(name in self.scene.graph.nodes for name in run)} of {len(run)}"

    def _draw_captions(self, axes: Axes, runs: list[list[str]]) -> None:
        """Write the ranges of dots: left of rows, with the number left on the right; or under a line."""
        style: dict[str, Any] = {"fontsize": FONT - 1, "color": DIM, "va": "center", "zorder": 4}
        low, high = self.layout.low, self.layout.high
        for run in runs:
            xs = [self.layout.centres[name][0] for name in run]
            y = self.layout.centres[run[0]][1]
            if self.scene.rows:
                axes.text(low[0] - 0.1, y, range_text(run), ha="right", **style)
                axes.text(high[0] + 0.1, y, self._count(run), ha="left", **style)
            else:
                axes.text(sum(xs) / len(xs), low[1] - 0.12, range_text(run), ha="center", **style)

    # -- legend --------------------------------------------------------------------------------

    def _draw_legend(self, page: Axes) -> float:
        """Draw the legend in two lines, kinds of nodes and kinds of edges; return the width of the longer line."""
        from matplotlib.lines import Line2D

        x, y = MARGIN, 0.2 + LINE
        for name, fill, outline in self.scene.node_kinds():
            self._legend_box(page, x, y, 0.14, fill, outline)
            x = write(page, x + 0.2, y, name, FONT - 1) + 0.16
        if self.ends:
            wide = _label_width(*SAMPLE)
            self._legend_box(page, x, y, wide, "white", DIM)
            for text, along, size, colour in _label(*SAMPLE, wide):
                page.text(x + wide / 2 + along, y, text, fontsize=size, color=colour, ha="center", va="center_baseline")
            x = write(page, x + wide + 0.06, y, self._degree_words(), FONT - 1) + 0.16
        end, x, y = x, MARGIN, 0.2
        for label, colour, width, long in self._edge_samples():
            page.add_line(Line2D([x, x + long], [y, y], color=colour, linewidth=width, solid_capstyle="round"))
            x = write(page, x + long + 0.06 * bool(long), y, label, FONT - 1) + 0.16
        return max(end, x) - MARGIN

    def _degree_words(self) -> str:
        alone = self.scene.searched is None or self.scene.decoder is not None
        return "number of edges" if alone else "number of edges, before → after"

    def _edge_samples(self) -> list[tuple[str, str, float, float]]:
        """Return word, colour, width and inches of the line: per kind of edge, and for weights if they differ."""
        samples = [(label, colour, width, 0.24) for label, colour, width in self.scene.edge_kinds()]
        if self.scene.decoder is not None:
            samples.insert(0, (SOURCES, INK, 0.0, 0.0))
        if self.scene.weighted:
            samples.append((WIDTHS, INK, 0.0, 0.0))
            colour = POSITIVE if self.scene.decoder is None else DIM
            samples += [(f"{share:g}", colour, self.scene.width(share), 0.2) for share in (0.1, 0.5, 1.0)]
        return samples

    def _legend_box(self, axes: Axes, x: float, y: float, width: float, fill: str, outline: str) -> None:
        from matplotlib.patches import FancyBboxPatch

        tall = 0.1 if width < 0.2 else 0.18
        style = "round,pad=0,rounding_size=0.03"
        axes.add_patch(FancyBboxPatch((x, y - tall / 2), width, tall, boxstyle=style, fc=fill, ec=outline, lw=0.8))
