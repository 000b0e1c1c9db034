"""What a search can remove from a graph, block by block, and what each block costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from topolearn.graph.ir import Graph
from topolearn.graph.price import Prices
from topolearn.ops import Shape


@dataclass(frozen=True)
class Skippable:
    """Nodes that go together if no learnable edge reads the last of them: a branch, or a block.

    Attributes:
        graph: The graph.
        id: Id of the last node.
        nodes: Ids of all nodes that go, in the graph's order.
        edges: Indices of the edges that go.
    """

    graph: Graph
    id: str
    nodes: tuple[str, ...]
    edges: tuple[int, ...]

    @property
    def params(self) -> int:
        """Number of parameters that go; what other nodes share stays."""
        cost, gone = self.graph.cost, set(self.nodes)
        total = sum(cost.nodes[name].params for name in self.nodes) + sum(cost.edges[i].params for i in self.edges)
        sharing = [node for node in self.graph.nodes.values() if node.share]
        counted = {group for node in sharing if node.id not in gone for group in node.share.values()}
        for node in sharing:
            for part, group in node.share.items() if node.id in gone else ():
                assert isinstance(node.input, Shape)
                total -= node.rule.part_cost(part, node.input, self.graph.image).params if group in counted else 0
                counted.add(group)
        return total

    @property
    def macs(self) -> int:
        """Multiply-accumulates that go."""
        cost = self.graph.cost
        return sum(cost.nodes[name].macs for name in self.nodes) + sum(cost.edges[i].macs for i in self.edges)

    def price(self, prices: Prices) -> float:
        """Return the price of the nodes and edges that go."""
        return sum(prices.nodes[name] for name in self.nodes) + sum(prices.edges[i] for i in self.edges)


def skippables(graph: Graph) -> tuple[Skippable, ...]:
    """Return what can go from a graph, in its order: what dies with each node that only learnable edges read.

    What the graph needs for an output is not listed.
    """
    return tuple(_found(graph))


def is_by_block(graph: Graph) -> bool:
    """Whether each learnable edge that counts decides about a block alone, as in a lifted network.

    An edge counts if its weight is not 0. In other graphs, a search chooses among the edges that read a block.
    """
    readers = Counter(edge.src for edge in graph.edges)
    counting = [edge for edge in graph.edges if edge.learnable and edge.weight != 0.0]
    return bool(counting) and all(readers[edge.src] == 1 for edge in counting)


def _found(graph: Graph) -> Iterator[Skippable]:
    place = {name: index for index, name in enumerate(graph.nodes)}
    out_edges: dict[str, list[int]] = {name: [] for name in graph.nodes}
    for i, edge in enumerate(graph.edges):
        out_edges[edge.src].append(i)
    stays = {*graph.inputs, *graph.outputs}
    for name, read_by in out_edges.items():
        if not read_by or name in graph.inputs or not all(graph.edges[i].learnable for i in read_by):
            continue
        gone, waiting = {name}, [name]
        unread: Counter[str] = Counter()
        unfed: Counter[str] = Counter()
        while waiting:
            node = waiting.pop()
            for i in graph.in_edges(node):
                source = graph.edges[i].src
                unread[source] += 1
                if unread[source] == len(out_edges[source]) and source not in stays and source not in gone:
                    gone.add(source)
                    waiting.append(source)
            for i in out_edges[node]:
                target = graph.edges[i].dst
                unfed[target] += 1
                if unfed[target] == len(graph.in_edges(target)) and target not in gone:
                    gone.add(target)
                    waiting.append(target)
        if gone.isdisjoint(graph.outputs):
            nodes = tuple(sorted(gone, key=place.__getitem__))
            edges = {i for each in nodes for i in (*graph.in_edges(each), *out_edges[each])}
            yield Skippable(graph, name, nodes, tuple(sorted(edges)))
