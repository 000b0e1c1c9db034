"""Splits the adjacency matrix of a graph into panels, one per block of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topolearn.drawing.layout import range_text, stem
from topolearn.graph import Graph


@dataclass(frozen=True)
class MatrixPanel:
    """One matrix: targets (rows) by sources (columns).

    Attributes:
        targets: Ids, in the graph's order.
        sources: Ids, in the graph's order.
        cells: (row, column) -> index of the edge.
        rows: The targets grouped by range and shape, which are the stages of a network.
        columns: The sources, grouped in the same way.
    """

    targets: tuple[str, ...]
    sources: tuple[str, ...]
    cells: dict[tuple[int, int], int]
    rows: tuple[tuple[str, ...], ...]
    columns: tuple[tuple[str, ...], ...]

    @property
    def title(self) -> str:
        """Sources and targets as ranges, such as ``a[1..8] → b[1..8]``."""
        return f"{_text(self.columns)} → {_text(self.rows)}"


def _text(groups: Sequence[Sequence[str]]) -> str:
    """Return all groups as ranges; as one range if they differ only in shape."""
    names = [name for group in groups for name in group]
    if len({stem(name) for name in names}) == 1:
        return range_text(names)
    words = [range_text(group) for group in groups]
    return ", ".join(words) if len(words) < 3 else f"{words[0]} … {words[-1]}"


def panels(graph: Graph) -> list[MatrixPanel]:
    """Return the matrices of all learnable edges of a graph; no two have a common source or target.

    A complete graph is one matrix. If modules read only the module before, every pair of neighbours is one matrix.
    """
    import networkx as nx

    # A node can be both a target and a source; as a source it is wrapped in a tuple.
    links: nx.Graph[str | tuple[str]] = nx.Graph()
    for target, indices in graph.candidates.items():
        links.add_edges_from((target, (graph.edges[index].src,)) for index in indices)
    blocks = nx.connected_components(links)
    return [_panel(graph, [target for target in graph.candidates if target in block]) for block in blocks]


def _panel(graph: Graph, targets: Sequence[str]) -> MatrixPanel:
    indices = [index for target in targets for index in graph.candidates[target]]
    used = {graph.edges[index].src for index in indices}
    sources = [name for name in graph.nodes if name in used]
    row, column = ({name: i for i, name in enumerate(names)} for names in (targets, sources))
    cells = {(row[graph.edges[index].dst], column[graph.edges[index].src]): index for index in indices}
    return MatrixPanel(tuple(targets), tuple(sources), cells, _stages(graph, targets), _stages(graph, sources))


def _stages(graph: Graph, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Group neighbours that have the same range and the same output shape."""
    groups: list[list[str]] = []
    for name in names:
        last = groups[-1][-1] if groups else None
        if last is not None and stem(last) == stem(name) and graph.shapes[last] == graph.shapes[name]:
            groups[-1].append(name)
        else:
            groups.append([name])
    return tuple(map(tuple, groups))
