"""Scores by the gradient: how much the loss would change if a block were gone, to first order.

Molchanov, Mallya, Tyree, Frosio, Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019. A block's output
is multiplied by its edge weight w, a gate at w = 1. To first order, setting it to 0 changes the loss by
``|w * dloss/dw|``; for a block that several edges read, w * dloss/dw is summed over them first. The score is the mean
over batches.
"""

from __future__ import annotations

from typing import final

import torch

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
        """Return ``|w * dloss/dw|`` of each block on one batch."""
        weights = self.edge_weights().detach().requires_grad_()
        (gradient,) = torch.autograd.grad(trial.loss(weights, batch), weights)
        products = (weights * gradient).detach().tolist()
        return {block.source: abs(sum(products[i] for i in block.edges)) for block in self.blocks}
