"""Progress output during training: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from topolearn.errors import printable

_EVERY = 15.0
"""Seconds between lines that show progress within a step, where there is no terminal."""


class _Stderr(Console):
    """Stderr for lines and the bar; a broken pipe does not end the run."""

    def on_broken_pipe(self) -> None:
        """Print nothing from now on; by default Rich ends the program."""
        self.quiet = True


class Reporter:
    """Shows phases, epochs, throughput and the time left; a context manager.

    Args:
        total: Training steps of the whole run.
        done: Steps done before, in a resumed run.
        items: The plural name of the items in a batch.
        evaluations: Evaluations from here to the end of the run.
        quiet: Show nothing.
    """

    def __init__(
        self, total: int, done: int = 0, *, items: str = "images", evaluations: int = 0, quiet: bool = False
    ) -> None:
        self.console = _Stderr(stderr=True, quiet=quiet, soft_wrap=True)
        self.total = total
        self.items = items
        self.live: Progress | None = None
        self.task: TaskID | None = None
        if self.console.is_terminal and not quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[left]}"),
            )
            self.live = Progress(*columns, console=self.console, transient=True)
            self.task = self.live.add_task("training", total=total, completed=done, rate="", left="")
        self._done = done
        self._first = done
        self._start = time.perf_counter()
        self._seen = 0
        self._said = self._start
        self._evaluations = evaluations
        self._evaluated = 0
        self._evaluating = 0.0  # seconds

    def __enter__(self) -> Reporter:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def step(self, phase: str, count: int) -> None:
        """Show that one training step is done, on a batch of ``count`` items over all processes."""
        self._done += 1
        self._seen += count
        if self.live is not None and self.task is not None:
            self.live.update(
                self.task, completed=self._done, description=phase, rate=self._speed(), left=f"{self._clock()} left"
            )

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Show that the network is evaluated, and count the time that it takes."""
        if self.live is not None and self.task is not None:
            self.live.update(self.task, description="evaluating")
        started = time.perf_counter()
        yield
        self._evaluating += time.perf_counter() - started
        self._evaluated += 1

    def scoring(self, done: str) -> None:
        """Show how far scoring is: on a terminal each time, elsewhere at most every 15 seconds."""
        if self.live is not None and self.task is not None:
            self.live.update(self.task, description=done, rate="")
        elif time.perf_counter() - self._said > _EVERY:
            self.say(done)

    def rate(self) -> float:
        """Return the images or contexts per second since the start, evaluation included."""
        return self._seen / max(1e-9, time.perf_counter() - self._start)

    def _speed(self) -> str:
        return f"{self.rate():.0f} {self.items}/s"

    def left(self) -> float:
        """Return the seconds left: for steps at their current rate, and for evaluations as long as those before."""
        stepping = time.perf_counter() - self._start - self._evaluating
        steps = stepping / max(1, self._done - self._first) * (self.total - self._done)
        return steps + self._evaluating / max(1, self._evaluated) * max(0, self._evaluations - self._evaluated)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(self.left()), 60)
        return f"{minutes}:{seconds:02d}"

    def epoch(self, record: Mapping[str, Any], learned: str = "") -> None:
        """Print one line for a finished epoch; history.jsonl has all numbers of its record.

        Args:
            record: The record of the epoch.
            learned: The progress of the search; empty outside a search.
        """
        shown = [f"{record['phase']} {record['epoch']}/{record['epochs']}"]
        shown += [f"{name} {record[name]:.4g}" for name in record if name == "train_loss" or name.startswith("val_")]
        shown += [learned] if learned else []
        shown.append(f"{self._speed()}, {self._clock()} left")
        self.say("  ".join(shown))

    def say(self, text: str) -> None:
        """Print a line, without the control characters of names in it."""
        self._said = time.perf_counter()
        self.console.print(printable(text), markup=False, highlight=False)
