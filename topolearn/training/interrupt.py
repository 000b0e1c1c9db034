"""Ctrl-C: a handler that delays it until the training step ends, and how the run goes on afterwards."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Context in which the first Ctrl-C (or SIGTERM) only sets :attr:`asked`; the second acts at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # None: set outside Python, so it cannot be restored. SIG_IGN: a background job, which ignores Ctrl-C.
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def way_on(folder: Path | None, *, exact: bool) -> str:
    """Return how an interrupted run goes on.

    Args:
        folder: The run's folder, if it has one.
        exact: Whether it goes on from where it stopped, else from the end of the last epoch.
    """
    if folder is None:
        return "nothing was saved, because the run has no folder"
    if exact:
        return f"go on with --resume ({folder})"
    return (
        f"go on with --resume ({folder}), from the end of the last epoch, because a DataLoader cannot start in the"
        " middle of an epoch"
    )
