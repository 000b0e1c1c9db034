"""A penalty by cost, and a cost budget that the search meets at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from pydantic import model_validator
from torch import Tensor

from topolearn.graph import Graph, Topology
from topolearn.graph.budget import TOLERANCE, affordable, cut
from topolearn.graph.price import Alive, added_elements, edge_shares
from topolearn.graph.removal import strengths
from topolearn.learners.base import Candidates, Options
from topolearn.learners.costs import COUNTED, Budget, CostKind, Costs

STEERINGS = 100
"""Number of updates of prices and pressure during a search."""
ARRIVAL = 0.8
"""Share of the search after which the allowance has fallen to the budget."""
DECAY = 0.1
"""Share of the search in which the pressure takes an edge without a place from its target's largest weight to 0, if
nothing pulls it back."""
ESCALATION, MOST = 1.2, 10.0
"""Factor by which the pressure on an edge without a place grows at each update, and the largest total factor."""


class CostOptions(Options):
    """Options of learners that can weigh their penalty by cost; a search with either cannot be a CUDA graph."""

    cost: Literal["none", "macs", "params", "milliseconds"] = "none"
    """Cost that weighs each edge's penalty: ``none``; ``macs``; ``params``, the parameters; ``milliseconds``, measured
    on the search's device.
    """
    budget: Budget | None = None
    """Largest cost of the learned graph, as a share of the searched graph's: ``{macs: 0.5}``, ``{params: 0.5}``
    or ``{milliseconds: 0.5}``. The penalty is weighed by that cost. During the search, growing pressure drives out the
    weakest edges that do not fit. At the end, the strongest edges that fit together are kept.
    """

    @model_validator(mode="after")
    def _agree(self) -> CostOptions:
        if self.budget is not None and self.cost not in ("none", self.budget.kind):
            raise ValueError(f"'cost: {self.cost}' and a budget of {self.budget.kind} do not go together; drop 'cost'")
        return self

    @property
    def kind(self) -> CostKind | None:
        """The cost that weighs the penalty; None for no cost."""
        if self.budget is not None:
            return self.budget.kind
        return None if self.cost == "none" else self.cost


class Pricing(Costs):
    """Prices of the learnable edges, and the steering towards a budget.

    The price of an edge is its share (:func:`~topolearn.graph.price.edge_shares`) of the cost of all edges that are
    strong enough to be kept so far. The penalty of an edge is multiplied by its price divided by the highest price, so
    no edge is under more pressure than without prices.

    A budget adds a second penalty. The allowance falls evenly from the cost of the whole graph to the budget during the
    first four fifths of the search. A hundred times during the search,
    :func:`~topolearn.graph.budget.affordable` determines which edges have no place in the allowance. Each of those is
    soft-thresholded after every step (the proximal form of an L1 penalty), by an amount that takes it from its target's
    largest weight to 0 in a tenth of the search. The pressure grows while an edge holds out, up to tenfold. When the
    edge has a place again, the pressure ends and the edge gets back its earlier value. A stronger penalty on all edges
    would not work: behind a normalisation all weights of a target can shrink together, which does not separate them.

    While the allowance falls, the ranking alone decides which edges have a place. After that, the choice comes within
    :data:`~topolearn.graph.budget.TOLERANCE` of the budget. If whole nodes are too coarse for that, it comes as near as
    any choice of edges can.

    Attributes:
        weight: (L,) price of each learnable edge divided by the highest price.
        shrinkage: (L,) amount that each step takes from the magnitude of each learnable edge.
        held: (L,) last value of each learnable edge that was not 0 and not under such pressure.
        steps: Number of steps taken.
    """

    weight: Tensor
    shrinkage: Tensor
    held: Tensor
    steps: Tensor

    def __init__(self, graph: Graph, candidates: Candidates, options: CostOptions, threshold: float) -> None:
        assert options.kind is not None
        super().__init__(graph, candidates, options.kind, options.budget)
        self.threshold = threshold
        self.register_buffer("weight", torch.ones(len(candidates)))
        self.register_buffer("shrinkage", torch.zeros(len(candidates)))
        self.register_buffer("held", candidates.initial())
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self._total, self._count = 1, 0
        if self.kind in COUNTED:
            self.check()

    @classmethod
    def of(cls, graph: Graph, candidates: Candidates, options: CostOptions, threshold: float) -> Pricing | None:
        """Make the pricing that the options ask for; None if they ask for no pricing."""
        return None if options.kind is None else cls(graph, candidates, options, threshold)

    def begin(self, steps: int) -> None:
        """Prepare for a search of ``steps`` steps; called before its first step and after a resume."""
        self._total, self._count = steps, int(self.steps)
        self.check()
        if not self._count:
            self._reprice([1.0] * len(self.graph.edges))  # nothing has been decided

    def shrink(self, values: Tensor) -> None:
        """Soft-threshold (L,) values in place, after an optimiser step."""
        if self.budget is not None and self.training:
            values.copy_(values.sign() * (values.abs() - self.shrinkage).clamp(min=0))

    def count(self, values: Tensor) -> None:
        """Count a step; update prices and pressure when due.

        Args:
            values: (L,) values of the learnable edges, changed in place: an edge that has a place again gets its
                earlier value.
        """
        if not self.training:
            return
        self._count += 1
        self.steps.add_(1)
        if self._count % max(1, self._total // STEERINGS) == 0:
            given = values.tolist()
            self._reprice(self._spread(given))
            if self.budget is not None:
                values.copy_(torch.tensor(self._steer(given)))

    def _spread(self, values: Sequence[float]) -> list[float]:
        """Extend (L,) values of the learnable edges to (E,); fixed edges get their weights."""
        spread = [edge.weight for edge in self.graph.edges]
        for i, value in zip(self.places, values, strict=True):
            spread[i] = value
        return spread

    def _order(self, values: Sequence[float]) -> list[int]:
        """Sort the learnable edges, weakest first; edges at 0 rank by their earlier value.

        Args:
            values: (E,) values of all edges.
        """
        strength, before = strengths(self.graph, values), strengths(self.graph, self._spread(self.held.tolist()))
        return sorted(strength, key=lambda i: (strength[i], before[i], -i))

    def _reprice(self, values: Sequence[float]) -> None:
        strength = strengths(self.graph, values)
        keep = [strength.get(i, 1.0) >= self.threshold and value != 0.0 for i, value in enumerate(values)]
        prices = self.prices
        if self.kind == "macs":
            # Without this an edge between two nodes that stay would be free, although it costs an addition.
            added = added_elements(self.graph)
            prices = replace(prices, edges=tuple(a + b for a, b in zip(prices.edges, added, strict=True)))
        shares = edge_shares(self.graph, prices, keep)
        dearest: float = max(shares[i] for i in self.places)
        if dearest == 0.0:  # every learnable edge is weak
            self.weight.fill_(1.0)
            return
        alive = Alive.of(self.graph, keep).nodes

        def weight(i: int) -> float:
            edge = self.graph.edges[i]
            if shares[i] > 0.0:
                return shares[i] / dearest
            # Between nodes that stay, a weak edge would add only its own cost.
            return prices.edges[i] / dearest if edge.src in alive and edge.dst in alive else 1.0

        self.weight.copy_(torch.tensor([weight(i) for i in self.places]).clamp(max=1.0))

    def _steer(self, values: Sequence[float]) -> list[float]:
        """Set the pressure on the edges that have no place.

        Args:
            values: (L,) values of the learnable edges.

        Returns:
            (L,) values; edges that have their place back have their earlier value.
        """
        pressed = self.shrinkage.tolist()
        held = [
            value if value != 0.0 and pressure == 0.0 else before
            for value, pressure, before in zip(values, pressed, self.held.tolist(), strict=True)
        ]
        self.held.copy_(torch.tensor(held))
        spread = self._spread(values)
        progress = min(1.0, self._count / (ARRIVAL * self._total))
        allowance = self.full + (self.allowed - self.full) * progress
        tolerance = TOLERANCE if progress == 1.0 else 1.0
        has_place = affordable(self.graph, self._order(spread), self.prices, allowance, tolerance)
        shrinkage = []
        for i, pressure in zip(self.places, pressed, strict=True):
            largest = max(abs(spread[k]) for k in self.graph.in_edges(self.graph.edges[i].dst))
            usual = largest / (DECAY * self._total)
            shrinkage.append(0.0 if has_place[i] else min(MOST * usual, max(usual, ESCALATION * pressure)))
        self.shrinkage.copy_(torch.tensor(shrinkage))
        return [
            before if has_place[i] and pressure > 0.0 else value
            for i, value, pressure, before in zip(self.places, values, pressed, held, strict=True)
        ]

    def topology(self, edge_weights: Sequence[float]) -> Topology:
        """Return the strongest edges that fit the budget; edges under pressure are kept at their earlier value.

        Args:
            edge_weights: (E,) current edge weights.
        """
        values = list(edge_weights)
        for i, pressure, before in zip(self.places, self.shrinkage.tolist(), self.held.tolist(), strict=True):
            if pressure > 0.0:
                values[i] = before
        return cut(self.graph, values, self._order(edge_weights), self.prices, self.allowed, self.threshold)

    def summary(self, topology: Topology) -> dict[str, float]:
        """Return a topology's share of the whole cost, and the number of edges that have no place."""
        return {
            f"{self.kind}_share": self.reached(topology) / self.full,
            "without_place": float((self.shrinkage > 0).sum()),
        }
