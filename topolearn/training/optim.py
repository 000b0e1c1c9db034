"""Optimisers for a network and its learner, and learning-rate schedules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from topolearn.compiler import Network
from topolearn.errors import OptionError, shown, suggest
from topolearn.format.ranges import expand
from topolearn.recipes.train_options import TrainOptions

if TYPE_CHECKING:
    from topolearn.learners import EdgeLearner

_OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def optimizers(
    net: nn.Module,
    lr: float,
    name: str = "sgd",
    node_lr: Mapping[str, float] | None = None,
    decay: Literal["all", "matrices"] = "all",
    **options: Any,
) -> list[Optimizer]:
    """Make the optimisers of a network: one for the weights, and one for the learner if it wants its own.

    Args:
        net: A compiled network, or any module that holds one, such as DDP or your own network around it.
        lr: Learning rate of the weights.
        name: ``sgd`` (default momentum 0.9) or ``adamw``.
        node_lr: Node id, or a range of ids -> factor on ``lr`` for the weights of the node. Ids that the network does
            not have, such as those of pruned nodes, are ignored.
        decay: Which weights ``weight_decay`` acts on: ``all``, or ``matrices``, those with two axes or more.
        options: Keyword arguments of the torch optimiser of the weights.

    Returns:
        The optimiser of the weights. A learner with parameters adds groups to it, or gets a plain SGD as the second
        optimiser. After all of them have stepped, they call the learner's ``after_step()``; your own call then does
        nothing.

    Raises:
        OptionError: The optimiser or an option is unknown, or the module holds two networks with learners.
    """
    if name not in _OPTIMIZERS:
        raise OptionError(f"unknown optimizer '{name}'{suggest(name, _OPTIMIZERS)}")
    known = [option for option in inspect.signature(_OPTIMIZERS[name]).parameters if option not in ("params", "lr")]
    for option in options:
        if option not in known:
            hint = "; choose the optimizer with 'name'" if option == "optimizer" else suggest(option, known)
            raise OptionError(f"unknown option '{option}' of optimizer '{name}'{hint}")
    for option, value in {"lr": lr, **options}.items():
        unknown = isinstance(value, str) or (option == "lr" and value is None)
        if unknown or (isinstance(value, float) and not math.isfinite(value)):
            raise OptionError(f"'{option}' of optimizer '{name}' is {shown(value)}, but should be a finite number")
    networks = [module for module in net.modules() if isinstance(module, Network)]
    learner = _learner(networks)
    own = set() if learner is None else {id(p) for p in learner.parameters()}
    weights = [p for p in net.parameters() if p.requires_grad and id(p) not in own]
    if name == "sgd":
        options.setdefault("momentum", 0.9)
    fused = _fused(weights) and not options.keys() & {"foreach", "differentiable"}
    if fused:
        options.setdefault("fused", True)
    try:
        groups = _groups(networks, weights, lr, node_lr or {})
        main = _OPTIMIZERS[name](_decaying(groups) if decay == "matrices" else groups, lr=lr, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"optimizer '{name}': {error}") from None
    if learner is None:
        return [main]
    made, own_groups, index = [main], learner.param_groups(lr), 0
    if own_groups and not learner.shares_optimizer:
        made.append(torch.optim.SGD(own_groups, lr=lr, fused=fused or None))
    elif own_groups:
        for group in own_groups:
            main.add_param_group(group)
        index = len(main.param_groups) - 1

    def tell(optimizer: Optimizer, *_: Any) -> None:
        frozen = all(network.frozen_edge_weights is not None for network in networks)  # its learner is no longer used
        if frozen or bool(getattr(optimizer, "found_inf", False)):  # a fused optimiser skips for a GradScaler by itself
            return
        if own_groups and optimizer is made[-1]:
            rate = optimizer.param_groups[index]["lr"]
            learner.on_learning_rate(rate if isinstance(rate, Tensor) else float(rate))
        learner.step_taken(made.index(optimizer), len(made))

    for optimizer in made:
        optimizer.register_step_post_hook(tell)
    return [*made]  # a copy, which the caller may change


def _learner(networks: Sequence[Network]) -> EdgeLearner | None:
    """Return the only learner of the networks, or None."""
    learners = {id(network.learner): network.learner for network in networks if network.learner is not None}
    if len(learners) > 1:
        raise OptionError(
            f"the module holds {len(learners)} networks with learners; make optimizers for each of these networks"
        )
    return next(iter(learners.values()), None)  # type: ignore[return-value]


def _groups(
    networks: Sequence[Network], weights: Sequence[Tensor], lr: float, node_lr: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return parameter groups: the weights at ``lr``, and one group for each factor in ``node_lr``."""
    factors = {node: factor for word, factor in node_lr.items() for node in expand(word)}
    nodes = [(node, module) for net in networks for node, module in net.nodes.items() if node in factors]
    factor_of = {id(p): factors[node] for node, module in nodes for p in module.parameters()}
    return [{"params": [p for p in weights if id(p) not in factor_of]}] + [
        {"params": [p for p in weights if factor_of.get(id(p)) == factor], "lr": lr * factor}
        for factor in dict.fromkeys(factor_of.values())
    ]


