"""Continuous edge weights under a sparsity penalty (TopoNet).

Yuan, Li, Shao, Yan, "Learning Connectivity of Neural Networks from a Topological Perspective",
ECCV 2020:

    s_j = sum_{i<j} alpha_ij x_i ,   loss = task + lambda * penalty(alpha)

    uniform:   sum_ij |alpha_ij|
    adaptive:  sum_j log(delta_j) sum_i |alpha_ij| ,   delta_j the in-degree of j

One optimiser trains alpha and the weights together. After the search an edge stays iff
|alpha_ij| >= tau * max_i |alpha_ij| over all in-edges of its target. With ``keep``, it must also be among the K largest
of its target's learnable in-edges. Kept alphas become fixed weights.
"""

from __future__ import annotations

import math
import warnings
from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from topolearn.errors import TrainingError
from topolearn.graph import Graph, Topology
from topolearn.graph.price import Spent
from topolearn.learners.base import (
    EdgeLearner,
    Phase,
    SearchSchedule,
    register_learner,
    require_learnable,
)
from topolearn.learners.pricing import CostOptions, Pricing

REFERENCE_SCHEDULE = SearchSchedule(steps=78_200, total_lr=3_910.0, peak_lr=0.1, momentum=0.9)
"""Schedule that ``auto`` assumes outside :func:`topolearn.fit`: 200 CIFAR epochs at batch 128, cosine from 0.1."""

AUTO_FACTOR = 10.0
"""``auto`` multiplies the smallest lambda that can remove an edge by this factor."""

AUTO_LIMIT = 0.02
"""Largest lambda that ``auto`` chooses. In short searches the rule gives a lambda that overwhelms a task loss of about
1: on the digits graph, in 20 epochs, lambda 0.023 prunes over half of the edges and 0.057 drives every alpha to 0."""


class ContinuousOptions(CostOptions):
    """Options of :class:`Continuous`."""

    penalty: Literal["uniform", "adaptive"] = "adaptive"
    """``uniform``: all edges alike; ``adaptive``: times the log of the target's in-degree."""
    penalty_strength: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """lambda, the strength of the penalty. ``auto``: ``auto_factor`` times the smallest lambda that drives an edge
    without task gradient from 1 to 0 during the search, which is (1 - momentum) / sum of learning rates; at most 0.02.
    """
    auto_factor: Annotated[float, Field(ge=0)] | None = None
    """See ``penalty_strength``. None: 10, or 0 when a budget is given: the budget decides what is removed, and a
    penalty would also shrink what stays. You get a warning if the factor asks for a lambda above 0.02.
    """
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.05
    """tau: an edge stays if its |alpha| is at least tau times the largest of its target. With a budget, the budget
    decides instead, and an edge with a smaller weight stays if it fits.
    """
    keep: Annotated[int, Field(ge=1)] | None = None
    """K: at most this many learnable in-edges stay per node, those with the largest |alpha|. Of equal ones the later
    source stays. They must also reach the threshold. None: no limit. Not allowed with a budget.
    """
    proximal: bool = False
    """Apply the penalty by soft-thresholding after each step instead of adding it to the loss. This gives exact zeros.
    """

    @model_validator(mode="after")
    def _one_limit(self) -> ContinuousOptions:
        if self.keep is not None and self.budget is not None:
            raise ValueError("give 'keep', a number of edges per node, or 'budget', a cost for all, not both")
        return self


def _enough(schedule: SearchSchedule) -> float:
    """Return the smallest lambda that drives an edge without task gradient from 1 to 0 during a search."""
    return (1 - schedule.momentum) / schedule.total_lr


