"""Blocks drawn at random: the control for every other choice of blocks."""

from __future__ import annotations

import random
from typing import final

import torch

from topolearn.learners.base import register_learner
from topolearn.learners.scoring import Ranking, RankOptions
from topolearn.learners.trial import Trial


class RandomBlocksOptions(RankOptions):
    """Options of :class:`RandomBlocks`."""

    seed: int = 0
    """Seed of the draw."""


@final
@register_learner("random_blocks")
class RandomBlocks(Ranking):
    """Removes blocks in random order until the budget is met: the control for learned and scored choices."""

    options_type = RandomBlocksOptions
    options: RandomBlocksOptions

    def score(self, trial: Trial) -> None:
        """Draw the order."""
        used = self.in_use.candidates()
        drawn = random.Random(self.options.seed).sample(used, len(used))
        scores = {edge: number / len(used) for number, edge in enumerate(drawn)}
        values = [scores.get(edge, 0.0) for edge in self.candidates.index.tolist()]
        self.scores.copy_(torch.tensor(values, dtype=torch.float64))
        self.ranks.copy_(self.scores)
