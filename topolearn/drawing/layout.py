"""Lays out the nodes and edges of a graph for a picture, in inches, with y upwards.

A graph with almost no nodes side by side becomes a line, with arcs above and below. Other graphs become layers:
columns from left to right, or rows from top to bottom. Long edges go around the nodes between. Graphs with a decoder
have their own layout, :mod:`topolearn.drawing.decoder_layout`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Point = tuple[float, float]
Pair = tuple[str, str]

GAP = 0.5
"""Gap between columns."""
ROW_GAP = 0.34
"""Gap between rows."""
SPACE = 0.12
"""Gap between nodes of a layer, but at most their size."""
LANE = 0.07
"""Gap between long edges that pass a layer."""
MAX_LANES = 4000
"""Maximum number of lanes for edges that go around nodes; with more, edges go straight."""


@dataclass(frozen=True)
class Box:
    """Size of a node."""

    width: float
    height: float


@dataclass(frozen=True)
class Band:
    """A background behind nodes that belong together.

    Attributes:
        words: What the nodes have in common.
        low: Lower left corner.
        high: Upper right corner.
        y: Height of the words.
    """

    words: str
    low: Point
    high: Point
    y: float


@dataclass
class Layout:
    """A finished layout.

    Attributes:
        centres: Id -> centre of the node.
        curves: (src, dst) -> cubic Bézier splines: a start, then three points per piece. Two points
            are the ends of a straight line.
        boxes: Id -> size of the node.
        low: Lower left corner of everything.
        high: Upper right corner of everything.
        line: Whether the nodes are on a line.
        bands: Backgrounds behind the nodes.
    """

    centres: dict[str, Point]
    curves: dict[Pair, list[Point]]
    boxes: Mapping[str, Box]
    low: Point = (0.0, 0.0)
    high: Point = (0.0, 0.0)
    line: bool = False
    bands: list[Band] = field(default_factory=list)

    def frame(self) -> None:
        """Set ``low`` and ``high`` to the corners of all nodes and edges."""
        boxes = self.boxes
        xs = [x + sign * boxes[name].width / 2 for name, (x, _) in self.centres.items() for sign in (-1, 1)]
        ys = [y + sign * boxes[name].height / 2 for name, (_, y) in self.centres.items() for sign in (-1, 1)]
        for curve in self.curves.values():
            # A cubic stays within 3/4 of the way to its control points if both lie on one side.
            xs += [0.25 * curve[0][0] + 0.75 * x for x, _ in curve]
            ys += [0.25 * curve[0][1] + 0.75 * y for _, y in curve]
        self.low, self.high = (min(xs), min(ys)), (max(xs), max(ys))


def arrange(
    nodes: Sequence[str],
    edges: Sequence[Pair],
    boxes: Mapping[str, Box],
    drawn: Sequence[Pair] | None = None,
    *,
    rows: bool = False,
) -> Layout:
    """Lay out a graph as a line or in layers.

    Args:
        nodes: Nodes in topological order.
        edges: All edges; they decide the places of the nodes.
        boxes: Sizes of the nodes.
        drawn: The edges that get curves; default: all.
        rows: Whether layers are rows, the first on top, joined by straight lines; otherwise they are columns.
    """
    layers = generations(nodes, edges)
    shown = edges if drawn is None else drawn
    if is_line(layers, edges):
        layout = _line(nodes, shown, boxes)
    elif rows:
        turned = {name: Box(box.height, box.width) for name, box in boxes.items()}
        layout = _as_rows(_layered(layers, edges, shown, turned, ROW_GAP, 0.12), boxes)
    else:
        layout = _layered(layers, edges, shown, boxes, GAP, 0.22)
    layout.frame()
    return layout


def generations(nodes: Sequence[str], edges: Sequence[Pair]) -> list[list[str]]:
    """Group nodes by the length of the longest path to them; each group is in the order of ``nodes``."""
    import networkx as nx

    graph: nx.DiGraph[str] = nx.DiGraph(edges)
    graph.add_nodes_from(nodes)
    position = {name: index for index, name in enumerate(nodes)}
    return [sorted(layer, key=position.__getitem__) for layer in nx.topological_generations(graph)]


def is_line(layers: Sequence[Sequence[str]], edges: Sequence[Pair]) -> bool:
    """Whether arcs show a graph better than layers.

    They do if nearly all layers have one node, or if most have one node and many edges pass them.
    """
    count = sum(map(len, layers))
    depth = {name: index for index, layer in enumerate(layers) for name in layer}
    passing = sum(depth[dst] - depth[src] - 1 for src, dst in edges)
    return len(layers) > 4 and (count <= 1.15 * len(layers) or (count <= 1.5 * len(layers) and passing > 3 * count))


# -- a line ------------------------------------------------------------------------------------


def _line(nodes: Sequence[str], edges: Sequence[Pair], boxes: Mapping[str, Box]) -> Layout:
    centres: dict[str, Point] = {}
    x = 0.0
    for name in nodes:
        x += boxes[name].width / 2
        centres[name] = (x, 0.0)
        x += boxes[name].width / 2 + min(0.16, 0.55 * boxes[name].width)
    position = {name: index for index, name in enumerate(nodes)}
    curves = {(src, dst): _arc(src, dst, position, centres, boxes) for src, dst in edges}
    return Layout(centres, curves, boxes, line=True)


def _arc(
    src: str, dst: str, position: Mapping[str, int], centres: Mapping[str, Point], boxes: Mapping[str, Box]
) -> list[Point]:
    (x0, _), (x1, _) = centres[src], centres[dst]
    if position[dst] == position[src] + 1:
        return straight((x0 + boxes[src].width / 2, 0.0), (x1 - boxes[dst].width / 2, 0.0))
    # All in-edges of a node are on one side, so that its sources can be read as one fan.
    return arc(centres[src], centres[dst], boxes[src], boxes[dst], 1 if position[dst] % 2 else -1)


def arc(
    start: Point,
    end: Point,
    first: Box,
    last: Box,
    side: int,
    ports: tuple[float, float] | None = None,
    rise: float = 0.62,
) -> list[Point]:
    """Return an arc between two boxes of one row; the farther apart the boxes, the higher the arc.

    Args:
        start: Centre of the box that it leaves.
        end: Centre of the box that it enters.
        first: Size of the box that it leaves.
        last: Size of the box that it enters.
        side: 1 above the row, -1 below.
        ports: Where it leaves and enters the boxes, in widths from the centre; default: a little nearer to each other.
        rise: Height of an arc one inch wide.
    """
    way = 1 if start[0] < end[0] else -1
    out, into = (0.22 * way, -0.22 * way) if ports is None else ports
    x0, x1 = start[0] + out * first.width, end[0] + into * last.width
    y0, y1 = start[1] + side * first.height / 2, end[1] + side * last.height / 2
    span = abs(x1 - x0)
    height = side * rise * span**0.72
    pull = way * 0.18 * span
    return [(x0, y0), (x0 + pull, y0 + height), (x1 - pull, y1 + height), (x1, y1)]


# -- layers ------------------------------------------------------------------------------------


def _layered(
    layers: list[list[str]],
    edges: Sequence[Pair],
    drawn: Sequence[Pair],
    boxes: Mapping[str, Box],
    gap: float,
    slope: float,
) -> Layout:
    depth = {name: index for index, layer in enumerate(layers) for name in layer}
    routes = _routes(drawn, depth)
    sizes = {name: boxes[name].height + min(SPACE, boxes[name].height) for name in depth}
    filled = [list(layer) for layer in layers]
    # Edges that are not drawn need no lanes, but their nodes still belong side by side.
    links = [(src, dst) for src, dst in edges if depth[dst] == depth[src] + 1 and (src, dst) not in routes]
    for route in routes.values():
        for offset, lane in enumerate(route[1:-1], start=1):
            filled[depth[route[0]] + offset].append(lane)
            sizes[lane] = LANE
        links += itertools.pairwise(route)
    before, after = _neighbours(links)
    _reduce_crossings(filled, before, after)
    ys = _heights(filled, sizes, before, after)
    widths = [max(boxes[name].width for name in layer) for layer in layers]
    xs = _columns(widths, links, filled, ys, gap, slope)
    column = {name: index for index, layer in enumerate(filled) for name in layer}
    centres = {name: (xs[depth[name]], ys[name]) for name in depth}
    curves = {}
    for pair, route in routes.items():
        stops: list[tuple[float, float, float]] = []
        for name in route:
            half = (boxes[name].width if name in depth else widths[column[name]]) / 2
            stops.append((xs[column[name]], ys[name], half))
        curves[pair] = _through(stops)
    return Layout(centres, curves, boxes)


def _routes(edges: Sequence[Pair], depth: Mapping[str, int]) -> dict[Pair, list[str]]:
    """Return each edge as its ends with one lane per layer between; a lane's name cannot be an id."""
    count = sum(depth[dst] - depth[src] - 1 for src, dst in edges)
    if count > MAX_LANES:
        return {(src, dst): [src, dst] for src, dst in edges}
    return {
        (src, dst): [src, *(f"{src}>{dst}>{layer}" for layer in range(depth[src] + 1, depth[dst])), dst]
        for src, dst in edges
    }


