"""The result of a comparison of recipes: the figures of each run, and one table."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topolearn.errors import utf8
from topolearn.files import make_folder, write_atomically
from topolearn.format import load_graph
from topolearn.graph import Graph
from topolearn.report.tables import NumberText, Table, metric_heading, metric_number
from topolearn.runs.folder import GRAPH, SEARCHED
from topolearn.runs.history import read_closing

MARKDOWN = "compare.md"
CSV = "compare.csv"
COLUMNS = ("recipe", "metrics", "seeds", "parameters", "million MACs", "edges", "nodes", "training time")
"""Columns of the table; ``metrics`` stands for one column per metric."""


@dataclass(frozen=True)
class GraphSize:
    """Size of a graph.

    Attributes:
        parameters: Parameters of the compiled network.
        macs: Multiply-accumulates for one input.
        edges: Number of edges.
        nodes: Number of nodes.
    """

    parameters: int
    macs: int
    edges: int
    nodes: int

    @classmethod
    def of(cls, graph: Graph) -> GraphSize:
        """Return the size of ``graph``."""
        return cls(graph.cost.params, graph.cost.macs, len(graph.edges), len(graph.nodes))


@dataclass(frozen=True)
class RunSummary:
    """The figures of a finished run.

    Attributes:
        seed: Its seed.
        folder: Its folder.
        metrics: Metrics of the final network on the validation data after the last epoch, without the loss.
        searched: Size of the searched graph.
        learned: Size of the learned graph.
        seconds: Training time over all epochs, without evaluation.
    """

    seed: int
    folder: Path
    metrics: Mapping[str, float]
    searched: GraphSize
    learned: GraphSize
    seconds: float

    @classmethod
    def read(cls, folder: Path, seed: int) -> RunSummary:
        """Read a finished run.

        Raises:
            TopolearnError: The run is not finished, or damaged.
        """
        history, closing = read_closing(folder)
        return cls(
            seed=seed,
            folder=folder,
            metrics={name: value for name, value in closing["metrics"].items() if name != "loss"},
            searched=GraphSize.of(load_graph(folder / SEARCHED)),
            learned=GraphSize.of(load_graph(folder / GRAPH)),
            seconds=sum(record.get("seconds", 0.0) for record in history),
        )


@dataclass(frozen=True)
class Row:
    """The finished runs of a recipe, or of a variant of one.

    Attributes:
        name: The recipe's name and the variant's settings.
        runs: One finished run per seed.
    """

    name: str
    runs: tuple[RunSummary, ...]

    def metric(self, name: str) -> list[float]:
        """Return the values of a metric, one per finished run that has it."""
        return [run.metrics[name] for run in self.runs if name in run.metrics]


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Attributes:
        name: Name of its row.
        seed: Its seed.
        message: Why it failed, in one line.
    """

    name: str
    seed: int
    message: str

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}: {self.message}"


@dataclass(frozen=True)
class Comparison:
    """The result of comparing several recipes over several seeds.

    Attributes:
        rows: One per recipe or variant.
        seeds: The requested seeds.
        folder: Folder of the runs and the tables.
        failures: Runs that failed.
    """

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    folder: Path
    failures: tuple[Failure, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics, in order of appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for run in row.runs for name in run.metrics))

    def table(self, columns: Sequence[str] = COLUMNS) -> Table:
        """Return the table for reading.

        Args:
            columns: Which of :data:`COLUMNS` to show, in this order.
        """
        headings: list[str] = []
        for column in columns:
            headings += list(map(metric_heading, self.metrics)) if column == "metrics" else [column]
        rows = [tuple(cell for column in columns for cell in self._cells(row, column)) for row in self.rows]
        return Table(tuple(headings), tuple(rows), note=self.note())

    def note(self) -> str:
        """Return the note below the table, which says what its figures are."""
        seeds = ", ".join(map(str, self.seeds))
        spread = "mean ± sample standard deviation over" if len(self.seeds) > 1 else "of"
        means = "; searched graph → learned graph, and time, are means over seeds" if len(self.seeds) > 1 else ""
        return (
            f"Metrics of the pruned network on the validation data after the last epoch, {spread}"
            f" {'seeds' if len(self.seeds) > 1 else 'seed'} {seeds}{means}."
        )

    def _cells(self, row: Row, column: str) -> list[Any]:
        if column == "recipe":
            return [row.name]
        if column == "metrics":
            return [mean_and_deviation(name, row.metric(name)) for name in self.metrics]
        if column == "seeds":
            done = len(row.runs)
            return [done if done == len(self.seeds) else NumberText(f"{done} of {len(self.seeds)}")]
        if not row.runs:
            return [None]
        return [NumberText(_CELLS[column](row.runs))]

    def csv(self) -> str:
        """Return the table as CSV: plain numbers, one per column; a missing one is empty."""
        records = [self._record(row) for row in self.rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(key for each in records for key in each)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def _record(self, row: Row) -> dict[str, Any]:
        record: dict[str, Any] = {"recipe": row.name, "runs": len(row.runs)}
        for name in self.metrics:
            values = row.metric(name)
            record[f"{name}_mean"] = statistics.mean(values) if values else None
            record[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
            by_seed = {run.seed: run.metrics.get(name) for run in row.runs}
            record |= {f"{name}_seed_{seed}": by_seed.get(seed) for seed in self.seeds}
        for kind in ("parameters", "macs", "edges", "nodes"):
            record[f"{kind}_searched"] = getattr(row.runs[0].searched, kind) if row.runs else None
            learned = [getattr(run.learned, kind) for run in row.runs]
            record[f"{kind}_learned"] = statistics.mean(learned) if learned else None
        record["training_seconds"] = statistics.mean(run.seconds for run in row.runs) if row.runs else None
        return record

    def save(self) -> None:
        """Write compare.md and compare.csv into the folder; each appears whole or not at all."""
        make_folder(self.folder)
        write_atomically(self.folder / MARKDOWN, f"{self.table().markdown()}\n".encode())
        write_atomically(self.folder / CSV, utf8(self.csv()).encode())


def mean_and_deviation(metric: str, values: Sequence[float]) -> NumberText | None:
    """Return a metric's mean, with the sample standard deviation if there are two or more values; None without any."""
    if not values:
        return None
    spread = f" ± {metric_number(metric, statistics.stdev(values))}" if len(values) > 1 else ""
    return NumberText(f"{metric_number(metric, statistics.mean(values))}{spread}")


def _change(kind: str, spec: str, learned_spec: str, unit: float = 1) -> Callable[[Sequence[RunSummary]], str]:
    def text(runs: Sequence[RunSummary]) -> str:
        searched = getattr(runs[0].searched, kind) / unit
        learned = statistics.mean(getattr(run.learned, kind) for run in runs) / unit
        return f"{searched:{spec}} → {learned:{learned_spec}}"

    return text


def _time(runs: Sequence[RunSummary]) -> str:
    return clock(statistics.mean(run.seconds for run in runs))


def clock(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_CELLS: dict[str, Callable[[Sequence[RunSummary]], str]] = {
    "parameters": _change("parameters", ",.0f", ",.0f"),
    "million MACs": _change("macs", ",.2f", ",.2f", 1e6),
    "edges": _change("edges", ",.0f", ",.1f"),
    "nodes": _change("nodes", ",.0f", ",.1f"),
    "training time": _time,
}
