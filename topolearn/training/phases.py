"""The phases of a run: their epochs and learning rates, the end of the search, and the start of each later phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from topolearn.compiler import Network, load_pretrained
from topolearn.compiler.modules.base import last_norm
from topolearn.compiler.network import copy_weights
from topolearn.compiler.plan import edge_key
from topolearn.errors import OptionError, suggest
from topolearn.graph import Graph, apply_passes
from topolearn.learners import EdgeLearner, Phase, SearchSchedule
from topolearn.recipes.train_options import PhaseOptions, TrainOptions
from topolearn.runs.checkpoint import Position
from topolearn.samples import Data
from topolearn.training.optim import lr_factor

RECALIBRATION_BATCHES = 100
"""Largest number of training batches from which :func:`recalibrate` computes batch statistics."""

_LOOKED_AT = 1_000_000
"""Largest number of steps, evenly spaced, that are sampled to sum the learning rates of a phase beforehand."""


@dataclass(frozen=True)
class Scheduled:
    """A phase with its place in a run.

    Attributes:
        phase: The phase, with the run's share and learning rate.
        epochs: Number of epochs.
        milestones: Milestones of its ``step`` schedule. None: those that the options give for all phases.
        before: Epochs of its learning-rate schedule in earlier phases.
        span: All epochs of that schedule.
        opens: Whether that schedule is the first of the run; only the first has a warm-up.
    """

    phase: Phase
    epochs: int
    milestones: tuple[float, ...] | None
    before: int
    span: int
    opens: bool

    def is_evaluated(self, epoch: int, epochs: int, every: int) -> bool:
        """Whether the network is evaluated at the end of an epoch.

        Args:
            epoch: Number of the epoch in the phase, from 0.
            epochs: Number of the epoch in the run, from 0.
            every: Epochs from one evaluation to the next; the last one of a phase is always evaluated.
        """
        return (epochs + 1) % every == 0 or epoch + 1 == self.epochs

    def lr_factor(self, options: TrainOptions, step: int, steps: int) -> float:
        """Return the learning rate as a factor of the schedule's peak.

        Args:
            options: Training options, which name the schedule.
            step: Steps taken in the phase.
            steps: Steps per epoch.
        """
        asked = round(options.warmup_epochs * steps) if options.warmup_steps is None else options.warmup_steps
        warmup = asked if self.opens else 0
        return lr_factor(options, self.before * steps + step, self.span * steps, warmup, self.milestones)

    def search_schedule(self, options: TrainOptions, lr: float, steps: int) -> SearchSchedule:
        """Return what a learner needs to know of the search ahead.

        Args:
            options: Training options, which name the schedule.
            lr: Peak learning rate.
            steps: Steps per epoch.
        """
        count = self.epochs * steps
        looked_at = range(0, count, -(-count // _LOOKED_AT))
        factors = [self.lr_factor(options, step, steps) for step in looked_at]
        total = lr * sum(factors) * (count / len(factors))
        momentum = options.momentum if options.optimizer == "sgd" else 0.0
        return SearchSchedule(count, total, lr * max(factors), momentum)


def schedule(learner: EdgeLearner, epochs: int, changes: Mapping[str, PhaseOptions]) -> tuple[Scheduled, ...]:
    """Divide ``epochs`` over the learner's phases by their shares, at least one each.

    Args:
        learner: The learner, which has the plan.
        epochs: Epochs in all phases together.
        changes: Changes to the plan, by phase name. A share of 0 skips a phase.

    Raises:
        OptionError: A phase is unknown, no phase is left, or there are fewer epochs than phases.
    """
    plan = learner.phases()
    names = [phase.name for phase in plan]
    for name in changes:
        if name not in names:
            raise OptionError(f"learner '{learner.learner_name}' has no phase '{name}'{suggest(name, names)}")
    running = [phase for phase in (_changed(each, changes.get(each.name)) for each in plan) if phase.share > 0]
    if not running:
        raise OptionError("every phase is switched off; give one a share above 0")
    if epochs < len(running):
        raise OptionError(
            f"{epochs} epoch{' is' if epochs == 1 else 's are'} too few for the phases"
            f" {', '.join(phase.name for phase in running)}; give at least {len(running)}, or skip a phase: set"
            f" 'phases.{running[-1].name}' to 0"
        )
    dealt = _dealt(epochs, [phase.share for phase in running])
    scheduled: list[Scheduled] = []
    first = 0  # the first phase of the current learning-rate schedule
    for number, (phase, count) in enumerate(zip(running, dealt, strict=True)):
        if not _joins(phase, changes):
            first = number
        last = number + 1
        while last < len(running) and _joins(running[last], changes):
            last += 1
        scheduled.append(
            Scheduled(
                phase=phase if first == number else replace(phase, lr=running[first].lr),
                epochs=count,
                milestones=changes.get(running[first].name, PhaseOptions()).milestones,
                before=sum(dealt[first:number]),
                span=sum(dealt[first:last]),
                opens=first == 0,
            )
        )
    return tuple(scheduled)


def evaluations_left(plan: Sequence[Scheduled], at: Position, every: int) -> int:
    """Return how often the network will still be evaluated at the end of an epoch."""
    count, first = 0, at.epochs
    for number, item in enumerate(plan[at.phase :]):
        last = first + item.epochs - (0 if number else at.epoch)
        if last > first:
            ends_between = last % every != 0  # the last epoch of a phase is evaluated anyway
            count += last // every - first // every + ends_between
        first = last
    return count


def search_steps(plan: Sequence[Scheduled], at: Position, steps: int) -> tuple[int, int]:
    """Return how many steps of the search are taken, and how many there are.

    Args:
        plan: The phases.
        at: A position in a phase that searches.
        steps: Steps per epoch.
    """
    epochs = [item.epochs if item.phase.search else 0 for item in plan]
    return (sum(epochs[: at.phase]) + at.epoch) * steps + at.step, sum(epochs) * steps


def _dealt(epochs: int, shares: Sequence[float]) -> list[int]:
    """Divide ``epochs`` by shares, at least one each."""
    exact = [share / sum(shares) * epochs for share in shares]
    dealt = [max(1, int(share)) for share in exact]
    while sum(dealt) < epochs:
        neediest = max(range(len(dealt)), key=lambda i: exact[i] - dealt[i])
        dealt[neediest] += 1
    while sum(dealt) > epochs:
        richest = max(range(len(dealt)), key=lambda i: dealt[i] - exact[i] if dealt[i] > 1 else -1.0)
        dealt[richest] -= 1
    return dealt


def _joins(phase: Phase, changes: Mapping[str, PhaseOptions]) -> bool:
    """Whether a phase continues the learning-rate schedule of the phase before."""
    change = changes.get(phase.name, PhaseOptions())
    return phase.continues and change.lr is None and change.milestones is None


def _changed(phase: Phase, change: PhaseOptions | None) -> Phase:
    """Return a phase of the plan with the run's own share and learning rate."""
    if change is None:
        return phase
    return replace(
        phase,
        share=phase.share if change.share is None else change.share,
        lr=phase.lr if change.lr is None else change.lr,
    )


