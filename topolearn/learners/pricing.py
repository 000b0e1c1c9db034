"""A penalty by cost, and a budget that the search ends at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from topolearn.errors import OptionError
from topolearn.graph import Graph, Topology
from topolearn.graph.budget import TOLERANCE, affordable, cut
from topolearn.graph.price import Alive, Prices, Spent, added_elements, edge_shares, mac_prices
from topolearn.graph.removal import strengths
from topolearn.learners.base import Candidates, Options

CostKind = Literal["macs", "milliseconds"]

STEERINGS = 100
"""How often in a search prices and pressure are set anew."""
ARRIVAL = 0.8
"""Share of the search after which the allowance has come down to the budget."""
DECAY = 0.1
"""Share of the search in which an edge without a place goes from its target's largest weight to 0, if nothing
pulls it back."""
ESCALATION, MOST = 1.2, 10.0
"""By how much the pressure on an edge without a place grows from one steering to the next, and up to how much."""

MARGIN = 1.1
"""Factor on the least budget that an error names, where that was measured: the next time it may take longer."""


class Budget(Options):
    """What the learned graph may cost: a share of the searched graph's cost."""

    macs: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of its multiply-accumulates."""
    milliseconds: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of its measured time."""

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, given: Any) -> Any:
        if not isinstance(given, Mapping | Budget):
            raise ValueError("should say of which cost it is a share, as {macs: 0.5}")
        return given

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.macs is None) == (self.milliseconds is None):
            raise ValueError("needs one of 'macs' and 'milliseconds', as {macs: 0.5}")
        return self

    @property
    def kind(self) -> CostKind:
        """Which of the two."""
        return "macs" if self.macs is not None else "milliseconds"

    @property
    def share(self) -> float:
        """The share."""
        share = self.macs if self.macs is not None else self.milliseconds
        assert share is not None
        return share


class CostOptions(Options):
    """Options of learners whose penalty may go by cost; a search with either cannot be a CUDA graph."""

    cost: Literal["none", "macs", "milliseconds"] = "none"
    """What weighs the penalty: ``none``; ``macs``; ``milliseconds``, measured on the device of the search."""
    budget: Budget | None = None
    """What the learned graph may cost, as ``{macs: 0.5}``: the penalty goes by that cost, the pressure on edges without
    a place is steered during the search, and the strongest that together fit are kept.
    """

    @model_validator(mode="after")
    def _agree(self) -> CostOptions:
        if self.budget is not None and self.cost not in ("none", self.budget.kind):
            raise ValueError(f"'cost: {self.cost}' and a budget of {self.budget.kind} do not go together; drop 'cost'")
        return self

    @property
    def kind(self) -> CostKind | None:
        """What the penalty goes by."""
        if self.budget is not None:
            return self.budget.kind
        return None if self.cost == "none" else self.cost


