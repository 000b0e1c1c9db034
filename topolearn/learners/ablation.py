"""Removes blocks one by one, each time the block that raises the loss least for what it saves.

A block's score is the loss of the network without it, less the loss before, on some training batches, with the batch
statistics of the network without it. It is divided by the price that is saved. The block of the smallest ratio goes.
Then all others are tried again, because the choice changes what they are worth. When the budget is met, removed blocks
that still fit come back, the last one first.
"""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor

from topolearn.errors import TrainingError
from topolearn.graph import Graph
from topolearn.graph.skipping import InUse
from topolearn.learners.base import register_learner
from topolearn.learners.scoring import SLACK, Ranking, ScoreOptions, per_price
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
        losses: (L,) loss without each of the blocks that the present look has tried, at all edges from its last node.
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
        """Remove blocks until the budget is met."""
        gone = self.gone()
        if self.looks < 0:
            self.base.fill_(self.loss(trial, self.in_use))
            if not bool(self.base.isfinite()):
                raise TrainingError("the loss of the network is not finite before anything is removed; train it first")
            self.looks.zero_()
        while True:
            left = self.less(gone)
            assert left is not None
            if left.price(self.pricing.prices) <= self.pricing.allowed * (1.0 + SLACK):
                return
            able = [block for block in left.removables() if self.saved(block) > 0.0]
            if not able:
                return
            for block in able[int(self.looks) :]:
                self.losses[self.starts[block.source]] = self.loss(trial, block.after)
                self.looks.add_(1)
                trial.pause(f"removed {len(gone)} blocks, tried {int(self.looks)} of {len(able)} others")
            losses = {block.source: float(self.losses[self.starts[block.source][0]]) for block in able}
            for source, loss in losses.items():
                self.scores[self.starts[source]] = loss - float(self.base)
            least = min(able, key=lambda block: per_price(self.score_of(block.source), self.saved(block)))
            if not math.isfinite(losses[least.source]):
                raise TrainingError(
                    f"after {len(gone)} blocks are removed, the loss is not finite without any other one; give a"
                    " larger budget"
                )
            self.base.fill_(losses[least.source])
            self.removed[len(gone)] = least.edges[0]
            self.looks.zero_()
            gone.append(least.source)

    def gone(self) -> list[str]:
        """Return the last nodes of the blocks that were removed, in order."""
        return [self.graph.edges[edge].src for edge in self.removed.tolist() if edge >= 0]

    def order(self) -> list[str]:
        """Return the blocks that were removed, in order, then the others by score per price."""
        gone = self.gone()
        return [*gone, *(name for name in super().order() if name not in gone)]

    def loss(self, trial: Trial, in_use: InUse) -> float:
        """Return the mean loss over the batches; infinite if it is not a number."""
        weights = torch.tensor(in_use.weights, device=self.candidates.base.device)
        with torch.no_grad():
            losses = [float(trial.loss(weights, batch)) for batch in range(self.options.batches)]
        mean = sum(losses) / len(losses)
        return mean if math.isfinite(mean) else math.inf
