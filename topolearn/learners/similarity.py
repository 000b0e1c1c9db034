"""Scores by similarity: how much a block changes what it reads.

Men, Xu, Zhang, Wang, Lin, Lu, Han, Chen, "ShortGPT: Layers in Large Language Models are More Redundant Than You
Expect", 2024: the influence of a block is 1 - cos(x, y), with x what it reads and y what leaves it, the residual
included. Here y is what a node adds up, and x is the same without the block. The cosine is over channels, averaged over
positions and inputs, and over the nodes if several read the block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import final

from torch import Tensor
from torch.nn import functional as F

from topolearn.graph.skipping import InUse
from topolearn.learners.base import register_learner
from topolearn.learners.scoring import Scorer
from topolearn.learners.trial import Trial


@final
@register_learner("similarity")
class Similarity(Scorer):
    """Ranks blocks by how much they change what they read, and removes the last ones under a budget.

    The formula and its source: ``help("topolearn.learners.similarity")``.
    """

    def scores_of(self, trial: Trial, batch: int) -> list[float]:
        """Return the (L,) 1 - cosine on one batch."""
        found: dict[int, float] = {}

        def see(node: str, terms: Mapping[int, Tensor]) -> None:
            whole = _sum(terms, self.in_use.weights)
            target = self.graph.nodes[node].input
            axis = 1 if target is None else target.channel_axis
            for edge in terms:
                left = self._without.get(edge)
                if left is not None and any(left.weights[i] for i in terms):
                    found[edge] = 1.0 - float(F.cosine_similarity(whole, _sum(terms, left.weights), axis).mean())

        trial.watch(batch, see)
        scores = [0.0] * len(self.candidates)
        for block in self.in_use.blocks():
            seen = [found[edge] for edge in block if edge in found]
            for edge in block if seen else ():
                scores[self.place[edge]] = sum(seen) / len(seen)
        return scores

    @cached_property
    def _without(self) -> dict[int, InUse | None]:
        """Index of each learnable edge in use -> what is in use without its block; None if an output needs it."""
        return {edge: left for block in self.in_use.blocks() for left in [self.in_use.less(*block)] for edge in block}


def _sum(terms: Mapping[int, Tensor], weights: Sequence[float]) -> Tensor:
    first, *others = (weights[i] * term for i, term in terms.items() if weights[i])
    return sum(others, start=first)
