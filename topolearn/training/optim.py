"""Optimisers for a network and its learner, and learning-rate schedules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from topolearn.errors import OptionError, suggest
from topolearn.training.options import TrainOptions

if TYPE_CHECKING:
    from topolearn.compiler import Network
    from topolearn.learners import EdgeLearner

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def optimizers(net: Network | nn.Module, lr: float, name: str = "sgd", **options: Any) -> list[Optimizer]:
    """Optimisers of a network: one for the weights, one for the learner where it wants its own.

    Args:
        net: A compiled network.
        lr: Learning rate of the weights.
        name: ``sgd`` (momentum 0.9 where not given) or ``adamw``.
        options: Keyword arguments of the torch optimiser of the weights.

    Returns:
        The weights' optimiser. A learner with parameters adds groups to it, or gets a plain SGD.

    Raises:
        OptionError: Unknown optimiser or option.
    """
    if name not in _OPTIMIZERS:
        raise OptionError(f"unknown optimizer '{name}'{suggest(name, _OPTIMIZERS)}")
    known = [option for option in inspect.signature(_OPTIMIZERS[name]).parameters if option not in ("params", "lr")]
    for option in options:
        if option not in known:
            raise OptionError(f"unknown option '{option}' of optimizer '{name}'{suggest(option, known)}")
    learner: EdgeLearner | None = getattr(net, "learner", None)
    own = set() if learner is None else {id(p) for p in learner.parameters()}
    weights = [p for p in net.parameters() if p.requires_grad and id(p) not in own]
    if name == "sgd":
        options.setdefault("momentum", 0.9)
    try:
        main = _OPTIMIZERS[name]([{"params": weights}], lr=lr, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"optimizer '{name}': {error}") from None
    groups = [] if learner is None else learner.param_groups(lr)
    if learner is None or not groups:
        return [main]
    if learner.shares_optimizer:
        for group in groups:
            main.add_param_group(group)
        holder, index = main, len(main.param_groups) - 1
    else:
        holder, index = torch.optim.SGD(groups, lr=lr), 0
    heed_lr = learner.heed_lr

    def tell(optimizer: Optimizer, *_: Any) -> None:
        heed_lr(float(optimizer.param_groups[index]["lr"]))

    holder.register_step_post_hook(tell)
    return [main] if holder is main else [main, holder]


def lr_factor(options: TrainOptions, step: int, steps: int, warmup: int = 0) -> float:
    """Learning rate at ``step`` of ``steps``, over the peak.

    Args:
        options: Which schedule.
        step: Steps taken, 0 at the start.
        steps: Steps of the phase.
        warmup: Steps of linear warm-up at its start.
    """
    if step < warmup:
        return (step + 1) / warmup
    t = min(1.0, (step - warmup) / max(1, steps - warmup))
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * t))
    if options.schedule == "step":
        return 0.1 ** sum(t >= milestone for milestone in options.milestones)
    if options.schedule == "poly":
        return float((1 - t) ** options.power)
    return 1.0
