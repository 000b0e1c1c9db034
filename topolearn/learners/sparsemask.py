"""SparseMask: gates that a loss drives to 0 or 1.

Wu, Zhang, Huang, "SparseMask: Differentiable Connectivity Learning for Dense Image Prediction",
ICCV 2019. A real v per edge, 1 at the start; w = clamp(v + 0.1 N(0, 1), 0, 2) while training,
clamp(v, 0, 2) otherwise; v is clamped to [0, 2] after each step. With u = w / 2 and per node

    Ls = mean_t H(u_t) + CE(a, mean_t u_t) ,   a = min(2 / n, 0.5) for n candidates
    H(u) = -u log u - (1 - u) log(1 - u) ,   CE(a, m) = -a log m - (1 - a) log(1 - m)

the loss is task + lambda * sum over nodes of Ls. After the search an edge stays iff v / 2 > sigma. The
noise breaks the tie of the symmetric start; without it nothing becomes binary.

Then the network is retrained from fresh weights. Before that, decoder stages that repeat another are
merged into it, and stages that another contains are dropped, until no such stage is left. The rest of
the decoder takes its final form; see :mod:`topolearn.graph.decoder`. A graph without such stages does
not change.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from topolearn.graph import (
    DropSubsetNodes,
    FinaliseDecoder,
    FixPoint,
    Graph,
    MergeDuplicateNodes,
    Pass,
    Topology,
    UnitWeights,
)
from topolearn.graph.price import Spent
from topolearn.learners.base import (
    EdgeLearner,
    Phase,
    SearchSchedule,
    kept,
    register_learner,
    require_learnable,
)
from topolearn.learners.pricing import CostOptions, Pricing
from topolearn.learners.random_state import RandomState

_EPS = 1e-6
"""Inside logarithms, gates stay this far from 0 and 1."""


class SparseMaskOptions(CostOptions):
    """Options of :class:`SparseMask`.

    With a penalty by cost, the mean of u in CE is weighted by the candidates' prices, so that expensive
    gates close first.
    """

    penalty_strength: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """lambda, the strength of the penalty. ``auto``: the larger of the paper's 0.01 and 300 / T * 0.05 / lr, for a
    search of T steps at peak learning rate lr (shorter searches need a stronger push).
    """
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.001
    """sigma: an edge stays if half its gate, v / 2, is larger. With a budget, the threshold is relative to the widest
    gate of the same target.
    """
    noise: Annotated[float, Field(ge=0)] = 0.1
    """Standard deviation of the noise on v."""
    seed: int = 0
    """Seed of the noise."""
    merge_duplicates: bool = True
    """Whether to merge a decoder stage into a deeper one that reads the same nodes."""
    drop_subsets: bool = True
    """Whether to drop a decoder stage if a less deep one has all its sources and readers."""


@final
@register_learner("sparsemask")
class SparseMask(EdgeLearner):
    """SparseMask: gates that a loss drives to 0 or 1.

    The formulas and their source: ``help("topolearn.learners.sparsemask")``.

    Attributes:
        gate: (L,) the v; they start at 1. The graph's weights of learnable edges are not used.
        strength: lambda.

    Raises:
        OptionError: A graph without learnable edges.
    """

    options_type = SparseMaskOptions
    shares_optimizer = True
    prunes_by = frozenset({"budget", "threshold"})
    capturable = True
    options: SparseMaskOptions
    noise: Tensor

    def __init__(self, graph: Graph, **options: Any) -> None:
        super().__init__(graph, **options)
        require_learnable(graph, self.learner_name)
        self.gate = nn.Parameter(torch.ones(len(self.candidates)))
        self.register_buffer("noise", torch.zeros(len(self.candidates)))
        self.random = RandomState(self.options.seed)
        self.pricing = Pricing.of(graph, self.candidates, self.options, self.options.threshold)
        self.capturable = self.pricing is None  # steering counts steps and reads the weights
        self.strength = 0.01 if self.options.penalty_strength == "auto" else float(self.options.penalty_strength)

    def check(self) -> None:
        """Raise an OptionError if the budget is too small for any path."""
        if self.pricing is not None:
            self.pricing.check()

    def begin(self, schedule: SearchSchedule) -> None:
        """Resolve ``penalty_strength: auto`` for the search ahead, and price the edges."""
        if self.options.penalty_strength == "auto":
            self.strength = max(0.01, 300 / schedule.steps * 0.05 / schedule.peak_lr)
        if self.pricing is not None:
            self.pricing.begin(schedule.steps)

    def draw(self) -> None:
        """Fill the step's noise."""
        if self.training and not self.random.drawn:
            self.random.fill(self.noise, self.random.normal(len(self.noise)))

    def gates(self) -> Tensor:
        """Return the (L,) gates w: noisy while training, clean otherwise."""
        if not self.training:
            return self.gate.clamp(0, 2)
        self.draw()
        return (self.gate + self.options.noise * self.noise).clamp(0, 2)

    def edge_weights(self) -> Tensor:
        """Return the (E,) weights: the gates, and the graph's weights for fixed edges."""
        return self.candidates.spread(self.gates())

    def stage_losses(self) -> Tensor:
        """Return (targets,) Ls of every node with candidates, in float32."""
        u = (self.gates().float() / 2).clamp(_EPS, 1 - _EPS)
        entropy = -u * u.log() - (1 - u) * (1 - u).log()
        mean = self.candidates.by_target(u)
        if self.pricing is not None:
            weight = self.pricing.weight
            mean = self.candidates.by_target(u * weight) / self.candidates.by_target(weight)
        share = (2 / self.candidates.count.float()).clamp(max=0.5)
        cross = -share * mean.log() - (1 - share) * (1 - mean).log()
        return self.candidates.by_target(entropy) + cross

    def penalty(self) -> Tensor:
        """Return the sum of the stage losses, times lambda."""
        return self.strength * self.stage_losses().sum()

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return one group: the gates, with the weights' settings but no weight decay."""
        return [{"params": [self.gate], "lr": lr, "weight_decay": 0.0}]

    def after_step(self) -> None:
        """Clamp v to [0, 2] and end the draw."""
        with torch.no_grad():
            if self.pricing is not None:
                self.pricing.shrink(self.gate)
            self.gate.clamp_(0, 2)
        self.end_draw()

    def end_draw(self) -> None:
        """End the draw, so that the next step draws again; update prices and pressure when due."""
        self.random.drawn = False
        if self.pricing is not None:
            with torch.no_grad():
                self.pricing.count(self.gate)

    def topology(self) -> Topology:
        """Return the topology of the edges with v / 2 > sigma, at weight v.

        With a budget: the widest gates that fit it, and shut ones too if there is room, because the network is
        retrained with all weights at 1.
        """
        gate = self.gate.detach().clamp(0, 2)
        if self.pricing is not None and self.pricing.budget is not None:
            return self.pricing.topology(self.candidates.spread(gate).tolist())
        keep = kept(self.graph, (gate / 2 > self.options.threshold).tolist())
        return Topology.of(self.graph, keep, self.candidates.spread(gate).tolist())

    def phases(self) -> tuple[Phase, ...]:
        """Return two phases: search with batch normalisation's scale and shift frozen, then retrain without gates.

        The second phase trains the final form of the graph.
        """
        merging: tuple[Pass, ...] = (
            *((MergeDuplicateNodes(),) if self.options.merge_duplicates else ()),
            *((DropSubsetNodes(),) if self.options.drop_subsets else ()),
        )
        final = (*((FixPoint(merging),) if merging else ()), FinaliseDecoder(), UnitWeights.after_search(self.graph))
        return (
            Phase("search", 0.5, search=True, freeze_affine="all"),
            Phase("retrain", 0.5, weights="fresh", passes=final),
        )

    def progress(self) -> str:
        """Return the share of gates that are open or shut."""
        return f"edges decided {1 - self.summary()['undecided'] / len(self.gate):.0%}"

    def summary(self) -> dict[str, float]:
        """Return the number of open, shut and undecided gates, and lambda."""
        u = self.gate.detach() / 2
        return {
            "open": float((u > 0.9).sum()),
            "shut": float((u <= self.options.threshold).sum()),
            "undecided": float(((u > self.options.threshold) & (u <= 0.9)).sum()),
            "penalty_strength": self.strength,
            **({} if self.pricing is None else self.pricing.summary(self.topology())),
        }

    def spent(self) -> Spent | None:
        """Return the cost that the budget allows and the cost of what would be kept; None without a budget."""
        return None if self.pricing is None else self.pricing.spent(self.topology())