class Pricing(nn.Module):
    """Prices of the learnable edges, and the steering towards a budget.

    Every edge is priced at :func:`~topolearn.graph.price.edge_shares` of what is strong enough to be kept so far.
    The penalty of an edge is multiplied by its price over the dearest, so that no edge is under more pressure than
    without prices.

    Towards a budget, a penalty of its own is steered. The allowance falls evenly from the cost of the whole
    graph to the budget during the first four fifths of the search. A hundred times it is asked which edges
    have no place in it (:func:`~topolearn.graph.budget.affordable`), and each of those is soft-thresholded after every
    step (the proximal form of an L1 penalty) by what takes it from its target's largest weight to 0 in a
    tenth of the search. The pressure grows while an edge holds out, up to tenfold, and ends when it has a place
    again, with the value that it had before. A stronger penalty on all edges would not do: behind a normalisation all
    weights of a target can shrink together, which tells none of them from another.

    While the allowance falls, the ranking alone decides who has a place. From then on the choice comes within
    :data:`~topolearn.graph.budget.TOLERANCE` of the budget or, where whole nodes are too coarse for that, as near as
    any choice of edges does.

    Attributes:
        graph: The searched graph.
        kind: ``macs`` or ``milliseconds``.
        budget: What to end at, None for a penalty by cost alone.
        weight: (L,) price of each learnable edge over the dearest.
        shrinkage: (L,) what each step takes from the magnitude of each learnable edge.
        held: (L,) the last value of each learnable edge that was not 0 and under no such pressure.
        steps: Steps that were taken.
        measured: (V + E,) milliseconds of nodes and edges, in a checkpoint too: they are measured once. Empty
            where MACs are counted.
    """

    weight: Tensor
    shrinkage: Tensor
    held: Tensor
    steps: Tensor
    measured: Tensor

    def __init__(self, graph: Graph, candidates: Candidates, options: CostOptions, threshold: float) -> None:
        super().__init__()
        assert options.kind is not None
        self.graph = graph
        self.kind: CostKind = options.kind
        self.budget = options.budget
        self.threshold = threshold
        self.places = candidates.index.tolist()
        self.register_buffer("weight", torch.ones(len(candidates)))
        self.register_buffer("shrinkage", torch.zeros(len(candidates)))
        self.register_buffer("held", candidates.initial())
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        measured = 0 if self.kind == "macs" else len(graph.nodes) + len(graph.edges)
        self.register_buffer("measured", torch.zeros(measured, dtype=torch.float64))
        self._macs = mac_prices(graph) if self.kind == "macs" else None
        self._total, self._count = 1, 0
        if self.kind == "macs":
            self.check()

    @classmethod
    def of(cls, graph: Graph, candidates: Candidates, options: CostOptions, threshold: float) -> Pricing | None:
        """The pricing that the options ask for."""
        return None if options.kind is None else cls(graph, candidates, options, threshold)

    @property
    def prices(self) -> Prices:
        """What nodes and edges cost; milliseconds are measured on first use.

        They are read from the buffer each time: of several processes, all go by what the first has measured.
        """
        if self._macs is not None:
            return self._macs
        from topolearn.compiler.timing import measure

        nodes = len(self.graph.nodes)
        if not bool(self.measured.any()):
            prices = measure(self.graph, self.measured.device)
            self.measured.copy_(torch.tensor([*prices.nodes.values(), *prices.edges], dtype=torch.float64))
        values = self.measured.tolist()
        return Prices("milliseconds", dict(zip(self.graph.nodes, values, strict=False)), tuple(values[nodes:]))

    @property
    def full(self) -> float:
        """What the searched graph costs."""
        return Alive.of(self.graph, [True] * len(self.graph.edges)).price(self.prices)

    @property
    def allowed(self) -> float:
        """Largest cost of what is kept."""
        return math.inf if self.budget is None else self.budget.share * self.full

    def check(self) -> None:
        """Raise an OptionError where the budget does not pay for one path; measure what has not been measured."""
        prices = self.prices
        if self.budget is None:
            return
        least = Alive.of(self.graph, affordable(self.graph, self.places, prices, self.allowed, 1.0)).price(prices)
        if least > self.allowed and not math.isclose(least, self.allowed):
            share = least / self.full * (1.0 if self.kind == "macs" else MARGIN)
            raise OptionError(
                f"budget {{{self.kind}: {self.budget.share:g}}} is less than the cheapest path through graph"
                f" '{self.graph.name}' costs; give at least {min(1.0, math.ceil(1000 * share) / 1000):g}"
            )

    def begin(self, steps: int) -> None:
        """Get ready for a search of so many steps; called before its first step and after a resume."""
        self._total, self._count = steps, int(self.steps)
        self.check()
        if not self._count:
            self._reprice([1.0] * len(self.graph.edges))  # nothing has been decided

    def shrink(self, values: Tensor) -> None:
        """Soft-threshold (L,) values in place, after an optimiser step."""
        if self.budget is not None and self.training:
            values.copy_(values.sign() * (values.abs() - self.shrinkage).clamp(min=0))

    def count(self, values: Tensor) -> None:
        """Count a step, and steer where that is due.

        Args:
            values: (L,) of the learnable edges; those that have their place back get their value back, in place.
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
        """(L,) values of the learnable edges -> (E,), fixed edges at their weights."""
        spread = [edge.weight for edge in self.graph.edges]
        for i, value in zip(self.places, values, strict=True):
            spread[i] = value
        return spread

    def _order(self, values: Sequence[float]) -> list[int]:
        """The learnable edges, the weakest first; those at 0 by what they were, because they are weak, not gone.

        Args:
            values: (E,) of all edges.
        """
        strength, before = strengths(self.graph, values), strengths(self.graph, self._spread(self.held.tolist()))
        return sorted(strength, key=lambda i: (strength[i], before[i], -i))

    def _reprice(self, values: Sequence[float]) -> None:
        strength = strengths(self.graph, values)
        keep = [strength.get(i, 1.0) >= self.threshold and value != 0.0 for i, value in enumerate(values)]
        prices = self.prices
        if self.kind == "macs":
            # Else an edge between two nodes that stay would be free; it adds up a tensor.
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
            # An edge that is weak now would cost no more than itself between nodes that are there anyhow.
            return prices.edges[i] / dearest if edge.src in alive and edge.dst in alive else 1.0

        self.weight.copy_(torch.tensor([weight(i) for i in self.places]).clamp(max=1.0))

    def _steer(self, values: Sequence[float]) -> list[float]:
        """Set the pressure on the edges that have no place.

        Args:
            values: (L,) of the learnable edges.

        Returns:
            (L,) the values, with those restored whose place is back.
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
        """The strongest edges that fit the budget; what was under pressure is kept at the value it had before.

        Args:
            edge_weights: (E,) as they are now.
        """
        values = list(edge_weights)
        for i, pressure, before in zip(self.places, self.shrinkage.tolist(), self.held.tolist(), strict=True):
            if pressure > 0.0:
                values[i] = before
        return cut(self.graph, values, self._order(edge_weights), self.prices, self.allowed, self.threshold)

    def reached(self, topology: Topology) -> float:
        """What a topology costs."""
        return Alive.of(self.graph, topology.keep).price(self.prices)

    def spent(self, topology: Topology) -> Spent | None:
        """What the budget allowed, and what a topology costs; None without a budget."""
        if self.budget is None:
            return None
        return Spent(self.kind, self.full, self.allowed, self.reached(topology))

    def summary(self, topology: Topology) -> dict[str, float]:
        """What a topology costs, over the whole, and how many edges are being pushed out for want of a place."""
        return {
            f"{self.kind}_share": self.reached(topology) / self.full,
            "without_place": float((self.shrinkage > 0).sum()),
        }
