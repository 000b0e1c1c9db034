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
    """Seed of the draw. Default: the run's seed, or 0 in a loop of your own."""


@final
@register_learner("random_blocks")
class RandomBlocks(Ranking):
    """Removes blocks in random order until the budget is met: the control for learned and scored choices."""

    options_type = RandomBlocksOptions
    options: RandomBlocksOptions

    def score(self, trial: Trial) -> None:
        """Draw the order; the score of a block is its place in it."""
        drawn = random.Random(self.options.seed).sample(self.blocks, len(self.blocks))
        self.scores.copy_(self.by_block({block.source: float(place) for place, block in enumerate(drawn)}))

    def order(self) -> list[str]:
        """Return the order that was drawn; prices do not count."""
        return sorted((block.source for block in self.blocks), key=self.score_of)
