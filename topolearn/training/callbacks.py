"""The callbacks of a run: functions that are called with each record, some of them also at its beginning and end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from topolearn.distributed import World
from topolearn.errors import OptionError
from topolearn.loggers import TensorBoardLogger
from topolearn.runs import FitResult

Callback = Callable[[Mapping[str, Any]], None]


def with_tensorboard(callbacks: Sequence[Callback], folder: Path | None) -> tuple[Callback, ...]:
    """Return the callbacks, with one for TensorBoard if that is installed and the run has a folder.

    TensorBoard cannot write to a folder whose name is not UTF-8; runs in such folders skip it.
    """
    asked = any(isinstance(callback, TensorBoardLogger) for callback in callbacks)
    if folder is None or asked or not TensorBoardLogger.can_write(folder):
        return tuple(callbacks)
    try:
        return (*callbacks, TensorBoardLogger())
    except OptionError:
        return tuple(callbacks)


@contextlib.contextmanager
def begun(
    callbacks: Sequence[Callback],
    world: World,
    config: Mapping[str, Any],
    folder: Path | None,
    history: Sequence[Mapping[str, Any]],
) -> Iterator[Callable[[FitResult], None]]:
    """Begin the callbacks that can be begun, and end them on exit.

    Args:
        callbacks: The callbacks of this process.
        world: The processes that train together; all raise what a callback of process 0 raises when it begins.
        config: The settings of the run.
        folder: Its folder.
        history: Its records so far.

    Yields:
        A function to call with the result, which ends the callbacks.
    """
    open_ones: list[Any] = []

    def begin() -> None:
        for callback in callbacks:
            if hasattr(callback, "begin"):
                callback.begin(config, folder, history)
            if hasattr(callback, "end"):
                open_ones.append(callback)

    def end(result: FitResult | None, error: BaseException | None = None) -> None:
        with contextlib.ExitStack() as stack:  # each is ended, also if another one cannot
            while open_ones:
                stack.callback(open_ones.pop().end, result, error)

    try:
        world.from_main(begin)
        yield end
    except BaseException as error:
        with contextlib.suppress(Exception):  # the first error says what is wrong
            end(None, error)
        raise
