"""Learners that score the blocks of a trained network on a few batches, without a search."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from topolearn.errors import OptionError, TrainingError
from topolearn.graph import Graph, Topology, removal
from topolearn.graph.price import Spent
from topolearn.graph.skipping import InUse, Removable
from topolearn.learners.base import EdgeLearner, Options, Phase, require_learnable
from topolearn.learners.costs import COUNTED, Budget, Costs
from topolearn.learners.trial import Trial

SLACK = 1e-9
"""Costs are sums of fractions: a difference of this share counts as rounding."""


class RankOptions(Options):
    """Options of learners that rank blocks and remove the last ones."""

    budget: Budget | None = None
    """Largest cost of what is kept, as a share of the given network's: ``{macs: 0.5}``, ``{params: 0.5}`` or
    ``{milliseconds: 0.5}``. A run needs one.
    """


class ScoreOptions(RankOptions):
    """Options of learners that measure a score."""

    batches: Annotated[int, Field(ge=1)] = 10
    """Number of training batches on which blocks are scored. If an epoch has fewer, they are used again."""


class Ranking(EdgeLearner):
    """Base of the learners that remove blocks of a given network one after another, until a budget is met.

    A block is removed with the learnable edges from its last node, those of a weight other than 0. Edges of weight 0
    step in where a block without a shortcut goes (:class:`~topolearn.graph.skipping.InUse`). When the budget is met,
    removed blocks come back if they still fit, the last one first.

    A score is what removing a block costs the network. Unless a learner says otherwise, blocks go in the order of their
    score divided by the price that goes with them, so that one expensive block is weighed against several cheap ones.

    Attributes:
        scores: (L,) score of the block that each learnable edge starts from; 0 where none is measured.

    Raises:
        OptionError: A graph without learnable edges, or a budget below the cost without all blocks that can go.
    """

    options_type = RankOptions
    recalibrates = True
    scores_blocks = True
    prunes_by = frozenset({"budget"})
    capturable = True
    options: RankOptions
    scores: Tensor

    def __init__(self, graph: Graph, **options: Any) -> None:
        super().__init__(graph, **options)
        require_learnable(graph, self.learner_name)
        self.in_use = InUse.of(graph)
        budget = self.options.budget
        used = [weight != 0.0 for weight in self.in_use.weights]
        self.pricing = Costs(graph, self.candidates, budget.kind if budget else "macs", budget, used)
        self.register_buffer("scores", torch.zeros(len(self.candidates), dtype=torch.float64))
        if self.pricing.kind in COUNTED:
            self._check_budget()

    def check(self) -> None:
        """Raise an OptionError without a budget, or if it cannot be met; measure milliseconds."""
        if self.options.budget is None:
            raise OptionError(f"learner '{self.learner_name}' needs a budget, such as budget.macs=0.6")
        self._check_budget()

    def _check_budget(self) -> None:
        if self.options.budget is not None:
            least = self.removed_until(-math.inf, ())[0].price(self.pricing.prices)
            self.pricing.require(least, f"graph '{self.graph.name}' costs without all blocks that can go")

    @abstractmethod
    def score(self, trial: Trial) -> None:
        """Score the blocks of a trained network; called once, before it is pruned."""

    @cached_property
    def starts(self) -> dict[str, list[int]]:
        """Id of a node -> the places, among the learnable edges, of those that start from it."""
        found: dict[str, list[int]] = {}
        for place, edge in enumerate(self.candidates.index.tolist()):
            found.setdefault(self.graph.edges[edge].src, []).append(place)
        return found

    def by_block(self, values: Mapping[str, float]) -> Tensor:
        """Return the values of blocks, given by the node that each ends with, as (L,); 0 elsewhere."""
        spread = torch.zeros_like(self.scores)
        for source, value in values.items():
            spread[self.starts[source]] = value
        return spread

    def score_of(self, source: str) -> float:
        """Return the score of the block that ends with a node."""
        return float(self.scores[self.starts[source][0]])

    def saved(self, block: Removable) -> float:
        """Return the share of the whole cost that goes with a block."""
        return block.price(self.pricing.prices) / self.pricing.full

    def order(self) -> list[str]:
        """Return the nodes that blocks end with, in the order in which the blocks go: by score per price.

        Among equals, the one nearer to the outputs goes first.
        """
        ratios = {each.source: per_price(self.score_of(each.source), self.saved(each)) for each in self.blocks[::-1]}
        return sorted(ratios, key=ratios.__getitem__)

    @cached_property
    def blocks(self) -> tuple[Removable, ...]:
        """What can go from the whole graph."""
        return self.in_use.removables()

    def removed_until(self, allowed: float, first: Sequence[str]) -> tuple[InUse, list[tuple[str, float]]]:
        """Remove blocks until the rest costs at most ``allowed``, or nothing can go.

        Args:
            allowed: The cost.
            first: The last nodes of blocks in the order in which they go; then go others, those near the outputs first.

        Returns:
            What is in use then, and the removed blocks in order: the last node of each, and the cost that went with it.
        """
        prices, limit = self.pricing.prices, allowed * (1.0 + SLACK)
        order = [*first, *(name for name in [*self.graph.nodes][::-1] if name not in first)]
        left, gone, before = self.in_use, list[tuple[str, float]](), -1
        cost = left.price(prices)
        while cost > limit and len(gone) > before:
            before = len(gone)
            for name in order:  # again from the start: what went may let others go
                block = left.blocks().get(name)
                without = left.less(*block) if block and cost > limit else None
                less = cost if without is None else without.price(prices)
                if without is not None and less < cost:
                    gone.append((name, cost - less))
                    left, cost = without, less
        return left, gone

    def kept(self) -> InUse:
        """Return what is in use when the budget is met."""
        prices, limit = self.pricing.prices, self.pricing.allowed * (1.0 + SLACK)
        left, gone = self.removed_until(self.pricing.allowed, self.order())
        for block in reversed(gone.copy()):
            if left.price(prices) + block[1] <= limit:
                others = [other for other in gone if other != block]
                more = self.less(name for name, _ in others)
                if more is not None and left.price(prices) < more.price(prices) <= limit:
                    left, gone = more, others
        return left

    def less(self, gone: Iterable[str]) -> InUse | None:
        """Return what is in use without some blocks, by their last nodes; None if an output would be cut off."""
        left: InUse | None = self.in_use
        for name in gone:
            left = left and left.less(*left.blocks().get(name, ()))
        return left

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
        """Return the (E,) scores of edges in use, 0 for the others, and the graph's weights for fixed edges."""
        return self.candidates.spread(self.scores * (self.candidates.base[self.candidates.index] != 0))

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
        """Return the topology of what is left when the budget is met."""
        return self.kept().topology()

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
    def scores_of(self, trial: Trial, batch: int) -> Mapping[str, float]:
        """Return the scores on one batch: last node of a block -> score."""

    def score(self, trial: Trial) -> None:
        """Score the blocks: the mean over the batches."""
        for batch in range(int(self.seen), self.options.batches):
            own = self.by_block(self.scores_of(trial, batch))
            if not bool(own.isfinite().all()):
                raise TrainingError(f"the loss of training batch {batch + 1} is not finite; train the network first")
            self.scores.add_(own / self.options.batches)
            self.seen.add_(1)
            trial.pause(f"scored on {batch + 1} of {self.options.batches} batches")


def per_price(score: float, price: float) -> float:
    """Return what blocks are sorted by, those to remove first at the front: the score divided by the price saved.

    A block without which the loss is lower goes before all others. One that saves nothing goes last.

    Args:
        score: Change of the loss without the block.
        price: Share of the whole cost that goes with the block.
    """
    if price <= 0.0:
        return math.inf
    return score / price if score > 0.0 else score * price
