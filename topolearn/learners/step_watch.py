"""Tracks whether an optimiser step was taken and ended, so that each step is ended exactly once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class StepWatch:
    """State of a training loop's current step, as a learner sees it.

    Attributes:
        seen: id of a parameter -> its version at the first forward pass after the last step ended; None before that
            pass.
        stepped: Numbers of the optimisers from ``topolearn.optimizers`` that have stepped since the last step ended.
        ended: Whether these optimisers have ended the step, so that the loop's own call does nothing.
    """

    def __init__(self) -> None:
        self.seen: dict[int, int] | None = None
        self.stepped: set[int] = set()
        self.ended = False

    def changed(self, parameters: Iterable[Tensor]) -> bool:
        """Whether parameters have changed since the first forward pass after the last step ended."""
        versions = {id(parameter): parameter._version for parameter in parameters}
        if self.seen is None:
            self.seen = versions
        return self.seen.keys() == versions.keys() and self.seen != versions  # a copy has other parameters


def once_per_step(after_step: Callable[[Any], None]) -> Callable[[Any], None]:
    """Wrap ``after_step`` so that a second call for the same step, after the optimisers', does nothing."""

    @functools.wraps(after_step)
    def once(learner: Any) -> None:
        if learner.step_watch.ended:
            learner.step_watch.ended = False
            return
        after_step(learner)
        learner.step_watch = StepWatch()

    once.is_once_per_step = True  # type: ignore[attr-defined]
    return once


def inside_a_step() -> bool:
    """Whether an optimiser is in its step, where it may call a closure with a forward pass several times."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if isinstance(frame.f_locals.get("self"), Optimizer):
            return True
    return False