def _decaying(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Divide each group into the weights that decay and those that do not."""
    divided = []
    for group in groups:
        matrices = [p for p in group["params"] if p.dim() >= 2]
        others = [p for p in group["params"] if p.dim() < 2]
        divided += [{**group, "params": matrices}, {**group, "params": others, "weight_decay": 0.0}]
    return [group for group in divided if group["params"]]


def _fused(weights: Sequence[Tensor]) -> bool:
    """Whether to use one kernel for all weights: only on a GPU.

    On a CPU it saves less than 1 % of a training step.
    """
    return bool(weights) and all(weight.is_cuda and weight.is_floating_point() for weight in weights)


class Rates:
    """Sets the learning rates of all optimiser groups as a factor of their peaks.

    Attributes:
        now: The current rate of the first group.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self._peaks = [(group, float(group["lr"])) for group in groups]
        self.now = self._peaks[0][1]

    def set(self, factor: float) -> None:
        """Set every rate to ``factor`` times its peak."""
        for group, peak in self._peaks:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(peak * factor)
            else:
                group["lr"] = peak * factor
        self.now = self._peaks[0][1] * factor


_ITS_OWN = ("lr", "fused", "foreach", "capturable")
"""Settings of a group that depend on the machine and the options of a run, not on its progress."""


def make_capturable(optimizers: Sequence[Optimizer], device: torch.device) -> None:
    """Make the steps of optimisers from :func:`optimizers` capturable in a CUDA graph: move the rates to the device."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = torch.full((), float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = True


def saved_state(optimizer: Optimizer) -> dict[str, Any]:
    """Return the state of an optimiser for a checkpoint, independent of the device that it ran on."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def load_saved_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state from :func:`saved_state`; the optimiser keeps its own rates and implementation.

    Raises:
        ValueError, KeyError, TypeError: The state is from another optimiser.
    """
    groups = [
        {**saved, **{key: own[key] for key in _ITS_OWN if key in own}}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def lr_factor(
    options: TrainOptions, step: int, steps: int, warmup: int = 0, milestones: tuple[float, ...] | None = None
) -> float:
    """Return the learning rate at ``step`` of ``steps``, as a factor of the peak.

    Args:
        options: Training options, which name the schedule.
        step: Steps taken, 0 at the start.
        steps: Steps of the whole schedule.
        warmup: Steps of linear warm-up at its start.
        milestones: The milestones of the phase. None: those of ``options``.
    """
    if step < warmup:
        return (step + 1) / warmup
    t = min(1.0, (step - warmup) / max(1, steps - warmup))
    if options.schedule == "cosine":
        return options.lr_floor + (1 - options.lr_floor) * 0.5 * (1 + math.cos(math.pi * t))
    if options.schedule == "step":
        passed = options.milestones if milestones is None else milestones
        return 0.1 ** sum(t >= milestone for milestone in passed)
    if options.schedule == "poly":
        return float((1 - t) ** options.power)
    return 1.0
