"""Lays out networks for dense prediction: encoder above, decoder below, resolutions side by side.

:func:`topolearn.graph.decoder.decoder_stages` finds the decoder: stages that add up resized maps. Everything that
leads to a stage is the encoder; everything else reads the decoder. Resolution falls from left to right, and a stage
stands under the encoder's nodes of its stride. So inputs and heads are on the left, and the picture is a U on its side.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from topolearn.drawing.layout import Band, Box, Layout, Pair, Point, arc, generations, straight
from topolearn.graph import Graph
from topolearn.graph.decoder import decoder_stages
from topolearn.ops.shape import Bundle, Shape, Stride

GAP = 0.3
"""Gap between boxes of a row."""
ABOVE = 0.42
"""Distance from the encoder's row to the bar of its backbone."""
BETWEEN, PER_EDGE, MOST = 0.8, 0.13, 1.9
"""Distance from the encoder's row to the decoder's: minimum, growth per root of the edges between, maximum."""
RISE = 0.45
"""Height of an arc one inch wide."""
PORTS = 0.36
"""Maximum distance from the middle of a box to the end of an edge, relative to the box's width."""
CAPTION = 0.24
"""Height of the text over a band."""
PAD = 0.1
"""Distance from boxes and arcs to the ends of their band."""


@dataclass(frozen=True)
class Decoder:
    """The parts of a graph that has a decoder.

    Attributes:
        before: Inputs, and nodes that lead to a backbone, in topological order.
        backbones: Id of a node with several outputs -> the nodes that read it.
        levels: Stride -> its columns, the highest resolution first. A column is an encoder's node, the stage under
            it, or both.
        after: Nodes that lead to no stage, in topological order.
    """

    before: tuple[str, ...]
    backbones: Mapping[str, tuple[str, ...]]
    levels: Mapping[Stride, tuple[tuple[str | None, str | None], ...]]
    after: tuple[str, ...]

    @property
    def encoder(self) -> tuple[str, ...]:
        """The encoder's nodes in columns, from left to right."""
        return tuple(name for columns in self.levels.values() for name, _ in columns if name is not None)

    @property
    def stages(self) -> tuple[str, ...]:
        """The decoder's stages, from left to right."""
        return tuple(name for columns in self.levels.values() for _, name in columns if name is not None)

    @classmethod
    def of(cls, graph: Graph) -> Decoder | None:
        """Find the parts of ``graph``; None if it has no decoder, or if its decoder feeds the encoder."""
        stages = decoder_stages(graph)
        if len(stages) < 2:
            return None
        encoder = _leading_to(graph, stages) - set(stages)
        if any(edge.src in stages and edge.dst in encoder for edge in graph.edges):
            return None
        read = {edge.src for edge in graph.edges if edge.dst in stages}
        bundles = {name for name in encoder if isinstance(graph.shapes[name], Bundle)}
        before = (_leading_to(graph, bundles) | set(graph.inputs)) - read
        row = [name for name in graph.nodes if name in encoder - before]
        backbones: dict[str, tuple[str, ...]] = {}
        for name in graph.nodes:
            features = tuple(edge.dst for edge in graph.edges if edge.src == name and edge.dst in row)
            if name in bundles and features:
                backbones[name] = features
        return cls(
            before=tuple(name for name in graph.nodes if name in before - backbones.keys()),
            backbones=backbones,
            levels=_levels(graph, row, stages[::-1]),
            after=tuple(name for name in graph.nodes if name not in encoder | before | set(stages)),
        )


def _leading_to(graph: Graph, targets: Collection[str]) -> set[str]:
    """Return the targets and all nodes with a path to one of them."""
    import networkx as nx

    network = graph.to_networkx()
    return set(targets).union(*(nx.ancestors(network, target) for target in targets))


def _levels(
    graph: Graph, row: Sequence[str], stages: Sequence[str]
) -> dict[Stride, tuple[tuple[str | None, str | None], ...]]:
    """Return columns by stride; a stage stands under the first node of its own stride that it reads."""
    strides: dict[str, Stride] = {}
    for name in (*row, *stages):
        shape = graph.shapes[name]
        strides[name] = shape.stride if isinstance(shape, Shape) else None
    levels: dict[Stride, tuple[tuple[str | None, str | None], ...]] = {}
    for stride in sorted(set(strides.values()), key=_depth):
        above = [name for name in row if strides[name] == stride]
        below: list[str | None] = []
        for stage in (name for name in stages if strides[name] == stride):
            read = {graph.edges[i].src for i in graph.in_edges(stage)}
            under = next((place for place, name in enumerate(above) if name in read), 0)
            below += [None] * (under - len(below))
            below.append(stage)
        count = max(len(above), len(below))
        levels[stride] = tuple(
            (above[i] if i < len(above) else None, below[i] if i < len(below) else None) for i in range(count)
        )
    return levels


