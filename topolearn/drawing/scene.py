"""Decides what a picture of a graph shows: which nodes and edges, in which style, and the words."""

from __future__ import annotations

from dataclasses import dataclass, replace

from topolearn.drawing.canvas import NEGATIVE, POSITIVE
from topolearn.drawing.decoder_layout import Decoder
from topolearn.drawing.layout import Pair, generations, is_line, stem
from topolearn.graph import Edge, Graph, Node
from topolearn.graph.degrees import degrees

MAX_BOXES = 48
"""With more nodes than this, the members of long ranges become dots."""
MIN_RANGE = 8
"""Minimum length of a range with members that may become dots."""
MAX_EDGES = 10_000
"""Maximum number of edges drawn; if there are more, the strongest are drawn."""
MAX_PRUNED = 500
"""Maximum number of pruned edges for drawing them; more would hide the learned ones."""
SHADES = 16
"""Steps from the weakest to the strongest edge."""
UNDECIDED = 0.4
"""Share of the largest |weight| that sets the look of edges if all weights are equal."""

GREY, FAINT = "#8b949e", "#d5dae0"
"""Colours of fixed and of pruned edges."""
GONE = "#afb8c1"
"""Colour of removed nodes."""

FAMILIES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "input": (("input",), "#eaeef2", "#57606a"),
    "convolution": (("conv", "bn_relu", "batch_norm", "relu_conv", "sepconv", "relu_sepconv"), "#cfe4fb", "#3473b5"),
    "residual block": (("resnet.", "resnext.", "mobilenetv2."), "#cdeedb", "#2a8153"),
    "transformer": (("transformer.", "layer_norm"), "#e3f0c4", "#66801f"),
    "embedding": (("embedding", "patch_embedding"), "#f9d9ec", "#a63d7a"),
    "pooling": (("max_pool", "avg_pool", "global_avg_pool", "token_pool"), "#fdeac0", "#a87512"),
    "head": (("classifier", "linear", "segmentation_head", "token_head"), "#fbd5d0", "#b8483b"),
    "backbone": (("torchvision.", "timm.", "feature"), "#e6dcfa", "#6e50b5"),
    "part of a network": (("part",), "#d9dff5", "#44569c"),
    "decoder stage": ((), "#c5eef2", "#0b7285"),
    "identity, sum, concat": (("identity", "concat", "relu"), "#ffffff", "#57606a"),
    "other": (("",), "#f3e4d4", "#8a6237"),
}
"""Family -> beginnings of op names, fill, outline. The longest beginning decides; decoder stages are found by their
place in the graph."""


def family(op: str) -> str:
    """Return the family that sets the colour of an op."""
    lengths = {
        name: max((len(start) for start in starts if op.startswith(start)), default=-1)
        for name, (starts, _, _) in FAMILIES.items()
    }
    return max(lengths, key=lengths.__getitem__)


PRUNED, FIXED = -2.0, -1.0
"""Ranks of the edges that are not learned."""


@dataclass(frozen=True)
class Stroke:
    """How an edge is drawn; edges of higher rank are on top (learned edges have rank 0 to 1)."""

    colour: str
    width: float
    alpha: float
    rank: float

    @property
    def kind(self) -> str:
        """``pruned``, ``fixed`` or ``learned``."""
        return {PRUNED: "pruned", FIXED: "fixed"}.get(self.rank, "learned")


