"""Removes blocks one by one: each time the one whose removal costs the loss least, for what it saves.

A block's score is the loss of the network without it, less the loss before, on some training batches, with the batch
statistics of the network without it. It is divided by the price that is saved. The block of the smallest ratio goes.
Then all others are tried again, because the choice changes what they are worth. It ends when the budget is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
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
        removed: (L,) one edge of each block that was removed, in order; -1 for those to come.
        base: Loss before the present look.
        losses: (L,) loss without each of the blocks that the present look has tried, at the block's first edge.
        looks: Number of blocks that the present look has tried; -1 before the loss of the given network is known.
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
        gone = [edge for edge in self.removed.tolist() if edge >= 0]
        states = self.states(gone)
        if self.looks < 0:
            self.base.fill_(self.loss(trial, states[-1]))
            self.looks.zero_()
        while states[-1].price(self.pricing.prices) > self.pricing.allowed:
            left = states[-1]
            saved = {block: self.saved(left, block) for block in left.blocks()}
            able = [block for block in saved if saved[block] > 0.0]
            if not able:
                break
            for block in able[int(self.looks) :]:
                without = left.less(*block)
                assert without is not None
                self.losses[self.place[block[0]]] = self.loss(trial, without)
                self.looks.add_(1)
                trial.pause(f"removed {len(gone)} blocks, tried {int(self.looks)} of {len(able)} others")
            costs = {block: float(self.losses[self.place[block[0]]] - self.base) for block in able}
            for block, cost in costs.items():
                for edge in block:
                    self.scores[self.place[edge]] = cost
            least = min(able, key=lambda block: costs[block] / saved[block])
            self.base.copy_(self.losses[self.place[least[0]]])
            self.removed[len(gone)] = least[0]
            self.looks.zero_()
            gone.append(least[0])
            states = self.states(gone)
        self.rank()
        self.rank_removed(states)

    def states(self, gone: Sequence[int]) -> list[InUse]:
        """Return what is in use at first, and after each removal.

        Args:
            gone: Index of one edge of each removed block.
        """
        states = [self.in_use]
        for edge in gone:
            (block,) = (block for block in states[-1].blocks() if edge in block)
            without = states[-1].less(*block)
            assert without is not None
            states.append(without)
        return states

    def loss(self, trial: Trial, in_use: InUse) -> float:
        """Return the mean loss over the batches."""
        weights = torch.tensor(in_use.weights, device=self.candidates.base.device)
        with torch.no_grad():
            losses = [float(trial.loss(weights, batch)) for batch in range(self.options.batches)]
        return sum(losses) / len(losses)

    def rank_removed(self, states: Sequence[InUse]) -> None:
        """Rank the edges that went below all others, those that went first lowest."""
        lowest = min(0.0, float(self.ranks.min())) - len(states)
        used = [{edge for block in state.blocks() for edge in block} for state in states]
        for number, (before, after) in enumerate(pairwise(used)):
            for died in before - after:
                self.ranks[self.place[died]] = lowest + number
