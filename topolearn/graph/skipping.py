"""Removes blocks of a graph one after another, and lets shortcuts around them step in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

from topolearn.graph.ir import Graph
from topolearn.graph.passes import KeepEdges
from topolearn.graph.price import Alive, Prices, mac_prices, param_prices, shared_params
from topolearn.graph.topology import Topology


@dataclass(frozen=True)
class InUse:
    """A graph after some learnable edges were removed: the edges in use, with their weights.

    Edges of weight 0 are not in use. They are spare: if a node loses its last in-edge, the latest spare one from a
    living node steps in, at weight 1. So a block between equal shapes can be skipped. A node that nothing reads or
    feeds any more dies with its edges and never comes back.

    Attributes:
        graph: The graph.
        weights: (E,) weight of each edge; 0 for edges that are not in use.
        spare: Indices of the learnable edges that can step in.
    """

    graph: Graph
    weights: tuple[float, ...]
    spare: frozenset[int]

    @classmethod
    def of(cls, graph: Graph) -> InUse:
        """Return a graph from which nothing was removed."""
        weights = tuple(edge.weight for edge in graph.edges)
        return cls(
            graph, weights, frozenset(i for i, edge in enumerate(graph.edges) if edge.learnable and not weights[i])
        )

    def blocks(self) -> dict[str, tuple[int, ...]]:
        """Return the learnable edges in use by the node that they start from: they go with the block that ends there.

        Returns:
            Id of a node -> indices of its edges.
        """
        found: dict[str, list[int]] = {}
        for i, edge in enumerate(self.graph.edges):
            if edge.learnable and self.weights[i]:
                found.setdefault(edge.src, []).append(i)
        return {source: tuple(edges) for source, edges in found.items()}

    def removables(self) -> tuple[Removable, ...]:
        """Return what can go, in the graph's order.

        A node can go if it dies without the learnable edges that start from it, and no output needs it. What dies with
        it goes too. If the same nodes go with the edges from several of them, only the last of these counts.
        """
        living = self.living()
        found: dict[tuple[str, ...], Removable] = {}
        for source, edges in self.blocks().items():
            left = self.less(*edges)
            gone = frozenset() if left is None else living - left.living()
            if left is not None and source in gone:
                nodes = tuple(name for name in self.graph.nodes if name in gone)
                found[nodes] = Removable(source, edges, nodes, self, left)
        return tuple(found.values())

    def less(self, *edges: int) -> InUse | None:
        """Return what is in use without some edges; None if an output would be cut off."""
        weights = [0.0 if i in edges else value for i, value in enumerate(self.weights)]
        return self._settled(weights, set(self.spare).difference(edges), set(self.living()))

    def price(self, prices: Prices) -> float:
        """Return the price of the nodes and edges in use."""
        return self._alive.price(prices)

    def living(self) -> frozenset[str]:
        """Return the ids of the nodes in use."""
        return self._alive.nodes

    @cached_property
    def _alive(self) -> Alive:
        return Alive.of(self.graph, [value != 0.0 for value in self.weights])

    @cached_property
    def _prices(self) -> dict[str, Prices]:
        return {"params": param_prices(self.graph), "macs": mac_prices(self.graph)}

    def topology(self) -> Topology:
        """Return the edges in use as a topology."""
        return Topology(tuple(value != 0.0 for value in self.weights), self.weights)

    def pruned(self) -> Graph:
        """Return the graph of what is in use."""
        return KeepEdges(self.topology())(self.graph)

    def _ends(self, i: int) -> tuple[str, str]:
        return self.graph.edges[i].src, self.graph.edges[i].dst

    def _settled(self, weights: list[float], spare: set[int], living: set[str]) -> InUse | None:
        """Let spare edges step in where nodes have lost their last in-edge; drop what is dead then."""
        graph = self.graph
        fed = set(graph.inputs)
        for node in graph.nodes:  # in topological order: a node's sources come first
            if node in fed or node not in living:
                continue
            indices = [i for i in graph.in_edges(node) if graph.edges[i].src in fed]
            if not any(weights[i] for i in indices):
                able = [i for i in indices if i in spare]
                if not able:
                    continue
                weights[able[-1]] = 1.0
            fed.add(node)
        alive = Alive.of(graph, [value != 0.0 for value in weights])
        if not alive.nodes.issuperset(graph.outputs):
            return None
        used = set(alive.edges)
        left = tuple(value if i in used else 0.0 for i, value in enumerate(weights))
        ready = frozenset(i for i in spare if i not in used and alive.nodes.issuperset(self._ends(i)))
        return InUse(graph, left, ready)


@dataclass(frozen=True)
class Removable:
    """What goes from a graph with the edges from one node: a branch, or a block that can be skipped.

    Attributes:
        source: Id of that node.
        edges: Indices of its learnable edges in use.
        nodes: Ids of the nodes that go, in the graph's order.
        before: The graph with the block.
        after: The graph without it.
    """

    source: str
    edges: tuple[int, ...]
    nodes: tuple[str, ...]
    before: InUse
    after: InUse

    @property
    def id(self) -> str:
        """Id of the last node that goes."""
        return self.nodes[-1]

    def price(self, prices: Prices) -> float:
        """Return the price of what goes, less that of an edge that steps in."""
        return self.before.price(prices) - self.after.price(prices)

    @property
    def params(self) -> int:
        """Number of parameters that go; what other nodes share stays."""
        graph = self.before.graph
        groups = shared_params(graph)
        lost = _groups(graph, self.before.living()) - _groups(graph, self.after.living())
        return round(self.price(self.before._prices["params"])) + sum(groups[group] for group in lost)

    @property
    def macs(self) -> int:
        """Multiply-accumulates that go."""
        return round(self.price(self.before._prices["macs"]))


def removables(graph: Graph) -> tuple[Removable, ...]:
    """Return what can go from a graph, in its order; see :meth:`InUse.removables`."""
    return InUse.of(graph).removables()


def _groups(graph: Graph, nodes: Collection[str]) -> set[str]:
    """Return the groups of shared parts that some nodes have."""
    return {group for name in nodes for group in graph.nodes[name].share.values()}


def is_by_block(graph: Graph) -> bool:
    """Whether each learnable edge in use decides about a block alone, as in most lifted networks.

    In other graphs, a search chooses among the edges that read a block.
    """
    whole = InUse.of(graph)
    read = Counter(edge.src for edge, weight in zip(graph.edges, whole.weights, strict=True) if weight)
    return all(read[graph.edges[i].src] == 1 for edges in whole.blocks().values() for i in edges)
