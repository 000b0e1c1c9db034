"""Blocks drawn at random: the control for every other choice of blocks."""

from __future__ import annotations

import random
from typing import final

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
        blocks = self.in_use.blocks()
        for number, block in enumerate(random.Random(self.options.seed).sample(blocks, len(blocks))):
            for edge in block:
                self.scores[self.place[edge]] = number / len(blocks)
        self.ranks.copy_(self.scores)
