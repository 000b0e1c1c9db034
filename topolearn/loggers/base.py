"""The protocol of loggers, and what they have in common: which numbers they write, and where a run's id is kept."""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from topolearn.errors import printable, utf8
from topolearn.files import write_atomically
from topolearn.runs import FitResult


class Logger(ABC):
    """A callback of ``fit`` that is also told when a run begins and ends.

    ``fit`` calls ``begin``, then the logger itself with the record of each epoch, then ``end``. Only one of several
    processes calls it. A callback of your own may have ``begin`` and ``end`` without this base class, or be a plain
    function.
    """

    @abstractmethod
    def begin(self, config: Mapping[str, Any], out: Path | None, history: Sequence[Mapping[str, Any]]) -> None:
        """Called before training starts or goes on, and before anything is written to ``out``.

        Args:
            config: The settings of the run, as in config.yaml.
            out: Folder of the run, or None.
            history: The records so far; empty, unless an interrupted run goes on.
        """

    @abstractmethod
    def __call__(self, record: Mapping[str, Any]) -> None:
        """Called with the record of each epoch, as in history.jsonl."""

    @abstractmethod
    def end(self, result: FitResult | None, error: BaseException | None) -> None:
        """Called at the end of a run that has begun.

        Args:
            result: The result, when its files have been written and before the export; None if there is none.
            error: Why there is no result: KeyboardInterrupt after Ctrl-C, or an error.
        """


def run_name(config: Mapping[str, Any], out: Path | None) -> str:
    """Return the name of a run: its folder, or its graph and learner."""
    return printable(f"{config['graph']}-{config['learner']}" if out is None else str(out))


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch by name: losses, metrics, learning rate, speed and the learner's own."""
    return {printable(name): value for name, value in record.items() if isinstance(value, float)}


def closing_numbers(result: FitResult) -> dict[str, float]:
    """Return the numbers of a finished run by name: final metrics, those at the end of the search, and sizes."""
    found = {f"final_{name}": value for name, value in result.metrics.items()}
    found |= {f"searched_{name}": value for name, value in result.searched_metrics.items()}
    graph = result.graph
    sizes = {"parameters": graph.cost.params, "macs": graph.cost.macs}
    sizes |= {"edges": len(graph.edges), "nodes": len(graph.nodes)}
    found |= {f"final_{name}": float(size) for name, size in sizes.items()}
    return {printable(name): value for name, value in found.items()}


def flat(config: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Return settings as text, by dotted names such as ``training.schedule``."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{within}{key}.")
        else:
            found[printable(f"{within}{key}")] = printable(str(value))
    return found


def read_id(out: Path | None, name: str) -> str | None:
    """Return the id in the file ``name`` of a run's folder; None if there is none."""
    path = None if out is None else out / name
    return path.read_text(encoding="utf-8").strip() if path is not None and path.is_file() else None


def keep_id(out: Path | None, name: str, run_id: str) -> None:
    """Write the id of a run into its folder, so that a resumed run goes on with it."""
    if out is not None:
        write_atomically(out / name, f"{run_id}\n".encode())


@contextlib.contextmanager
def only_warned(service: str) -> Iterator[None]:
    """Turn an error of a service into a warning: training does not end because a service cannot be reached."""
    try:
        yield
    except Exception as error:
        text = printable(" ".join(utf8(str(error)).split()))
        warnings.warn(f"{service} did not take the numbers of this run: {text}; training goes on", stacklevel=4)
