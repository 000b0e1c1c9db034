"""Searches for a choice of edges of a given price: a knapsack problem on a graph."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from topolearn.graph.ir import Graph
from topolearn.graph.price import Prices
from topolearn.graph.units import Unit, units

_EFFORT = 300_000
"""Number of visits to edges before a search gives up: some tenths of a second."""
_GRID = 1 << 16
"""Steps between 0 and the allowed price; prices are rounded to them to list their possible sums."""
_SLACK = 1e-9
"""Prices are sums of fractions: a difference of this share of the allowed price counts as rounding."""


@dataclass(frozen=True)
class Packed:
    """A choice that fits: the edges that are kept, and their price."""

    keep: list[bool]
    price: float


@dataclass(frozen=True)
class _Routes:
    """The strongest paths through a graph; a path is as strong as its weakest edge.

    Attributes:
        graph: The graph.
        rank: (E,) strength of each edge.
        fed: Id -> strength of the best path from an input, for nodes that have one.
        read: Id -> strength of the best path to an output, for nodes that have one.
        feeder: Id -> last edge of the best path from an input.
        reader: Id -> first edge of the best path to an output.
    """

    graph: Graph
    rank: Sequence[int]
    fed: dict[str, int]
    read: dict[str, int]
    feeder: dict[str, int]
    reader: dict[str, int]

    @classmethod
    def over(cls, graph: Graph, keep: Sequence[bool], rank: Sequence[int]) -> _Routes:
        """Find the strongest paths over the kept edges."""
        best = len(graph.edges)
        fed, read = dict.fromkeys(graph.inputs, best), dict.fromkeys(graph.outputs, best)
        feeder: dict[str, int] = {}
        reader: dict[str, int] = {}
        for i, edge in enumerate(graph.edges):  # canonical order: all in-edges of a source come first
            if keep[i] and edge.src in fed:
                through = min(rank[i], fed[edge.src])
                if through > fed.get(edge.dst, -1):
                    fed[edge.dst], feeder[edge.dst] = through, i
        for i in range(len(graph.edges) - 1, -1, -1):
            edge = graph.edges[i]
            if keep[i] and edge.dst in read:
                through = min(rank[i], read[edge.dst])
                if through > read.get(edge.src, -1):
                    read[edge.src], reader[edge.src] = through, i
        return cls(graph, rank, fed, read, feeder, reader)

    def strength(self, unit: Unit, keep: Sequence[bool]) -> int:
        """Return the strength of the best path through a unit; -1 if there is none."""
        first = unit.members[0]
        if isinstance(first, str):
            return min(self.fed.get(first, -1), self.read.get(first, -1))
        edge = self.graph.edges[first]
        return min(self.rank[first], self.fed.get(edge.src, -1), self.read.get(edge.dst, -1)) if keep[first] else -1

    def way(self, unit: Unit) -> Iterator[str | int]:
        """Yield the unit, and the nodes and edges on the best path through it; the unit must be alive."""
        yield from unit.members
        first = unit.members[0]
        if isinstance(first, str):
            source = name = first
        else:
            source, name = self.graph.edges[first].src, self.graph.edges[first].dst
        yield from self.way_to(source)
        yield name
        while name in self.reader:
            i = self.reader[name]
            name = self.graph.edges[i].dst
            yield i
            yield name

    def way_to(self, name: str) -> Iterator[str | int]:
        """Yield the nodes and edges on the best path from an input to a node; there must be one."""
        yield name
        while name in self.feeder:
            i = self.feeder[name]
            name = self.graph.edges[i].src
            yield i
            yield name


@dataclass(frozen=True)
class _Branch:
    """A state of the search to continue from.

    Attributes:
        exceptions: Number of cuts so far of something that might have stayed.
        keep: (E,) the edges before the last cut.
        cut: The edges to cut next.
        kept: Units; the first ``count`` of them are kept.
        count: Number of kept units.
    """

    exceptions: int
    keep: list[bool]
    cut: frozenset[int]
    kept: list[int]
    count: int


class Knapsack:
    """The search for a choice of edges of a given price.

    The search goes through the units that are alive, the strongest first. It keeps a unit together with its best path
    if both fit, and if some sum of the undecided units' prices fits beside them. It cuts what cannot stay. A cut can
    remove other units too, and weaken units with a path through it. This is enough except in unusual graphs. There,
    the search makes one exception, the weakest first: it cuts something that might have stayed. Then it makes two,
    and so on.

    Attributes:
        graph: The graph.
        allowed: Maximum price.
        rank: (E,) place of each edge in the order of removal; fixed edges come last.
        start: (E,) all edges except fixed ones of weight 0.
        units: What can be dropped and costs something, in topological order.
        base: Price of what is always alive.
        of: Id of a node, or index of an edge -> the unit that it belongs to.
    """

    def __init__(self, graph: Graph, order: Sequence[int], prices: Prices, allowed: float) -> None:
        self.graph = graph
        self.allowed = allowed
        self.limit = allowed * (1.0 + _SLACK)
        self.rank = [len(order)] * len(graph.edges)
        for number, i in enumerate(order):
            self.rank[i] = number
        self.start = [edge.learnable or edge.weight != 0.0 for edge in graph.edges]
        self.units, self.base = units(graph, self.start, prices)
        self.of = {member: u for u, unit in enumerate(self.units) for member in unit.members}

    def pack(self, least: float) -> Packed | None:
        """Return the first choice that fits and costs at least ``least``; None if none is found in time."""
        heap: list[tuple[int, int, _Branch]] = []
        serial = 0
        effort = max(_EFFORT, len(self.start) * (len(self.units) + 1))
        branches = [_Branch(0, self.start, frozenset(), [], 0)]
        while effort > 0:
            for branch in branches:
                serial -= 1  # among equals, the last comes first
                heapq.heappush(heap, (branch.exceptions, serial, branch))
            if not heap:
                break
            effort -= len(self.start)
            found, branches = self._descend(heapq.heappop(heap)[2], least)
            if found is not None:
                return found
        return None

    def _descend(self, branch: _Branch, least: float) -> tuple[Packed | None, list[_Branch]]:
        """Keep units until one must be cut or everything is decided.

        Returns:
            The choice, if everything is decided; and the other branches to continue from, the last first.
        """
        keep = [on and i not in branch.cut for i, on in enumerate(branch.keep)]
        kept = branch.kept[: branch.count]
        routes = _Routes.over(self.graph, keep, self.rank)
        strength = [routes.strength(unit, keep) for unit in self.units]
        if any(name not in routes.fed for name in self.graph.outputs) or any(strength[u] < 0 for u in kept):
            return None, []
        price = [unit.price for unit in self.units]
        spent = math.fsum([self.base, *(price[u] for u in kept)])
        undecided = {u for u, best in enumerate(strength) if best >= 0} - set(kept)
        strongest = sorted(undecided, key=lambda u: (-strength[u], -u))  # among equals, downstream units first

        def ways() -> Iterator[Iterator[str | int]]:
            for name in self.graph.outputs:  # each needs a path
                yield routes.way_to(name)
            for u in strongest:
                if u in undecided:
                    yield routes.way(self.units[u])

        def without(gone: Sequence[int], count: int, exceptions: int) -> list[_Branch]:
            # Units with several ways to be cut: one unit at a time.
            several = next((self.units[u].cuts for u in gone if len(self.units[u].cuts) > 1), (frozenset[int](),))
            cut = frozenset[int]().union(*(self.units[u].cuts[0] for u in gone if len(self.units[u].cuts) == 1))
            return [_Branch(branch.exceptions + exceptions, keep, cut | each, kept, count) for each in several[::-1]]

        branches: list[_Branch] = []
        for way in ways():
            if spent + math.fsum(price[u] for u in undecided) <= self.limit:
                break
            dear = [u for u in undecided if spent + price[u] > self.limit]
            if dear:
                return None, branches + without(dear, len(kept), 0)
            missing = list({self.of[x]: None for x in way if self.of.get(x) in undecided})
            if not missing:
                continue
            cost = math.fsum(price[u] for u in missing)
            over = spent + cost - self.limit
            missing.sort(key=lambda u: self._loss(u, over))
            undecided.difference_update(missing)
            left = [price[u] for u in undecided]
            count = len(kept)
            kept += missing
            can_stay = over <= 0.0 and self._reaches(left, least - spent - cost, -over)
            # Either the first of them is cut; or it stays and the next is cut; and so on.
            for number in range(len(missing) - 1, -1, -1):
                branches += without(missing[number : number + 1], count + number, int(can_stay or number > 0))
            if not can_stay:
                return None, branches
            spent += cost
        whole = spent + math.fsum(price[u] for u in undecided)
        fits = least * (1.0 - _SLACK) <= whole <= self.limit
        return (Packed(keep, whole) if fits else None), branches

    def _loss(self, u: int, over: float) -> tuple[bool, bool, float]:
        """Return a sort key for what to cut to save ``over``: the cheapest node that is enough comes first."""
        price = self.units[u].price
        enough = price >= over > 0.0
        return not enough, isinstance(self.units[u].members[0], int), price if enough else -price

    def _reaches(self, prices: Sequence[float], least: float, most: float) -> bool:
        """Whether some of the prices can add up to a sum between ``least`` and ``most``.

        False is certain. True may be wrong by the rounding to the grid.
        """
        if math.fsum(prices) < least - _SLACK * self.allowed:
            return False
        if least <= 0.0 or max(prices) <= most - least:  # steps are too small to miss the range
            return True
        step = self.allowed / _GRID
        high = math.ceil(most / step) + len(prices) // 2 + 1
        low = max(0, math.floor(least / step) - len(prices) // 2 - 1)
        within = (1 << (high + 1)) - 1
        sums = 1  # bit n: a sum of n steps
        for price in prices:
            sums |= (sums << round(price / step)) & within
        return sums >> low != 0
