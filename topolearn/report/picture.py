"""A graph as a picture: what there is, or what was learned within what was searched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.graph import Edge, Graph, Node
from topolearn.report.canvas import NEGATIVE, POSITIVE, check_path, save
from topolearn.report.layout import Box, Layout, Pair, Point, arrange, range_text, stem

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT = 8.0
"""Points."""
MARGIN = 0.25
MAX_BOXES = 48
"""With more nodes than these, the members of long ranges become dots."""
MIN_RANGE = 8
"""Shortest range whose members may become dots."""
RASTER_EDGES = 3000
"""With more edges than these, an SVG holds them as an image."""
MAX_EDGES = 10_000
"""Most edges that are drawn; of more, the strongest are."""

INK, GREY, FAINT = "#24292f", "#8b949e", "#d5dae0"

FAMILIES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "input": (("input",), "#eaeef2", "#57606a"),
    "convolution": (("conv", "bn_relu", "relu_conv", "sepconv", "relu_sepconv"), "#cfe4fb", "#3473b5"),
    "residual block": (("resnet.", "resnext.", "mobilenetv2."), "#cdeedb", "#2a8153"),
    "pooling": (("max_pool", "avg_pool", "global_avg_pool"), "#fdeac0", "#a87512"),
    "head": (("classifier", "linear", "segmentation_head"), "#fbd5d0", "#b8483b"),
    "backbone": (("torchvision.", "feature"), "#e6dcfa", "#6e50b5"),
    "identity, sum, concat": (("identity", "concat", "relu"), "#ffffff", "#57606a"),
    "other": (("",), "#f3e4d4", "#8a6237"),
}
"""Family -> beginnings of op names, fill, outline. The longest beginning decides."""


def family(op: str) -> str:
    """The family an op is coloured by."""
    lengths = {
        name: max((len(start) for start in starts if op.startswith(start)), default=-1)
        for name, (starts, _, _) in FAMILIES.items()
    }
    return max(lengths, key=lengths.__getitem__)


def draw(graph: Graph, path: Path | str, searched: Graph | None = None, title: str | None = None) -> None:
    """Draw a graph.

    Args:
        graph: What to draw.
        path: An SVG, PNG or PDF file; appears whole or not at all.
        searched: The graph that ``graph`` was learned in: its pruned edges are drawn faintly, its
            removed nodes as empty outlines.
        title: First line of the heading, the graph's name where not given.

    Raises:
        TopolearnError: A file that cannot be written, or of another kind.
    """
    path = Path(path)
    check_path(path)
    save(_Picture(graph, searched, title or graph.name).figure(), path)


_PRUNED, _FIXED = -2.0, -1.0


@dataclass(frozen=True)
class _Stroke:
    """How an edge is drawn; those of higher rank on top (learned edges have 0 to 1)."""

    colour: str
    width: float
    alpha: float
    rank: float


class _Picture:
    def __init__(self, graph: Graph, searched: Graph | None, title: str) -> None:
        self.graph = graph
        self.searched = searched
        self.title = title
        everything = searched if searched is not None else graph
        self.nodes: dict[str, Node] = dict(everything.nodes)
        self.edges: dict[Pair, Edge] = {(edge.src, edge.dst): edge for edge in everything.edges}
        self.added = [name for name in graph.nodes if name not in self.nodes]
        for node in graph.nodes.values():
            self.nodes.setdefault(node.id, node)
        self.kept = {(edge.src, edge.dst): edge for edge in graph.edges}
        for pair, edge in self.kept.items():
            self.edges.setdefault(pair, edge)
        self.order = self._order()
        self.dots, self.dot = self._dots()
        self.upright = False  # decided with the layout
        self.strokes = self._strokes()
        self.drawn = self._drawn()

    def _order(self) -> list[str]:
        if not self.added:
            return list(self.nodes)
        import networkx as nx

        position = {name: index for index, name in enumerate(self.nodes)}
        union: nx.DiGraph[str] = nx.DiGraph(list(self.edges))
        union.add_nodes_from(self.nodes)
        return list(nx.lexicographical_topological_sort(union, key=position.__getitem__))

    def _dots(self) -> tuple[set[str], float]:
        """The nodes that are dots, and their diameter."""
        if len(self.nodes) <= MAX_BOXES:
            return set(), 0.0
        groups: dict[tuple[str, str], list[str]] = {}
        for node in self.nodes.values():
            groups.setdefault((stem(node.id), node.op), []).append(node.id)
        ranges = [group for group in groups.values() if len(group) >= MIN_RANGE]
        longest = max(map(len, ranges), default=0)
        return {name for group in ranges for name in group}, min(0.1, 12.0 / max(1, longest))

    # -- figure --------------------------------------------------------------------------------

    def figure(self) -> Figure:
        from matplotlib.figure import Figure

        boxes = self._boxes()
        layout = arrange(self.order, list(self.edges), boxes, self.drawn)
        if layout.line and len(self.nodes) > 10:
            self.upright = True
            boxes = self._boxes()
            layout = arrange(self.order, list(self.edges), boxes, self.drawn)
        heading = [self.title, self._counts()]
        if len(self.drawn) < len(self.edges):
            heading.append(f"showing {len(self.drawn):,} of {len(self.edges):,} edges")
        wide = max(
            layout.high[0] - layout.low[0],
            *(text_width(line, FONT + (3.5 if i == 0 else 0.5)) for i, line in enumerate(heading)),
            self._legend_width(),
        )
        tall = layout.high[1] - layout.low[1]
        captions = 0.3 if self.dots else 0.0
        above, below = 0.34 + 0.19 * len(heading), 0.5 + captions
        width, height = wide + 2 * MARGIN, tall + above + below
        figure = Figure(figsize=(width, height), facecolor="white")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        # One unit of the axes is an inch.
        left = layout.low[0] - MARGIN
        bottom = layout.low[1] - below
        axes.set_xlim(left, left + width)
        axes.set_ylim(bottom, bottom + height)
        axes.axis("off")
        self._draw_edges(axes, layout)
        self._draw_nodes(axes, layout, boxes)
        self._draw_captions(axes, layout)
        for index, line in enumerate(heading):
            axes.text(
                left + MARGIN,
                bottom + height - MARGIN - 0.2 * index - (0.05 if index else 0.0),
                line,
                fontsize=FONT + (3 if index == 0 else 0.5),
                fontweight="bold" if index == 0 else "normal",
                color=INK if index == 0 else "#57606a",
                va="center",
            )
        self._draw_legend(axes, left + MARGIN, bottom + 0.2)
        return figure

    def _boxes(self) -> dict[str, Box]:
        widths = {name: max(0.4, text_width(name, FONT) + 0.18) for name in self.order if name not in self.dots}
        boxes = dict.fromkeys(self.order, Box(self.dot, self.dot))
        if self.upright:
            return boxes | dict.fromkeys(widths, Box(0.25, max(widths.values(), default=0.25)))
        return boxes | {name: Box(width, 0.25) for name, width in widths.items()}

    def _counts(self) -> str:
        now, cost = self.graph, self.graph.cost
        if self.searched is None:
            learnable = sum(map(len, now.candidates.values()))
            return (
                f"{len(now.nodes):,} nodes · {len(now.edges):,} edges"
                + (f" ({learnable:,} learnable)" if learnable else "")
                + f" · {cost.params:,} parameters · {cost.macs:,} MACs"
            )
        was, before = self.searched, self.searched.cost
        parts = (
            ("nodes", len(was.nodes), len(now.nodes)),
            ("edges", len(was.edges), len(now.edges)),
            ("parameters", before.params, cost.params),
            ("MACs", before.macs, cost.macs),
        )
        return " · ".join(f"{old:,} → {new:,} {name}" if old != new else f"{new:,} {name}" for name, old, new in parts)

    # -- edges ---------------------------------------------------------------------------------

    def _is_learned(self, pair: Pair) -> bool:
        """Whether a learner decided, or is to decide, about an edge."""
        if self.searched is not None:
            return self.edges[pair].learnable or self.kept[pair].weight != 1.0
        return self.kept[pair].learnable or self.kept[pair].weight != 1.0

    def _strokes(self) -> dict[Pair, _Stroke]:
        learned = {pair: edge.weight for pair, edge in self.kept.items() if self._is_learned(pair)}
        # Weights compare within one target only: a node may undo the scale of all its in-edges.
        largest: dict[str, float] = {}
        for (_, dst), weight in learned.items():
            largest[dst] = max(largest.get(dst, 0.0), abs(weight))
        undecided = len({abs(weight) for weight in learned.values()}) == 1
        # Many edges must be thin and faint to be told apart.
        shown = min(len(learned), MAX_EDGES) or 1
        scale, clear = min(1.0, max(0.45, 6.0 / shown**0.5)), min(1.0, 25.0 / shown**0.5)
        faint = min(0.8, max(0.12, 12.0 / max(1, len(self.edges) - len(self.kept)) ** 0.5))
        strokes = {}
        for pair in self.edges:
            if pair not in self.kept:
                strokes[pair] = _Stroke(FAINT, 0.6, faint, _PRUNED)
            elif pair in learned:
                share = 0.4 if undecided else abs(learned[pair]) / (largest[pair[1]] or 1.0)
                colour = POSITIVE if learned[pair] >= 0 else NEGATIVE
                strokes[pair] = _Stroke(colour, scale * (0.6 + 1.6 * share), clear * (0.4 + 0.5 * share), share)
            else:
                strokes[pair] = _Stroke(GREY, 1.1, 0.9, _FIXED)
        return strokes

    def _drawn(self) -> list[Pair]:
        """The edges to draw, the last ones on top: all, or the fixed and the strongest of very many."""
        rank = {pair: stroke.rank for pair, stroke in self.strokes.items()}
        ordered = sorted(rank, key=rank.__getitem__)
        if len(ordered) <= MAX_EDGES:
            return ordered
        by_worth = sorted(ordered, key=lambda pair: -(2.0 if rank[pair] == _FIXED else rank[pair]))
        limit = rank[by_worth[MAX_EDGES - 1]]
        chosen = [pair for pair in by_worth[:MAX_EDGES] if rank[pair] != limit]
        # Of equals, an even sample, or the first targets would have them all.
        equals = [pair for pair in by_worth if rank[pair] == limit]
        free = MAX_EDGES - len(chosen)
        sample = {*chosen, *(equals[index * len(equals) // free] for index in range(free))}
        return [pair for pair in ordered if pair in sample]

    def _draw_edges(self, axes: Axes, layout: Layout) -> None:
        from matplotlib.collections import PathCollection
        from matplotlib.colors import to_rgba
        from matplotlib.path import Path as Curve

        strokes, pairs = self.strokes, self.drawn
        curves = []
        for pair in pairs:
            points = layout.curves[pair]
            curves.append(Curve(points, [Curve.MOVETO, *[Curve.CURVE4] * (len(points) - 1)]))
        axes.add_collection(
            PathCollection(
                curves,
                facecolors="none",
                edgecolors=[to_rgba(strokes[pair].colour, strokes[pair].alpha) for pair in pairs],
                linewidths=[strokes[pair].width for pair in pairs],
                capstyle="round",
                zorder=1,
                rasterized=len(pairs) > RASTER_EDGES,
            ),
            autolim=False,
        )

    # -- nodes ---------------------------------------------------------------------------------

    def _draw_nodes(self, axes: Axes, layout: Layout, boxes: dict[str, Box]) -> None:
        from matplotlib.patches import Circle, FancyBboxPatch, Patch

        for name in self.order:
            x, y = layout.centres[name]
            box, alive = boxes[name], name in self.graph.nodes
            _, fill, outline = FAMILIES[family(self.nodes[name].op)]
            style: dict[str, Any] = {"linewidth": 0.9, "zorder": 3}
            if alive:
                style |= {"facecolor": fill, "edgecolor": outline}
            else:
                style |= {"facecolor": "white", "edgecolor": "#afb8c1", "linestyle": (0, (2.5, 2))}
            patch: Patch
            if name in self.dots:
                patch = Circle((x, y), box.width / 2, **style)
            else:
                corner = (x - box.width / 2, y - box.height / 2)
                patch = FancyBboxPatch(
                    corner, box.width, box.height, boxstyle="round,pad=0,rounding_size=0.06", **style
                )
            axes.add_patch(patch)
            if name not in self.dots:
                axes.text(
                    x,
                    y,
                    name,
                    fontsize=FONT,
                    color=INK if alive else "#afb8c1",
                    rotation=90 if self.upright else 0,
                    rotation_mode="anchor",
                    ha="center",
                    va="center_baseline",
                    zorder=4,
                )

    def _draw_captions(self, axes: Axes, layout: Layout) -> None:
        """Under dots, the range they are."""
        runs: list[list[str]] = []
        for name in self.order:
            if name not in self.dots:
                continue
            x, _ = layout.centres[name]
            if runs and stem(runs[-1][-1]) == stem(name) and (layout.line or layout.centres[runs[-1][-1]][0] == x):
                runs[-1].append(name)
            else:
                runs.append([name])
        for run in runs:
            xs = [layout.centres[name][0] for name in run]
            axes.text(
                sum(xs) / len(xs),
                layout.low[1] - 0.12 if layout.line else min(layout.centres[name][1] for name in run) - 0.16,
                range_text(run),
                fontsize=FONT - 1,
                color="#57606a",
                ha="center",
                va="center",
                zorder=4,
            )

    # -- legend --------------------------------------------------------------------------------

    def _draw_legend(self, axes: Axes, x: float, y: float) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patches import FancyBboxPatch

        for name in self._families():
            _, fill, outline = FAMILIES[name]
            box = FancyBboxPatch(
                (x, y - 0.05), 0.14, 0.1, boxstyle="round,pad=0,rounding_size=0.03", fc=fill, ec=outline, lw=0.8
            )
            axes.add_patch(box)
            x = self._legend_text(axes, x + 0.2, y, name)
        for label, colour, width in self._edge_kinds():
            axes.add_line(Line2D([x, x + 0.24], [y, y], color=colour, linewidth=width, solid_capstyle="round"))
            x = self._legend_text(axes, x + 0.3, y, label)

    def _legend_text(self, axes: Axes, x: float, y: float, text: str) -> float:
        axes.text(x, y, text, fontsize=FONT - 1, color="#57606a", va="center_baseline")
        return x + text_width(text, FONT - 1) + 0.16

    def _families(self) -> list[str]:
        present = {family(node.op) for node in self.nodes.values()}
        return [name for name in FAMILIES if name in present]

    def _legend_width(self) -> float:
        labels = [*((name, 0.2) for name in self._families()), *((label, 0.3) for label, _, _ in self._edge_kinds())]
        return sum(text_width(label, FONT - 1) + icon + 0.16 for label, icon in labels)

    def _edge_kinds(self) -> list[tuple[str, str, float]]:
        learned = [edge for pair, edge in self.kept.items() if self._is_learned(pair)]
        word = "learned" if self.searched is not None or not self.graph.candidates else "learnable"
        signs = {edge.weight >= 0 for edge in learned}
        kinds = []
        if len(learned) < len(self.kept):
            kinds.append(("fixed", GREY, 1.1))
        if True in signs:
            kinds.append((f"{word}, positive" if len(signs) == 2 else word, POSITIVE, 1.6))
        if False in signs:
            kinds.append((f"{word}, negative", NEGATIVE, 1.6))
        if len(self.kept) < len(self.edges):
            kinds.append(("pruned", FAINT, 1.2))
        return kinds


def text_width(text: str, size: float) -> float:
    """Width in inches of a text of ``size`` points."""
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    points: Point = TextPath((0, 0), text, size=size).get_extents().max
    return float(points[0]) / 72
