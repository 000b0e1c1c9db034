"""One training step: in one process, captured as a CUDA graph, or shared by several processes."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from topolearn.distributed import ALONE, World
from topolearn.errors import OptionError, shown
from topolearn.learners import EdgeLearner
from topolearn.samples.base import Tensors, each, listed
from topolearn.samples.seeds import mix
from topolearn.tasks import Loss
from topolearn.training.capture import CapturedStep
from topolearn.training.optim import Rates, make_capturable

_SHAPES_DIFFER = "Using a target size"
"""How the warning of PyTorch's losses begins."""


def autocast(precision: str, device: torch.device) -> Any:
    """Return the context that sets the precision of a forward pass: autocast for ``bfloat16``, else nothing."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@dataclass
class TrainingStep:
    """One training step: forward, loss, backward, and update of weights and learner.

    Attributes:
        net: The network, in training mode.
        loss: The task loss.
        optimizers: The optimisers of everything that is trained.
        learner: The learner while it searches; None in other phases.
        precision: ``float32`` or ``bfloat16`` (autocast).
        channels_last: Whether images are laid out channels last.
        clip_grad_norm: Largest norm of the weights' gradient. None: no limit.
        world: The processes that take the step together.
        captured: Whether the first call captures the step as a CUDA graph, which later calls replay.
        rates: The learning rates.
    """

    net: nn.Module
    loss: Loss
    optimizers: Sequence[Optimizer]
    learner: EdgeLearner | None = None
    precision: str = "float32"
    channels_last: bool = False
    clip_grad_norm: float | None = None
    world: World = ALONE
    captured: bool = False
    rates: Rates = field(init=False)

    def __post_init__(self) -> None:
        own = set() if self.learner is None else {id(p) for p in self.learner.parameters()}
        self._weights = [p for p in self.net.parameters() if id(p) not in own]
        self._has_run = False
        self._parallel: nn.Module | None = None  # made by the first step
        self.rates = Rates(self.optimizers)
        self._run: Callable[[Any, Any], Tensor] = self.compute
        if self.captured:
            make_capturable(self.optimizers, next(self.net.parameters()).device)
            self._run = CapturedStep(self.compute, self.net, self.optimizers, self.learner)

    def __call__(self, inputs: Tensors, targets: Tensors, *, factor: float, seed: int) -> Tensor:
        """Take a step.

        Args:
            inputs: (N, C, H, W), or other inputs by name, on the device; this process's part of the batch.
            targets: The targets of these inputs.
            factor: Factor on the peak learning rates.
            seed: Seed of the step, the same in all processes.

        Returns:
            The task loss over the whole batch, a float64 scalar on the device.

        Raises:
            OptionError: The loss does not return one number with a gradient, or compares different shapes.
        """
        self.rates.set(factor)
        _seed(seed)
        if self.learner is not None:
            self.learner.draw()  # the same numbers in every process
        if self.world.rank:
            _seed(mix(seed, self.world.rank))
        if self.channels_last:
            inputs = each(inputs, _channels_last)
        if self._parallel is None and self.world.size > 1:
            self._parallel = self.world.parallel(self.net, inputs)
        return self._run(inputs, targets)

    def compute(self, inputs: Tensors, targets: Tensors) -> Tensor:
        """Run the part of a step that is on the device and never waits for it; return the task loss."""
        first = listed(inputs)[0]
        with self.world.together(), autocast(self.precision, first.device):
            outputs = (self._parallel or self.net)(inputs)
            with nullcontext() if self._has_run else _without_broadcasting():
                task = _checked(self.loss(outputs, targets))
        self._has_run = True
        mean, factor = self.world.mean(task, len(first))
        loss = task * factor
        if self.learner is not None:
            loss = loss + self.learner.penalty()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with self.world.together():
            loss.backward()  # type: ignore[no-untyped-call]
        if self.clip_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._weights, self.clip_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()  # the last one ends the learner's step
        return mean.double()


def _channels_last(values: Tensor) -> Tensor:
    """Lay images (N, C, H, W) out channels last; leave everything else unchanged."""
    return values.to(memory_format=torch.channels_last) if values.dim() == 4 else values


def _seed(seed: int) -> None:
    """Seed the global generators, from which dropout and a user's loss draw; so a checkpoint need not save them."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed)


@contextmanager
def _without_broadcasting() -> Iterator[None]:
    """Raise an OptionError if one of PyTorch's losses gets outputs and targets of different shapes.

    PyTorch only warns, and compares (N, 1) outputs with (N,) targets in all N x N pairs.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", _SHAPES_DIFFER, UserWarning)
        try:
            yield
        except UserWarning as warning:
            what = str(warning).partition(". ")[0]
            if not what.startswith(_SHAPES_DIFFER):
                raise
            raise OptionError(
                f"the loss gets outputs and targets of different shapes, and would compare each with all: {what}; bring"
                " them to one shape, such as outputs[:, 0] for a single number per item"
            ) from None


def _checked(task: Any) -> Tensor:
    if not isinstance(task, Tensor) or task.numel() != 1 or not task.requires_grad:
        what = f"a tensor {tuple(task.shape)}" if isinstance(task, Tensor) else shown(task)
        raise OptionError(f"the loss gives {what}, but must give one number, a tensor with a gradient")
    return task.reshape(())