def begin_phase(net: Network, phase: Phase, seed: int, start: Mapping[str, Tensor] | None = None) -> Network:
    """Return the network that a phase after the search starts from.

    Args:
        net: The network as the phase before left it.
        phase: The phase.
        seed: Seed for weights that are drawn.
        start: The weights that the run was given, by name. If the phase starts from fresh weights, it takes these for
            all parts that the network still has, and draws the others. None: a backbone takes its pretrained weights,
            and the others are drawn.
    """
    graph: Graph = apply_passes(net.graph, *phase.passes)
    carries = phase.weights == "carry"
    if graph == net.graph and carries:
        return net
    torch.manual_seed(seed)
    device = next(net.parameters()).device
    begun = Network(graph).to(device)
    if carries:
        copy_weights(net, begun)
    elif start is None:
        load_pretrained(begun)
    else:
        own = begun.state_dict()
        there = {name: value for name, value in start.items() if name in own and own[name].shape == value.shape}
        begun.load_state_dict(there, strict=False)
    return begun


def freeze_affine(net: Network, whose: Literal["all", "weighted"] | None) -> None:
    """Freeze scale and shift of the batch normalisations that ``whose`` names, and thaw those that it froze before."""
    weighted = weighted_norms(net) if whose == "weighted" else set()
    for path, module in net.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            trained = whose != "all" and module not in weighted
            for name, parameter in module.named_parameters(path, recurse=False):
                if trained and name in net.frozen_affine:
                    net.frozen_affine.discard(name)
                    parameter.requires_grad_(True)
                elif not trained and parameter.requires_grad:
                    net.frozen_affine.add(name)
                    parameter.requires_grad_(False)


def weighted_norms(net: Network) -> set[nn.Module]:
    """Return the batch normalisations directly before a learnable weight: those that end its source or its edge op."""
    modules: list[nn.Module] = []
    for edge in (edge for edge in net.graph.edges if edge.learnable):
        if edge.src in net.nodes:
            modules.append(net.nodes[edge.src])
        if edge.rule.has_parameters:
            modules.append(net.edges[edge_key(edge)])
    return {norm for norm in map(last_norm, modules) if norm is not None}


@torch.no_grad()
def recalibrate(net: Network, data: Data, batch_size: int, seed: int) -> bool:
    """Recompute the running statistics of batch normalisations as plain means over training batches.

    Returns:
        Whether there are any.
    """
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return False
    momenta = [norm.momentum for norm in norms]
    net.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
        norm.train()
    for step, (inputs, _) in enumerate(data.train_batches(batch_size, seed=seed, epoch=0)):
        if step == RECALIBRATION_BATCHES:
            break
        net(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return True