def _neighbours(links: Sequence[Pair]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for src, dst in links:
        before.setdefault(dst, []).append(src)
        after.setdefault(src, []).append(dst)
    return before, after


def _reduce_crossings(
    layers: list[list[str]], before: Mapping[str, list[str]], after: Mapping[str, list[str]], sweeps: int = 8
) -> None:
    """Order each layer by the mean place of its neighbours, in forward and backward sweeps (Sugiyama et al. 1981).

    Nodes keep their declared order (branch 1 above branch 2); only lanes move between them.
    """
    for sweep in range(sweeps):
        forward = sweep % 2 == 0
        for layer in layers if forward else reversed(layers):
            place = {name: index / max(1, len(other) - 1) for other in layers for index, name in enumerate(other)}
            neighbours = before if forward else after
            want = {
                name: sum(map(place.__getitem__, found)) / len(found)
                if (found := neighbours.get(name))
                else place[name]
                for name in layer
            }
            nodes = [name for name in layer if ">" not in name]
            lanes = sorted((name for name in layer if ">" in name), key=lambda name: want[name])
            layer[:] = _merge(nodes, lanes, want)


def _merge(nodes: list[str], lanes: list[str], want: Mapping[str, float]) -> list[str]:
    """Put each lane between nodes at the place it wants; nodes are spread evenly over [0, 1]."""
    merged: list[str] = []
    rest = list(lanes)
    for index, node in enumerate(nodes):
        here = (index + 0.5) / len(nodes)
        while rest and want[rest[0]] < here:
            merged.append(rest.pop(0))
        merged.append(node)
    return merged + rest


def _heights(
    layers: list[list[str]], sizes: Mapping[str, float], before: Mapping[str, list[str]], after: Mapping[str, list[str]]
) -> dict[str, float]:
    """Return heights that are near the mean of the neighbours' heights and keep order and distance."""
    ys: dict[str, float] = {}
    for layer in layers:
        y = sum(sizes[name] for name in layer) / 2
        for name in layer:
            ys[name] = y - sizes[name] / 2
            y -= sizes[name]
    for sweep in range(12):
        for layer in layers if sweep % 2 else reversed(layers):
            want = []
            for name in layer:
                found = [*before.get(name, ()), *after.get(name, ())]
                want.append(sum(ys[other] for other in found) / len(found) if found else ys[name])
            for name, y in zip(layer, _spread(want, [sizes[name] for name in layer]), strict=True):
                ys[name] = y
    return ys


def _spread(want: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Return the values nearest to ``want`` (least squares) that descend by at least the half sizes of neighbours.

    With the sizes subtracted, this is isotonic regression by pooling adjacent violators.
    """
    offsets, offset = [], 0.0
    for i, size in enumerate(sizes):
        offset += (sizes[i - 1] + size) / 2 if i else 0.0
        offsets.append(offset)
    blocks: list[list[float]] = []  # [mean, count]; must descend
    for value, shift in zip(want, offsets, strict=True):
        blocks.append([value + shift, 1.0])
        while len(blocks) > 1 and blocks[-1][0] > blocks[-2][0]:
            mean, count = blocks.pop()
            total = blocks[-1][1] + count
            blocks[-1] = [(blocks[-1][0] * blocks[-1][1] + mean * count) / total, total]
    values = [mean for mean, count in blocks for _ in range(int(count))]
    return [value - shift for value, shift in zip(values, offsets, strict=True)]


def _columns(
    widths: Sequence[float],
    links: Sequence[Pair],
    layers: Sequence[Sequence[str]],
    ys: Mapping[str, float],
    gap: float,
    slope: float,
) -> list[float]:
    """Return the centre of each layer; steep edges push two layers apart, less if there are many layers."""
    most = min(1.3, 14.0 / len(layers))
    column = {name: index for index, layer in enumerate(layers) for name in layer}
    rise = [0.0] * len(layers)
    for src, dst in links:
        for index in range(column[src], column[dst]):
            rise[index] = max(rise[index], abs(ys[src] - ys[dst]))
    xs = [widths[0] / 2]
    for index in range(1, len(widths)):
        apart = gap + min(most, slope * rise[index - 1])
        xs.append(xs[-1] + (widths[index - 1] + widths[index]) / 2 + apart)
    return xs


def _as_rows(layout: Layout, boxes: Mapping[str, Box]) -> Layout:
    """Turn columns from left to right into rows from top to bottom; edges that pass no row become straight lines."""
    curves = {pair: [curve[0], curve[-1]] if len(curve) == 4 else curve for pair, curve in layout.curves.items()}
    return Layout(
        {name: (-y, -x) for name, (x, y) in layout.centres.items()},
        {pair: [(-y, -x) for x, y in curve] for pair, curve in curves.items()},
        boxes,
    )


def _through(stops: Sequence[tuple[float, float, float]]) -> list[Point]:
    """Return a smooth curve from the right of the first stop to the left of the last, horizontal at every stop."""
    x, y, half = stops[0]
    curve: list[Point] = [(x + half, y)]
    for index, (x, y, half) in enumerate(stops[1:], start=1):
        x0, y0 = curve[-1]
        reach = (x - half - x0) / 2
        curve += [(x0 + reach, y0), (x - half - reach, y), (x - half, y)]
        if index < len(stops) - 1:
            curve += straight((x - half, y), (x + half, y))[1:]
    return curve


def straight(start: Point, end: Point) -> list[Point]:
    """Return a straight line as one cubic piece."""
    (x0, y0), (x1, y1) = start, end
    return [start, ((2 * x0 + x1) / 3, (2 * y0 + y1) / 3), ((x0 + 2 * x1) / 3, (y0 + 2 * y1) / 3), end]


# -- ranges ------------------------------------------------------------------------------------

_NUMBERED = re.compile(r"(.*?)(\d+)\Z")


def stem(name: str) -> str:
    """Return an id without its number: ``block`` for ``block12``."""
    match = _NUMBERED.match(name)
    return match[1] if match else name


def range_text(names: Sequence[str]) -> str:
    """Return ids that differ by their number as a range, as in a graph file."""
    if len(names) == 1:
        return names[0]
    first, last = _NUMBERED.match(names[0]), _NUMBERED.match(names[-1])
    return f"{first[1]}[{first[2]}..{last[2]}]" if first and last else f"{names[0]} … {names[-1]}"
