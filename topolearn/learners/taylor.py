"""Scores by the gradient: how much the loss would change if a block were gone, to first order.

Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019. A block's output
is multiplied by its edge weight w, a gate at w = 1. To first order, setting it to 0 changes the loss by
``|w * dloss/dw|``. For a block that several edges read, w * dloss/dw is summed over them first. Where another edge
steps in for the block, its change from 0 to its new weight counts in the same sum. The score is the mean over batches.
"""

from __future__ import annotations

import math
from typing import final

import torch

from topolearn.graph.skipping import Removable
from topolearn.learners.base import register_learner
from topolearn.learners.scoring import Scorer
from topolearn.learners.trial import Trial


@final
@register_learner("taylor")
class Taylor(Scorer):
    """Ranks blocks by ``|w * dloss/dw|`` of their edge weights, and removes the last ones under a budget.

    The formula and its source: ``help("topolearn.learners.taylor")``.
    """

    def scores_of(self, trial: Trial, batch: int) -> dict[str, float]:
        """Return the change of the loss to first order, without its sign, of each block on one batch."""
        weights = self.edge_weights().detach().requires_grad_()
        (gradient,) = torch.autograd.grad(trial.loss(weights, batch), weights)
        slopes = gradient.tolist()

        def change(block: Removable) -> float:
            before, after = self.in_use.weights, block.after.weights
            stepped_in = (i for i, weight in enumerate(after) if weight and not before[i])
            return math.fsum(
                [*(-before[i] * slopes[i] for i in block.edges), *(after[i] * slopes[i] for i in stepped_in)]
            )

        return {block.source: abs(change(block)) for block in self.blocks}
