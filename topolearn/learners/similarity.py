"""Scores by similarity: how much a block changes what it reads.

Men, Xu, Zhang, Wang, Lin, Lu, Han, Chen, "ShortGPT: Layers in Large Language Models are More Redundant Than You
Expect", 2024: the influence of a block is 1 - cos(x, y), with x what it reads and y what leaves it, the residual
included. Here y is what a node adds up, and x is the same without the block. The cosine is over channels, averaged over
positions and inputs, and over the nodes if several read the block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from torch import Tensor
from torch.nn import functional as F

from topolearn.learners.base import register_learner
from topolearn.learners.scoring import Scorer
from topolearn.learners.trial import Trial


@final
@register_learner("similarity")
class Similarity(Scorer):
    """Ranks blocks by how much they change what they read, and removes the last ones under a budget.

    The formula and its source: ``help("topolearn.learners.similarity")``.
    """

    def scores_of(self, trial: Trial, batch: int) -> dict[str, float]:
        """Return 1 - cosine of each block on one batch."""
        blocks = {edge: block for block in self.blocks for edge in block.edges}
        found: dict[str, list[float]] = {block.source: [] for block in self.blocks}

        def see(node: str, terms: Mapping[int, Tensor]) -> None:
            whole = _sum(terms, self.in_use.weights)
            target = self.graph.nodes[node].input
            axis = 1 if target is None else target.channel_axis
            for edge in blocks.keys() & terms.keys():
                block, left = blocks[edge], blocks[edge].after.weights
                if any(left[i] for i in terms):
                    cosine = F.cosine_similarity(whole, _sum(terms, left), axis)
                    found[block.source].append(1.0 - float(cosine.mean()))

        trial.watch(batch, see)
        return {source: sum(seen) / len(seen) for source, seen in found.items() if seen}


def _sum(terms: Mapping[int, Tensor], weights: Sequence[float]) -> Tensor:
    first, *others = (weights[i] * term for i, term in terms.items() if weights[i])
    return sum(others, start=first)
