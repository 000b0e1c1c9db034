"""What a learned graph may cost, and what the nodes and edges of a graph cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from topolearn.errors import OptionError
from topolearn.graph import Graph, Topology
from topolearn.graph.budget import affordable
from topolearn.graph.price import Alive, Prices, Spent, mac_prices, param_prices
from topolearn.learners.base import Candidates, Options

CostKind = Literal["macs", "params", "milliseconds"]

MARGIN = 1.1
"""Factor on the least budget that an error names, if it was measured: the next measurement may be slower."""

COUNTED: dict[CostKind, Callable[[Graph], Prices]] = {"macs": mac_prices, "params": param_prices}
"""The kinds of cost that are counted; the others are measured."""


class Budget(Options):
    """Largest cost of the learned graph, as a share of the searched graph's cost."""

    macs: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the searched graph's multiply-accumulates."""
    params: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the searched graph's parameters."""
    milliseconds: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the searched graph's measured time."""

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, given: Any) -> Any:
        if not isinstance(given, Mapping | Budget):
            raise ValueError("should name the cost that it limits, as {macs: 0.5}")
        return given

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if len(self._given()) != 1:
            raise ValueError("needs one of 'macs', 'params' and 'milliseconds', as {macs: 0.5}")
        return self

    def _given(self) -> dict[CostKind, float]:
        shares: dict[CostKind, float | None] = {
            "macs": self.macs,
            "params": self.params,
            "milliseconds": self.milliseconds,
        }
        return {kind: share for kind, share in shares.items() if share is not None}

    @property
    def kind(self) -> CostKind:
        """The kind of cost: ``macs``, ``params`` or ``milliseconds``."""
        return next(iter(self._given()))

    @property
    def share(self) -> float:
        """The share of that cost."""
        return self._given()[self.kind]


def without_replaced_budget(options: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return a learner's options, without their budget if a setting such as ``budget.params`` replaces it."""
    replaced = any(key.removeprefix("learner.").startswith("budget.") for key in settings)
    return {name: value for name, value in options.items() if name != "budget" or not replaced}


class Costs(nn.Module):
    """The cost of a graph's nodes and edges, and the budget for what is kept.

    Attributes:
        graph: The searched graph.
        kind: ``macs``, ``params`` or ``milliseconds``.
        budget: The budget; None if nothing is limited.
        whole: (E,) the edges whose cost together is the whole; None: all.
        places: Indices of the learnable edges.
        measured: (V + E,) milliseconds of nodes and edges. They are measured once and saved in checkpoints. Empty
            for costs that are counted.
    """

    measured: Tensor

    def __init__(
        self,
        graph: Graph,
        candidates: Candidates,
        kind: CostKind,
        budget: Budget | None,
        whole: Sequence[bool] | None = None,
    ) -> None:
        super().__init__()
        self.graph = graph
        self.kind: CostKind = kind
        self.budget = budget
        self.whole = [True] * len(graph.edges) if whole is None else list(whole)
        self.places: list[int] = candidates.index.tolist()
        measured = 0 if kind in COUNTED else len(graph.nodes) + len(graph.edges)
        self.register_buffer("measured", torch.zeros(measured, dtype=torch.float64))
        self._counted = COUNTED[kind](graph) if kind in COUNTED else None

    @property
    def prices(self) -> Prices:
        """Cost of nodes and edges; milliseconds are measured on first use.

        They are read from the buffer each time, so that all processes use what the first one measured.
        """
        if self._counted is not None:
            return self._counted
        from topolearn.compiler.timing import measure

        nodes = len(self.graph.nodes)
        if not bool(self.measured.any()):
            prices = measure(self.graph, self.measured.device)
            self.measured.copy_(torch.tensor([*prices.nodes.values(), *prices.edges], dtype=torch.float64))
        values = self.measured.tolist()
        return Prices("milliseconds", dict(zip(self.graph.nodes, values, strict=False)), tuple(values[nodes:]))

    @property
    def full(self) -> float:
        """Cost of the whole."""
        return Alive.of(self.graph, self.whole).price(self.prices)

    @property
    def allowed(self) -> float:
        """Largest cost that the kept graph may have; infinite without a budget."""
        return math.inf if self.budget is None else self.budget.share * self.full

    def check(self) -> None:
        """Raise an OptionError if the budget is too small for any path; measure costs that are not measured yet."""
        prices = self.prices
        if self.budget is not None:
            least = Alive.of(self.graph, affordable(self.graph, self.places, prices, self.allowed, 1.0)).price(prices)
            self.require(least, f"the cheapest path through graph '{self.graph.name}' costs")

    def require(self, least: float, what: str) -> None:
        """Raise an OptionError if the budget is less than the least cost that can be reached; ``what`` names it."""
        if self.budget is not None and least > self.allowed and not math.isclose(least, self.allowed):
            share = least / self.full * (1.0 if self.kind in COUNTED else MARGIN)
            raise OptionError(
                f"budget {{{self.kind}: {self.budget.share:g}}} is less than {what};"
                f" give at least {min(1.0, math.ceil(1000 * share) / 1000):g}"
            )

    def reached(self, topology: Topology) -> float:
        """Return the cost of a topology."""
        return Alive.of(self.graph, topology.keep).price(self.prices)

    def spent(self, topology: Topology) -> Spent | None:
        """Return the cost that the budget allows and the cost of a topology; None without a budget."""
        if self.budget is None:
            return None
        return Spent(self.kind, self.full, self.allowed, self.reached(topology))
