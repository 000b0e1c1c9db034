"""Whether an optimiser step was taken, and whether it was ended: so that no loop forgets it, and none does it twice."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class StepWatch:
    """What a learner knows of the step that a training loop is at.

    Attributes:
        seen: id of a parameter -> its version at the first forward pass since the last step was ended; None where
            there was no such pass.
        stepped: Numbers of the optimisers from ``topolearn.optimizers`` that have stepped since the last step was
            ended.
        ended: Whether these optimisers have ended the step, so that the loop's own call has nothing left to do.
    """

    def __init__(self) -> None:
        self.seen: dict[int, int] | None = None
        self.stepped: set[int] = set()
        self.ended = False

    def changed(self, parameters: Iterable[Tensor]) -> bool:
        """Whether parameters are other than at the first forward pass since the last step was ended."""
        versions = {id(parameter): parameter._version for parameter in parameters}
        if self.seen is None:
            self.seen = versions
        return self.seen.keys() == versions.keys() and self.seen != versions  # a copy has other parameters


def once_per_step(after_step: Callable[[Any], None]) -> Callable[[Any], None]:
    """``after_step``, which does nothing once if the optimisers have called it for the same step."""

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
    """Whether an optimiser is at its step: it may call a closure, forward pass included, several times."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if isinstance(frame.f_locals.get("self"), Optimizer):
            return True
    return False
