"""Prices of nodes and edges, the price of a choice of edges, and each edge's share of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from topolearn.graph.ir import Graph
from topolearn.graph.topology import Topology
from topolearn.ops import Shape


@dataclass(frozen=True)
class Prices:
    """Prices of the nodes and edges of one graph.

    Attributes:
        kind: Unit: ``macs``, ``params`` or ``milliseconds``.
        nodes: Id -> price of the node.
        edges: (E,) price of what each edge computes.
    """

    kind: str
    nodes: Mapping[str, float]
    edges: tuple[float, ...]


@dataclass(frozen=True)
class Spent:
    """What a budget allowed and what the result costs.

    Attributes:
        kind: Unit: ``macs``, ``params`` or ``milliseconds``.
        full: Cost of the searched graph.
        allowed: Maximum cost of what is kept.
        reached: Cost of what is kept.
    """

    kind: str
    full: float
    allowed: float
    reached: float


def mac_prices(graph: Graph) -> Prices:
    """Return prices in multiply-accumulates of convolutions and linear layers, as ``graph.cost`` counts them."""
    cost = graph.cost
    nodes = {name: float(price.macs) for name, price in cost.nodes.items()}
    return Prices("macs", nodes, tuple(float(price.macs) for price in cost.edges))


def param_prices(graph: Graph) -> Prices:
    """Return prices in parameters, as ``graph.cost`` counts them.

    A shared part counts as a part of the first output. So the price of a choice is what it has, or more if all nodes
    that share a part are removed.
    """
    cost = graph.cost
    nodes = {name: float(price.params) for name, price in cost.nodes.items()}
    groups = shared_params(graph)
    for node in graph.nodes.values():
        nodes[node.id] -= sum(groups[group] for group in node.share.values())
    nodes[graph.outputs[0]] += sum(groups.values())
    return Prices("params", nodes, tuple(float(price.params) for price in cost.edges))


def shared_params(graph: Graph) -> dict[str, int]:
    """Return the number of parameters of each group of shared parts."""
    groups: dict[str, int] = {}
    for node in graph.nodes.values():
        for part, group in node.share.items():
            assert isinstance(node.input, Shape)
            groups[group] = node.rule.part_cost(part, node.input, graph.image).params
    return groups


def added_elements(graph: Graph) -> tuple[float, ...]:
    """Return the (E,) number of elements that each edge adds; ``graph.cost`` does not count these multiply-adds."""
    targets = (graph.nodes[edge.dst].input for edge in graph.edges)
    return tuple(0.0 if x is None else float(x.channels * x.area(graph.image)) for x in targets)


@dataclass(frozen=True)
class Alive:
    """What is left of a graph if only some edges are kept.

    Attributes:
        nodes: Ids of the nodes on a path from an input to an output.
        edges: Indices of the kept edges between them.
    """

    nodes: frozenset[str]
    edges: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph, keep: Sequence[bool]) -> Alive:
        """Return what is left after closing the topology and removing dead nodes."""
        fed = set(graph.inputs)
        for i, edge in enumerate(graph.edges):  # canonical order: all in-edges of a source come first
            if keep[i] and edge.src in fed:
                fed.add(edge.dst)
        read = {name for name in graph.outputs if name in fed}
        kept = []
        for i in range(len(graph.edges) - 1, -1, -1):
            edge = graph.edges[i]
            if keep[i] and edge.src in fed and edge.dst in read:
                read.add(edge.src)
                kept.append(i)
        return cls(frozenset(read), tuple(reversed(kept)))

    def price(self, prices: Prices) -> float:
        """Return the sum of the prices of nodes and edges."""
        # Sum exactly: a set has no order, and a plain sum of floats would depend on the order.
        return math.fsum([*(prices.nodes[name] for name in self.nodes), *(prices.edges[i] for i in self.edges)])


def edge_shares(graph: Graph, prices: Prices, keep: Sequence[bool]) -> list[float]:
    """Return the (E,) share of the price that each kept edge is responsible for; 0 for edges that are not alive.

    An edge costs what it computes, a share of its source's price (a source dies if nothing reads it), and a share of
    its target's price (a target dies if nothing feeds it). Edges that can each keep a node alive have equal shares:
    this is the Shapley value of a game that any one player wins. What dies with the node is shared in the same way. No
    edge pays for nodes that fixed edges keep alive.
    """
    alive = Alive.of(graph, keep)
    kept = [(i, graph.edges[i]) for i in alive.edges]
    always_fed, always_read = set(graph.inputs), set(graph.outputs)
    for _, edge in kept:
        if not edge.learnable and edge.src in always_fed:
            always_fed.add(edge.dst)
    for _, edge in reversed(kept):
        if not edge.learnable and edge.dst in always_read:
            always_read.add(edge.src)
    feeders: dict[str, int] = dict.fromkeys(alive.nodes, 0)
    readers: dict[str, int] = dict.fromkeys(alive.nodes, 0)
    for _, edge in kept:
        feeders[edge.dst] += 1
        readers[edge.src] += 1
    # What is saved if nothing reads a node: its price, and its share of what it reads; then, if nothing feeds it.
    unread = {name: prices.nodes[name] for name in alive.nodes}
    for i, edge in kept:
        upstream = 0.0 if edge.src in always_read else unread[edge.src] / readers[edge.src]
        unread[edge.dst] += prices.edges[i] + upstream
    unfed = {name: prices.nodes[name] for name in alive.nodes}
    for i, edge in reversed(kept):
        downstream = 0.0 if edge.dst in always_fed else unfed[edge.dst] / feeders[edge.dst]
        unfed[edge.src] += prices.edges[i] + downstream
    shares = [0.0] * len(graph.edges)
    for i, edge in kept:
        shares[i] = prices.edges[i]
        if edge.src not in always_read:
            shares[i] += unread[edge.src] / readers[edge.src]
        if edge.dst not in always_fed:
            shares[i] += unfed[edge.dst] / feeders[edge.dst]
    return shares


def cheapest(graph: Graph, prices: Prices) -> list[bool]:
    """Return the (E,) edges that must be kept: the fixed ones, and the cheapest path to outputs these do not reach."""
    keep = [not edge.learnable for edge in graph.edges]
    for output in graph.outputs:
        alive = Alive.of(graph, keep).nodes
        if output in alive:
            continue
        best: dict[str, tuple[float, int]] = dict.fromkeys(graph.inputs, (0.0, -1))
        for i, edge in enumerate(graph.edges):
            if edge.src in best:
                own = 0.0 if edge.dst in alive else prices.nodes[edge.dst]
                through = best[edge.src][0] + prices.edges[i] + own
                if edge.dst not in best or through < best[edge.dst][0]:
                    best[edge.dst] = (through, i)
        name = output
        while best[name][1] >= 0:
            keep[best[name][1]] = True
            name = graph.edges[best[name][1]].src
    return keep


def one_level_params(graph: Graph, topology: Topology) -> int:
    """Return the number of parameters left if only nodes without a kept out-edge are removed.

    Ahmed & Torresani (2018) prune by this rule: "no outgoing edge". It looks one level ahead: a node that only dead
    nodes read stays, while :class:`~topolearn.graph.passes.EliminateDead` removes it too.

    Args:
        graph: The graph that was searched.
        topology: Which of its edges are kept.
    """
    read = {edge.src for edge, kept in zip(graph.edges, topology.keep, strict=True) if kept}
    stays = {*read, *graph.outputs}
    cost = graph.cost
    total, counted = 0, set()
    for node in graph.nodes.values():
        if node.id not in stays:
            continue
        total += cost.nodes[node.id].params
        for part, group in node.share.items():
            if group in counted:
                assert isinstance(node.input, Shape)
                total -= node.rule.part_cost(part, node.input, graph.image).params
            counted.add(group)
    for edge, kept, price in zip(graph.edges, topology.keep, cost.edges, strict=True):
        total += price.params if kept and edge.dst in stays else 0
    return total