def _depth(stride: Stride) -> float:
    return float("inf") if not isinstance(stride, int) else stride


def arrange_decoder(decoder: Decoder, edges: Sequence[Pair], boxes: Mapping[str, Box]) -> Layout:
    """Lay out a graph that has a decoder.

    Args:
        decoder: The parts of the graph.
        edges: The edges that get curves.
        boxes: Sizes of the nodes; a backbone becomes as wide as the nodes that read it.
    """
    return _Arrangement(decoder, edges, boxes).layout()


class _Arrangement:
    def __init__(self, decoder: Decoder, edges: Sequence[Pair], boxes: Mapping[str, Box]) -> None:
        self.decoder = decoder
        self.edges = edges
        self.boxes = dict(boxes)
        self.centres: dict[str, Point] = {}
        self.curves: dict[Pair, list[Point]] = {}
        self.ports: dict[Pair, tuple[float, float]] = {}
        """Edge -> where it leaves its source and enters its target: distance from the middle, in widths of the box."""
        self.pitch = max(box.width for name, box in boxes.items() if name not in decoder.backbones) + GAP
        between = sum(src in decoder.encoder and dst in decoder.stages for src, dst in edges)
        self.drop = min(MOST, BETWEEN + PER_EDGE * between**0.5)
        self.middle = -self.drop / 2
        """Height of the middle: nodes above it have their arcs above, nodes below it have them below."""

    def layout(self) -> Layout:
        self._place_columns()
        self._place_after()
        if not self.decoder.backbones:
            self._place_before()
        placed = [pair for pair in self.edges if set(pair) <= self.centres.keys()]
        arcs = [pair for pair in placed if self._is_arc(*pair)]
        self._deal_ports(arcs, nested=True)
        self._deal_ports([pair for pair in placed if not self._is_beside(*pair)], nested=False)
        self.curves = {pair: self._arc(*pair) for pair in arcs}
        if self.decoder.backbones:
            self._place_backbones()
            self._place_before()
        for pair in self.edges:
            if pair not in self.curves:
                self.curves[pair] = self._curve(*pair)
        layout = Layout({name: self.centres[name] for name in self.boxes}, self.curves, self.boxes)
        layout.frame()
        self._add_bands(layout)
        return layout

    # -- nodes ---------------------------------------------------------------------------------

    def _place_columns(self) -> None:
        number = 0
        for columns in self.decoder.levels.values():
            for above, below in columns:
                for name, y in ((above, 0.0), (below, -self.drop)):
                    if name is not None:
                        self.centres[name] = (number * self.pitch, y)
                number += 1

    def _place_backbones(self) -> None:
        """Place backbones as bars over the encoder's row and its arcs, each as wide as the nodes that read it."""
        # A cubic stays within 3/4 of the way to its control points if both lie on one side.
        top = max((0.25 * curve[0][1] + 0.75 * y for curve in self.curves.values() for _, y in curve), default=0.0)
        top = max(0.0, top)
        for name, features in self.decoder.backbones.items():
            ends = [
                self.centres[feature][0] + sign * self.boxes[feature].width / 2
                for feature in features
                for sign in (-1, 1)
            ]
            box = Box(max(max(ends) - min(ends), self.boxes[name].width), self.boxes[name].height)
            top += ABOVE + box.height
            self.boxes[name] = box
            self.centres[name] = ((max(ends) + min(ends)) / 2, top)

    def _place_before(self) -> None:
        """Place columns to the left of the encoder, or of its backbone; a node is next to what it leads to."""
        y = max((self.centres[name][1] for name in self.decoder.backbones), default=0.0)
        self._place_beside(self.decoder.before[::-1], [(dst, src) for src, dst in self.edges], y, 1)

    def _place_after(self) -> None:
        """Place columns to the left of the decoder."""
        self._place_beside(self.decoder.after, self.edges, -self.drop, -1)

    def _place_beside(self, names: Sequence[str], edges: Sequence[Pair], y: float, up: int) -> None:
        """Place nodes by their distance from the nodes already placed; nodes of one distance form a column.

        Args:
            names: The nodes, nearer ones first.
            edges: Edges from the nearer to the farther node.
            y: Height of the first node of each column.
            up: 1 if the next node stands over it, -1 if under it.
        """
        within = [pair for pair in edges if set(pair) <= set(names)]
        for distance, found in enumerate(generations(names, within), start=1):
            for place, name in enumerate(found):
                self.centres[name] = (-distance * self.pitch, y + up * place * (self.boxes[name].height + PAD))

    # -- edges ---------------------------------------------------------------------------------

    def _is_arc(self, src: str, dst: str) -> bool:
        """Whether both ends are in one row with another box between them."""
        (x0, y0), (x1, y1) = self.centres[src], self.centres[dst]
        return y0 == y1 and self._passes_boxes(x0, x1, y0)

    def _passes_boxes(self, start: float, end: float, row: float) -> bool:
        low, high = min(start, end), max(start, end)
        return any(low < x < high and y == row for x, y in self.centres.values())

    def _curve(self, src: str, dst: str) -> list[Point]:
        (x0, y0), (x1, y1) = self.centres[src], self.centres[dst]
        first, last = self.boxes[src], self.boxes[dst]
        if src in self.decoder.backbones and dst in self.decoder.encoder:
            return straight((x1, y0 - first.height / 2), (x1, y1 + last.height / 2))
        if dst in self.decoder.after and y1 < y0 and self._passes_boxes(x0, x1, y0):
            end = x1 + last.width / 2
            return [(x0, y0 - first.height / 2), (x0, y1), ((x0 + end) / 2, y1), (end, y1)]
        if self._is_beside(src, dst):
            way = 1 if x0 < x1 else -1
            start, end = x0 + way * first.width / 2, x1 - way * last.width / 2
            half = (end - start) / 2
            return [(start, y0), (start + half, y0), (end - half, y1), (end, y1)]
        out, into = self.ports.get((src, dst), (0.0, 0.0))
        x0, x1 = x0 + out * first.width, x1 + into * last.width
        down = 1 if y0 > y1 else -1
        y0, y1 = y0 - down * first.height / 2, y1 + down * last.height / 2
        pull = (y0 - y1) / 2
        return [(x0, y0), (x0, y0 - pull), (x1, y1 + pull), (x1, y1)]

    def _is_beside(self, src: str, dst: str) -> bool:
        """Whether an edge goes from side to side: within a row, before the encoder, or after the decoder."""
        (_, y0), (_, y1) = self.centres[src], self.centres[dst]
        outside = {src, dst}.intersection((*self.decoder.before, *self.decoder.after))
        return y0 == y1 or (bool(outside) and (y0 > self.middle) == (y1 > self.middle))

    def _arc(self, src: str, dst: str) -> list[Point]:
        side = 1 if self.centres[src][1] > self.middle else -1
        out, into = self.ports[src, dst]
        return arc(self.centres[src], self.centres[dst], self.boxes[src], self.boxes[dst], side, (out, into), RISE)

    def _deal_ports(self, edges: Sequence[Pair], *, nested: bool) -> None:
        """Set where edges leave and enter their boxes: in the half nearer to the other end, so that they do not cross.

        Args:
            edges: Arcs, or edges from row to row.
            nested: Whether edges to the farthest box are outermost, as for arcs.
        """
        ends: dict[tuple[str, int, int], list[tuple[float, Pair]]] = {}
        for src, dst in edges:
            reach = self.centres[dst][0] - self.centres[src][0]
            way = (reach > 0) - (reach < 0)
            ends.setdefault((src, way, 0), []).append((abs(reach), (src, dst)))
            ends.setdefault((dst, -way, 1), []).append((abs(reach), (src, dst)))
        places: dict[tuple[Pair, int], float] = {}
        for (_, way, end), found in ends.items():
            for number, (_, pair) in enumerate(sorted(found, reverse=nested)):
                places[pair, end] = way * PORTS * (number + 1) / len(found) if way else 0.0
        for pair in edges:
            self.ports[pair] = (places[pair, 0], places[pair, 1])

    # -- bands ---------------------------------------------------------------------------------

    def _add_bands(self, layout: Layout) -> None:
        """Add one band per stride, over the whole height."""
        bottom, top = layout.low[1] - PAD, layout.high[1] + PAD + CAPTION
        number = 0
        for stride, columns in self.decoder.levels.items():
            left = (number - 0.5) * self.pitch + GAP / 6
            number += len(columns)
            right = (number - 0.5) * self.pitch - GAP / 6
            words = ("1" if stride == 1 else f"1/{stride}") if isinstance(stride, int) else "global"
            layout.bands.append(Band(words, (left, bottom), (right, top), top - CAPTION / 2))
        edges = [band.low[0] for band in layout.bands] + [band.high[0] for band in layout.bands]
        layout.low = (min(layout.low[0], *edges), bottom)
        layout.high = (max(layout.high[0], *edges), top)