@final
@register_learner("continuous", "toponet")
class Continuous(EdgeLearner):
    """Continuous edge weights under a sparsity penalty (TopoNet).

    The formulas and their source: ``help("topolearn.learners.continuous")``.

    Attributes:
        alpha: (L,) edge weights; they start at the graph's weights.
        strength: lambda.

    Raises:
        OptionError: A graph without learnable edges.
    """

    options_type = ContinuousOptions
    shares_optimizer = True
    recalibrates = True
    prunes_by = frozenset({"budget", "keep", "threshold"})
    capturable = True
    options: ContinuousOptions
    scale: Tensor

    def __init__(self, graph: Graph, **options: Any) -> None:
        super().__init__(graph, **options)
        require_learnable(graph, self.learner_name)
        self.alpha = nn.Parameter(self.candidates.initial())
        degrees = [len(graph.in_edges(node)) for node in graph.candidates]
        scale = [math.log(degree) if self.options.penalty == "adaptive" else 1.0 for degree in degrees]
        self.register_buffer("scale", torch.tensor(scale)[self.candidates.target], persistent=False)
        self.pricing = Pricing.of(graph, self.candidates, self.options, self.options.threshold)
        self.capturable = self.pricing is None  # steering counts steps and reads the weights
        self.strength = 0.0
        self._lr: float | Tensor | None = None
        self._resolve(REFERENCE_SCHEDULE)

    def check(self) -> None:
        """Raise an OptionError if the budget is too small for any path."""
        if self.pricing is not None:
            self.pricing.check()

    def begin(self, schedule: SearchSchedule) -> None:
        """Resolve ``penalty_strength: auto`` for the search ahead, and price the edges."""
        self._resolve(schedule)
        self._warn_of_limit(schedule)
        if self.pricing is not None:
            self.pricing.begin(schedule.steps)

    def _resolve(self, schedule: SearchSchedule) -> None:
        strength = self.options.penalty_strength
        if strength == "auto":
            factor = self.options.auto_factor
            if factor is None:
                factor = AUTO_FACTOR if self.options.budget is None else 0.0
            strength = min(factor * _enough(schedule), AUTO_LIMIT)
        self.strength = float(strength)
        self._momentum = schedule.momentum

    def _warn_of_limit(self, schedule: SearchSchedule) -> None:
        """Warn if ``auto_factor`` asks for more than the limit, above which it changes nothing."""
        factor = self.options.auto_factor
        if self.options.penalty_strength != "auto" or factor is None:
            return
        asked = factor * _enough(schedule)
        if asked > AUTO_LIMIT:
            warnings.warn(
                f"'auto_factor' {factor:g} asks for lambda {asked:.2g} in this short search, but 'auto' chooses at most"
                f" {AUTO_LIMIT:g}; factors above {AUTO_LIMIT / _enough(schedule):.2g} change nothing; search longer, or"
                " give 'penalty_strength' as a number",
                stacklevel=3,
            )

    def pressure(self) -> Tensor:
        """Return the (L,) factors that the penalty multiplies each magnitude with."""
        pressure = self.strength * self.scale
        return pressure if self.pricing is None else pressure * self.pricing.weight

    def edge_weights(self) -> Tensor:
        """Return the (E,) weights: alpha, and the graph's weights for fixed edges."""
        return self.candidates.spread(self.alpha)

    def penalty(self) -> Tensor:
        """Return the penalty times lambda; 0 with ``proximal``, which applies it after the step."""
        if self.options.proximal:
            return self.alpha.new_zeros(())
        return (self.pressure() * self.alpha.abs()).sum()

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return one group: alpha, with the weights' settings but no weight decay."""
        return [{"params": [self.alpha], "lr": lr, "weight_decay": 0.0}]

    def on_learning_rate(self, lr: float | Tensor) -> None:
        """Called after each optimiser step with its learning rate, which soft-thresholding uses."""
        self._lr = lr

    def after_step(self) -> None:
        """Soft-threshold alpha if ``proximal`` is set, apply the budget's pressure, and end the draw."""
        if self.options.proximal:
            if self._lr is None:
                raise TrainingError(
                    "'proximal' needs to know the learning rate of each step; take the optimisers from"
                    " topolearn.optimizers, or call learner.on_learning_rate(lr)"
                )
            # Momentum multiplies a constant gradient's effect by 1 / (1 - momentum).
            amount = self._lr * self.pressure() / (1 - self._momentum)
            with torch.no_grad():
                self.alpha.copy_(self.alpha.sign() * (self.alpha.abs() - amount).clamp(min=0))
        if self.pricing is not None:
            with torch.no_grad():
                self.pricing.shrink(self.alpha)
        self.end_draw()

    def end_draw(self) -> None:
        """Count the step; update prices and pressure when due."""
        if self.pricing is not None:
            with torch.no_grad():
                self.pricing.count(self.alpha)

    def topology(self) -> Topology:
        """Return the topology that would be kept now: edges with |alpha| >= tau times the largest of their target.

        A node with all weights 0 keeps no in-edges.
        With ``keep``: the K largest of these per node.
        With a budget: the strongest edges that fit it.
        """
        weights = [float(w) for w in self.edge_weights().detach().double()]
        if self.pricing is not None and self.pricing.budget is not None:
            return self.pricing.topology(weights)
        keep = [False] * len(weights)
        for node in self.graph.nodes:
            indices = self.graph.in_edges(node)
            enough = self.options.threshold * max((abs(weights[i]) for i in indices), default=0.0)
            for i in indices:
                keep[i] = weights[i] != 0 and (not self.graph.edges[i].learnable or abs(weights[i]) >= enough)
        if self.options.keep is not None:
            for candidates in self.graph.candidates.values():
                for i in sorted(candidates, key=lambda i: (abs(weights[i]), i))[: -self.options.keep]:
                    keep[i] = False
        return Topology.of(self.graph, keep, weights)

    def phases(self) -> tuple[Phase, ...]:
        """Return two phases: search, then fine-tune.

        During the search, batch normalisations behind learnable edges keep their scale, which could otherwise
        compensate for an edge's weight. One learning rate schedule runs through both phases: a second one, from a fifth
        of the rate, costs accuracy (models/README.md, "Complete stages and rules").
        """
        return (
            Phase("search", 0.8, search=True, freeze_affine="weighted"),
            Phase("fine_tune", 0.2, continues=True),
        )

    def progress(self) -> str:
        """Return how many learnable edges would be kept now."""
        return f"edges kept {self.summary()['kept_edges']:.0f} of {len(self.alpha)}"

    def summary(self) -> dict[str, float]:
        """Return the size of the alphas, the number of edges that would be kept now, and lambda."""
        alpha = self.alpha.detach().abs()
        topology = self.topology()
        kept_edges = sum(topology.keep[i] for i in self.candidates.index.tolist())
        return {
            "alpha_mean": float(alpha.mean()),
            "alpha_max": float(alpha.max()),
            "kept_edges": float(kept_edges),
            "penalty_strength": self.strength,
            **({} if self.pricing is None else self.pricing.summary(topology)),
        }

    def spent(self) -> Spent | None:
        """Return the cost that the budget allows and the cost of what would be kept; None without a budget."""
        return None if self.pricing is None else self.pricing.spent(self.topology())
