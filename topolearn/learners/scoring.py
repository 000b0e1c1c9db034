"""Learners that score the blocks of a trained network on a few batches, without a search."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from topolearn.errors import OptionError
from topolearn.graph import Graph, Topology, removal
from topolearn.graph.budget import affordable
from topolearn.graph.price import Spent
from topolearn.graph.skipping import InUse
from topolearn.learners.base import EdgeLearner, Options, Phase, require_learnable
from topolearn.learners.costs import COUNTED, Budget, Costs
from topolearn.learners.trial import Trial


class RankOptions(Options):
    """Options of learners that rank blocks and remove the last ones."""

    budget: Budget | None = None
    """Largest cost of what is kept, as a share of the given network's: ``{macs: 0.5}``, ``{params: 0.5}`` or
    ``{milliseconds: 0.5}``. A run needs one.
    """


class ScoreOptions(RankOptions):
    """Options of learners that measure a score."""

    batches: Annotated[int, Field(ge=1)] = 10
    """Number of training batches on which blocks are scored."""


class Ranking(EdgeLearner):
    """Base of the learners that rank the blocks of a given network; a budget decides how many stay.

    A block is removed with the learnable edges from its last node, those of a weight other than 0. Edges of weight 0
    step in where a block without a shortcut goes (:class:`~topolearn.graph.skipping.InUse`).

    A score is what removing a block costs the network. Blocks are ranked by their score divided by the price that goes
    with them, so that one expensive block is weighed against several cheap ones.

    Attributes:
        scores: (L,) score of the block that each learnable edge starts from; 0 before it is measured, and for edges
            that are not in use.
        ranks: (L,) rank of the block that each learnable edge starts from: those of the lowest rank go first.

    Raises:
        OptionError: A graph without learnable edges, or a budget below the cheapest path.
    """

    options_type = RankOptions
    recalibrates = True
    scores_blocks = True
    prunes_by = frozenset({"budget"})
    capturable = True
    options: RankOptions
    scores: Tensor
    ranks: Tensor

    def __init__(self, graph: Graph, **options: Any) -> None:
        super().__init__(graph, **options)
        require_learnable(graph, self.learner_name)
        self.in_use = InUse.of(graph)
        budget = self.options.budget
        used = [weight != 0.0 for weight in self.in_use.weights]
        self.pricing = Costs(graph, self.candidates, budget.kind if budget else "macs", budget, used)
        self.register_buffer("scores", torch.zeros(len(self.candidates), dtype=torch.float64))
        self.register_buffer("ranks", torch.zeros(len(self.candidates), dtype=torch.float64))
        if self.pricing.kind in COUNTED:
            self.pricing.check()

    def check(self) -> None:
        """Raise an OptionError without a budget, or if it is too small for any path; measure milliseconds."""
        if self.options.budget is None:
            raise OptionError(f"learner '{self.learner_name}' needs a budget, such as budget.macs=0.6")
        self.pricing.check()

    @abstractmethod
    def score(self, trial: Trial) -> None:
        """Score the blocks of a trained network; called once, before it is pruned."""

    @cached_property
    def place(self) -> dict[int, int]:
        """Index of each learnable edge -> its place among them."""
        return {edge: number for number, edge in enumerate(self.candidates.index.tolist())}

    def rank(self) -> None:
        """Rank the blocks by their score per price; those that save nothing or must stay rank highest."""
        ranks = torch.zeros_like(self.ranks)
        for block in self.in_use.blocks():
            price = self.saved(self.in_use, block)
            for edge in block:
                ranks[self.place[edge]] = float(self.scores[self.place[edge]]) / price if price else torch.inf
        self.ranks.copy_(ranks)

    def saved(self, in_use: InUse, block: Sequence[int]) -> float:
        """Return the share of the whole cost that goes with a block; 0 if it must stay."""
        left, prices = in_use.less(*block), self.pricing.prices
        return 0.0 if left is None else (in_use.price(prices) - left.price(prices)) / self.pricing.full

    def order(self) -> list[int]:
        """Return the learnable edges in the order of removal: the spare ones, then by rank."""
        ranks = self.ranks.tolist()
        return sorted(self.place, key=lambda i: (i not in self.in_use.spare, ranks[self.place[i]], -i))

    def edge_weights(self) -> Tensor:
        """Return the (E,) weights in the graph."""
        return self.candidates.base

    def active(self) -> Tensor:
        """Return (E,) bool: the edges in use."""
        return self.candidates.base != 0

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Return no groups: nothing is learned by gradient descent."""
        return []

    def edge_values(self) -> Tensor:
        """Return the (E,) scores, and the graph's weights for fixed edges."""
        return self.candidates.spread(self.scores)

    def without(self, removed: Collection[int]) -> Topology:
        """Return the closed topology of all edges in use except ``removed``, with the weights in the graph.

        Args:
            removed: Indices of learnable edges.
        """
        left = self.in_use.less(*removed)
        if left is None:  # the strongest path to the outputs is kept
            return removal.without(self.graph, self.in_use.weights, removed)
        return left.topology()

    def topology(self) -> Topology:
        """Return the topology of the edges that rank highest and fit the budget."""
        keep = affordable(self.graph, self.order(), self.pricing.prices, self.pricing.allowed)
        return InUse.only(self.graph, keep).topology()

    def phases(self) -> tuple[Phase, ...]:
        """Return two phases: adapt, which trains the whole network before it is scored, and fine-tune.

        ``adapt`` is skipped unless you give it a share.
        """
        return (Phase("adapt", 0.0, search=True), Phase("fine_tune", 1.0))

    def summary(self) -> dict[str, float]:
        """Return the share of the cost that would be kept."""
        return {f"{self.pricing.kind}_share": self.pricing.reached(self.topology()) / self.pricing.full}

    def spent(self) -> Spent | None:
        """Return the cost that the budget allows and the cost of what would be kept."""
        return self.pricing.spent(self.topology())


class Scorer(Ranking):
    """Base of the learners that score every block on some training batches, one batch after another.

    Attributes:
        seen: Number of batches seen.
    """

    options_type = ScoreOptions
    options: ScoreOptions
    seen: Tensor

    def __init__(self, graph: Graph, **options: Any) -> None:
        super().__init__(graph, **options)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))

    @abstractmethod
    def scores_of(self, trial: Trial, batch: int) -> Sequence[float] | Tensor:
        """Return the (L,) scores on one batch."""

    def score(self, trial: Trial) -> None:
        """Score the blocks: the mean over the batches."""
        for batch in range(int(self.seen), self.options.batches):
            own = torch.as_tensor(self.scores_of(trial, batch), dtype=torch.float64, device=self.scores.device)
            self.scores.add_(own.detach() / self.options.batches)
            self.seen.add_(1)
            trial.pause(f"scored on {batch + 1} of {self.options.batches} batches")
        self.rank()