class Scene:
    """What to draw of a graph, or of a learned graph within the searched one.

    Args:
        graph: The graph.
        searched: The graph that it was learned in.

    Attributes:
        nodes: Id -> node of either graph.
        edges: (src, dst) -> edge of either graph.
        kept: (src, dst) -> edge of ``graph``.
        order: Ids in topological order.
        decoder: The parts of a graph with a decoder, which is drawn in two rows; None for other graphs.
        line: Whether the nodes are on a line.
        dots: Id -> size in inches, of nodes that are too many for boxes: dots on a line, otherwise small squares.
        rows: Whether layers are rows of squares, like the modules of a ResNeXt in the MaskConnect paper.
        degrees: Id -> in-degree and out-degree.
        learned: (src, dst) -> weight of a kept edge that a learner decided, or will decide, about.
        strokes: (src, dst) -> how the edge is drawn.
        weighted: Whether learned edges differ in |weight|, and so in width.
        scale: Factor of all widths.
        drawn: The edges that are drawn, the last ones on top.
    """

    def __init__(self, graph: Graph, searched: Graph | None = None) -> None:
        self.graph = graph
        self.searched = searched
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
        large = self.added or len(self.nodes) > MAX_BOXES
        self.decoder = None if large else Decoder.of(everything)
        arcs = is_line(generations(self.order, list(self.edges)), list(self.edges))
        self.line = arcs and self.decoder is None
        self.dots = self._dots()
        self.rows = bool(self.dots) and not self.line
        self.degrees = degrees(graph, searched)
        self.learned = {pair: edge.weight for pair, edge in self.kept.items() if self.is_learned(pair)}
        self.weighted = len({abs(weight) for weight in self.learned.values()}) > 1
        # If there are many edges, they must be thin and faint to be told apart.
        self.scale: float = min(1.0, max(0.2, 8.0 / self._shown() ** 0.5))
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

    def _dots(self) -> dict[str, float]:
        """Return id -> size in inches, for nodes that are dots."""
        if len(self.nodes) <= MAX_BOXES:
            return {}
        groups: dict[tuple[str, str], list[str]] = {}
        for node in self.nodes.values():
            groups.setdefault((stem(node.id), node.op), []).append(node.id)
        ranges = [group for group in groups.values() if len(group) >= MIN_RANGE]
        longest = max(1, *map(len, ranges)) if ranges else 1
        size = min(0.1, 12.0 / longest) if self.line else min(0.2, 3.2 / longest)
        return {name: size for group in ranges for name in group}

    # -- edges ---------------------------------------------------------------------------------

    def is_learned(self, pair: Pair) -> bool:
        """Whether a learner decided, or will decide, about a kept edge."""
        edges = self.edges if self.searched is not None else self.kept
        return edges[pair].learnable or self.kept[pair].weight != 1.0

    def _shown(self) -> int:
        """Return the number of learned edges that are drawn, at least 1."""
        return min(len(self.learned), MAX_EDGES) or 1

    def _strokes(self) -> dict[Pair, Stroke]:
        # Weights compare only within one target: a node may undo the scale of all its in-edges.
        largest: dict[str, float] = {}
        for (_, dst), edge in self.kept.items():
            largest[dst] = max(largest.get(dst, 0.0), abs(edge.weight))
        shares = {pair: abs(weight) / (largest[pair[1]] or 1.0) for pair, weight in self.learned.items()}
        clear = min(1.0, 25.0 / self._shown() ** 0.5)
        faint = min(0.8, max(0.3, 12.0 / max(1, len(self.edges) - len(self.kept)) ** 0.5))
        fixed = Stroke(GREY, max(0.35, 1.1 * self.scale), 0.9, FIXED)
        strokes = {}
        for pair in self.edges:
            if pair not in self.kept:
                strokes[pair] = Stroke(FAINT, 0.6, faint, PRUNED)
            elif pair in self.learned:
                share = shares[pair] if self.weighted else UNDECIDED
                shade = round(share * SHADES) / SHADES
                colour = POSITIVE if self.learned[pair] >= 0 else NEGATIVE
                strokes[pair] = Stroke(colour, self.width(shade), clear * (0.4 + 0.5 * shade), share)
            else:
                strokes[pair] = fixed
        return strokes if self.decoder is None else self._by_source(strokes, self.decoder)

    def _by_source(self, strokes: dict[Pair, Stroke], decoder: Decoder) -> dict[Pair, Stroke]:
        """Give edges into decoder stages the colours of their sources; negative edges keep their colour."""
        into = [pair for pair in self.kept if pair[1] in decoder.stages]
        clear = min(0.9, 6.0 / max(1, len(into)) ** 0.5)
        for pair in into:
            _, _, outline = FAMILIES[self.family_of(pair[0])]
            colour = outline if self.learned.get(pair, 1.0) >= 0 else NEGATIVE
            strokes[pair] = replace(strokes[pair], colour=colour, alpha=clear)
        return strokes

    def family_of(self, name: str) -> str:
        """Return the family that sets the colour of a node."""
        if self.decoder is not None and name in self.decoder.stages:
            return "decoder stage"
        return family(self.nodes[name].op)

    def look_of(self, name: str) -> tuple[str, str]:
        """Return the colours of a node: fill and outline."""
        if name not in self.graph.nodes:
            return "white", GONE
        _, fill, outline = FAMILIES[self.family_of(name)]
        return fill, outline

    def width(self, share: float) -> float:
        """Return the width in points of a learned edge with this share of its target's largest |weight|."""
        return self.scale * (0.4 + 2.4 * share)

    def _drawn(self) -> list[Pair]:
        """Return the edges to draw: all; of very many, the fixed and the strongest; pruned ones only if few."""
        rank = {pair: stroke.rank for pair, stroke in self.strokes.items()}
        if self.decoder is not None or len(self.edges) - len(self.kept) > MAX_PRUNED:
            rank = {pair: value for pair, value in rank.items() if value != PRUNED}
        ordered = sorted(rank, key=rank.__getitem__)
        if len(ordered) <= MAX_EDGES:
            return ordered
        by_worth = sorted(ordered, key=lambda pair: -(2.0 if rank[pair] == FIXED else rank[pair]))
        limit = rank[by_worth[MAX_EDGES - 1]]
        chosen = [pair for pair in by_worth[:MAX_EDGES] if rank[pair] != limit]
        # Among equals take an even sample; otherwise only the first targets would have edges.
        equals = [pair for pair in by_worth if rank[pair] == limit]
        free = MAX_EDGES - len(chosen)
        sample = {*chosen, *(equals[index * len(equals) // free] for index in range(free))}
        return [pair for pair in ordered if pair in sample]

    # -- words ---------------------------------------------------------------------------------

    def counts(self) -> str:
        """Return the counts of nodes, edges, parameters and MACs; before and after if there was a search."""
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

    def left_out(self) -> str | None:
        """Return which edges are not drawn, as text; None if all are drawn."""
        drawn = sum(pair in self.kept for pair in self.drawn)
        pruned = len(self.edges) - len(self.kept)
        parts = []
        if drawn < len(self.kept):
            parts.append(f"{drawn:,} of {len(self.kept):,} edges are drawn")
        if pruned and len(self.drawn) == drawn and self.decoder is None:
            parts.append(f"the {pruned:,} pruned edges are not drawn")
        return "; ".join(parts) or None

    def node_kinds(self) -> list[tuple[str, str, str]]:
        """Return word, fill and outline of each kind of node in the picture."""
        present = set(map(self.family_of, self.nodes))
        kinds = [(name, fill, outline) for name, (_, fill, outline) in FAMILIES.items() if name in present]
        return kinds if len(self.graph.nodes) == len(self.nodes) else [*kinds, ("removed", "#ffffff", GONE)]

    def edge_kinds(self) -> list[tuple[str, str, float]]:
        """Return word, colour and width of each kind of edge that is drawn."""
        word = "learned" if self.searched is not None or not self.graph.candidates else "learnable"
        signs = {weight >= 0 for weight in self.learned.values()}
        kinds = []
        if self.decoder is not None:
            sources = {self.family_of(src) for src, dst in self.drawn if dst in self.decoder.stages}
            kinds += [(name, outline, 1.6) for name, (_, _, outline) in FAMILIES.items() if name in sources]
        elif len(self.learned) < len(self.kept):
            kinds.append(("fixed", GREY, 1.1))
        if True in signs and self.decoder is None:
            kinds.append((f"{word}, positive" if len(signs) == 2 else word, POSITIVE, 1.6))
        if False in signs:
            kinds.append((f"{word}, negative", NEGATIVE, 1.6))
        if any(pair not in self.kept for pair in self.drawn):
            kinds.append(("pruned", FAINT, 1.2))
        return kinds
