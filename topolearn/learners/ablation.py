"""Removes blocks one by one: each time the one whose removal costs the loss least, for what it saves.

A block's cost is the loss of the network without it, less the loss before, on some training batches, with batch
statistics computed anew. It is divided by the price that is saved. The block of the smallest ratio goes; then all
others are looked at again, because the choice changes what they are worth. It ends when the budget is met.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from topolearn.graph import Graph
from topolearn.graph.skipping import InUse
from topolearn.learners.base import register_learner
from topolearn.learners.scoring import Ranking, ScoreOptions
from topolearn.learners.trial import Trial


@final
@register_learner("ablation")
class Ablation(Ranking):
    """Removes the block that the loss misses least, looks again at the others, and so on until the budget is met.

    It needs the loss on ``batches`` training batches for every block that is left, for every block that it removes:
    for 7 of 13 blocks 71 passes over these batches, without gradients. The score of a block is the change of the loss
    at the last look.

    Attributes:
        removed: (L,) the edges that were removed, in order; -1 for those to come.
        base: Loss before the present look.
        losses: (L,) loss without each of the edges that the present look has tried.
        looks: Number of edges that the present look has tried; -1 before the loss of the given network is known.
    """

    options_type = ScoreOptions
    options: ScoreOptions
    removed: Tensor
    base: Tensor
    losses: Tensor
    looks: Tensor

    def __init__(self, graph: Graph, **options: Any) -> None:
        super().__init__(graph, **options)
        self.register_buffer("removed", torch.full((len(self.candidates),), -1))
        self.register_buffer("base", torch.zeros((), dtype=torch.float64))
        self.register_buffer("losses", torch.zeros(len(self.candidates), dtype=torch.float64))
        self.register_buffer("looks", torch.tensor(-1))

    def score(self, trial: Trial) -> None:
        """Remove blocks until the budget is met, and rank all by when they went."""
        place = {edge: number for number, edge in enumerate(self.candidates.index.tolist())}
        gone = [edge for edge in self.removed.tolist() if edge >= 0]
        left = self.left(gone)
        if self.looks < 0:
            self.base.fill_(self.loss(trial, left))
            self.looks.zero_()
        while left.price(self.pricing.prices) > self.pricing.allowed:
            saved = {edge: self.saved(left, edge) for edge in left.candidates()}
            able = [edge for edge in saved if saved[edge] > 0.0]
            if not able:
                break
            for edge in able[int(self.looks) :]:
                without = left.less(edge)
                assert without is not None
                self.losses[place[edge]] = self.loss(trial, without)
                self.looks.add_(1)
                trial.pause(f"removed {len(gone)} blocks, tried {int(self.looks)} of {len(able)} others")
            for edge in able:
                self.scores[place[edge]] = self.losses[place[edge]] - self.base
            least = min(able, key=lambda edge: float(self.scores[place[edge]]) / saved[edge])
            self.base.copy_(self.losses[place[least]])
            self.removed[len(gone)] = least
            self.looks.zero_()
            gone.append(least)
            left = self.left(gone)
        self.rank()
        self.rank_removed(gone)

    def left(self, gone: list[int]) -> InUse:
        """Return what is in use without the removed edges."""
        left = self.in_use
        for edge in gone:
            without = left.less(edge)
            assert without is not None
            left = without
        return left

    def loss(self, trial: Trial, in_use: InUse) -> float:
        """Return the mean loss over the batches."""
        weights = torch.tensor(in_use.weights, device=self.candidates.base.device)
        with torch.no_grad():
            losses = [float(trial.loss(weights, batch)) for batch in range(self.options.batches)]
        return sum(losses) / len(losses)

    def rank_removed(self, gone: list[int]) -> None:
        """Rank the edges that went below all others, those that went first lowest."""
        place = {edge: number for number, edge in enumerate(self.candidates.index.tolist())}
        lowest = min(0.0, float(self.ranks.min())) - len(gone)
        left = self.in_use
        for number, edge in enumerate(gone):
            without = left.less(edge)
            assert without is not None
            for died in set(left.candidates()) - set(without.candidates()):
                self.ranks[place[died]] = lowest + number
            left = without
