"""Which phases a run has, how many epochs each, and how the search ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from topolearn.compiler import Network, load_pretrained, prune
from topolearn.compiler.modules.base import last_norm
from topolearn.compiler.network import copy_weights
from topolearn.compiler.plan import edge_key
from topolearn.errors import OptionError, suggest
from topolearn.graph import Graph, apply_passes
from topolearn.learners import EdgeLearner, Phase
from topolearn.recipes.train_options import PhaseOptions, TrainOptions
from topolearn.samples import Data
from topolearn.training.optim import lr_factor

RECALIBRATION_BATCHES = 100
"""Most training batches from which batch statistics are computed anew."""


@dataclass(frozen=True)
class Scheduled:
    """A phase as a run has it.

    Attributes:
        phase: With the run's share and learning rate.
        epochs: How many.
        milestones: Of its ``step`` schedule; None for those of all phases.
        before: Epochs of its learning-rate schedule that lie in phases before.
        span: Epochs of that schedule in all.
        opens: Whether that schedule is the run's first, which warms up.
    """

    phase: Phase
    epochs: int
    milestones: tuple[float, ...] | None
    before: int
    span: int
    opens: bool

    def lr_factor(self, options: TrainOptions, step: int, steps: int) -> float:
        """Learning rate over the schedule's peak.

        Args:
            options: Which schedule.
            step: Steps of the phase that were taken.
            steps: Steps per epoch.
        """
        asked = round(options.warmup_epochs * steps) if options.warmup_steps is None else options.warmup_steps
        warmup = asked if self.opens else 0
        return lr_factor(options, self.before * steps + step, self.span * steps, warmup, self.milestones)


def schedule(learner: EdgeLearner, epochs: int, changes: Mapping[str, PhaseOptions]) -> tuple[Scheduled, ...]:
    """Deal ``epochs`` out over the learner's phases, by share, at least one each.

    Args:
        learner: Whose plan.
        epochs: In all.
        changes: What is not as in the plan, by phase name; a share of 0 skips a phase.

    Raises:
        OptionError: An unknown phase, no phase left, or fewer epochs than phases.
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
            f"{epochs} epochs are too few for the phases {', '.join(p.name for p in running)}; give at least"
            f" {len(running)}"
        )
    total = sum(phase.share for phase in running)
    exact = [phase.share / total * epochs for phase in running]
    dealt = [max(1, int(share)) for share in exact]
    while sum(dealt) < epochs:
        neediest = max(range(len(dealt)), key=lambda i: exact[i] - dealt[i])
        dealt[neediest] += 1
    while sum(dealt) > epochs:
        richest = max(range(len(dealt)), key=lambda i: dealt[i] - exact[i] if dealt[i] > 1 else -1.0)
        dealt[richest] -= 1
    scheduled: list[Scheduled] = []
    first = 0  # of the phases that the present learning-rate schedule runs through
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


def _joins(phase: Phase, changes: Mapping[str, PhaseOptions]) -> bool:
    """Whether a phase goes on with the learning-rate schedule of the one before."""
    change = changes.get(phase.name, PhaseOptions())
    return phase.continues and change.lr is None and change.milestones is None


def _changed(phase: Phase, change: PhaseOptions | None) -> Phase:
    """A phase of the plan with the run's own share and learning rate."""
    if change is None:
        return phase
    return replace(
        phase,
        share=phase.share if change.share is None else change.share,
        lr=phase.lr if change.lr is None else change.lr,
    )


def settle(net: Network) -> Network:
    """End the search: freeze the learner's topology and prune to it."""
    return prune(net)


def begin_phase(net: Network, phase: Phase, seed: int, start: Mapping[str, Tensor] | None = None) -> Network:
    """The network that a phase after the search starts from.

    Args:
        net: The network as the phase before left it.
        phase: The phase.
        seed: Of weights that are drawn.
        start: The weights that the run was given to start from, by name; fresh ones are these where the network
            still has them, and drawn elsewhere. None: a backbone's are its pretrained ones, the others drawn.
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
    """Stop the training of some batch normalisations' scale and shift, and start that of the others."""
    weighted = weighted_norms(net) if whose == "weighted" else set()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            trained = whose != "all" and module not in weighted
            module.weight.requires_grad_(trained)
            module.bias.requires_grad_(trained)


def weighted_norms(net: Network) -> set[nn.Module]:
    """The batch normalisations that end a node, or an edge's own op, whose output a learnable edge weights."""
    modules: list[nn.Module] = []
    for edge in (edge for edge in net.graph.edges if edge.learnable):
        if edge.src in net.nodes:
            modules.append(net.nodes[edge.src])
        if edge.rule.has_parameters:
            modules.append(net.edges[edge_key(edge)])
    return {norm for norm in map(last_norm, modules) if norm is not None}


@torch.no_grad()
def recalibrate(net: Network, data: Data, batch_size: int, seed: int) -> None:
    """Compute the running statistics of batch normalisations anew, as plain means over training batches."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not norms:
        return
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
