"""The table of ``benchmarks.peers``: each way of shrinking a network beside blocks drawn at random."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.columns import two, whole
from benchmarks.results import FOLDER, Record, Results, read_file
from topolearn.report.tables import NumberText, Table

FILE = FOLDER / "peers.csv"
DRAW = "random"
"""How the variants of blocks drawn at random begin."""
WAYS = {
    "whole": "nothing is removed",
    "learned": "`continuous`, while it learns",
    "ablation": "`ablation`",
    "taylor": "`taylor`",
    "similarity": "`similarity`",
    DRAW: "blocks drawn at random",
    "torch_pruning": "Torch-Pruning: channels",
}
"""Variant -> words, in the order of the rows."""


@dataclass(frozen=True)
class PeersTable:
    """A table of one network: accuracy, how many random draws a way beats, latency and size.

    A draw counts as beaten if it is less accurate and was trained with the same seed.
    """

    name: str
    recipe: str

    def markdown(self, results: Results) -> str:
        """Return the table as Markdown."""
        return self.table(read_file(FILE)).markdown()

    def table(self, records: Sequence[Record]) -> Table:
        """Return the table of these rows of the results file."""
        ours = [record for record in records if record["recipe"] == self.recipe]
        draws = [record for record in ours if record["variant"].startswith(DRAW)]
        rows = []
        for way, words in WAYS.items():
            runs = draws if way == DRAW else [record for record in ours if record["variant"] == way]
            if runs:
                rows.append((words, *_accuracies(runs, [] if way in (DRAW, "whole") else draws), *_costs(runs)))
        accuracies = ("as removed, %", "draws beaten", "fine-tuned, %", "draws beaten")
        costs = ("time, batch 1", "time, batch 8", "parameters", "million MACs")
        return Table(("way", *accuracies, *costs), tuple(rows))


def _accuracies(runs: Sequence[Record], draws: Sequence[Record]) -> tuple[NumberText, ...]:
    """Return mean ± standard deviation and the draws beaten, as removed and after fine-tuning."""
    cells = []
    for metric in ("accuracy_as_removed", "accuracy"):
        values = [100 * float(run[metric]) for run in runs if run[metric]]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        pairs = [
            float(run[metric]) > float(draw[metric])
            for run in runs
            for draw in draws
            if run["seeds"] == draw["seeds"] and run[metric] and draw[metric]
        ]
        cells += [
            NumberText(f"{statistics.fmean(values):.2f}{spread}" if values else ""),
            NumberText(f"{sum(pairs)} of {len(pairs)}" if pairs else ""),
        ]
    return tuple(cells)


def _costs(runs: Sequence[Record]) -> tuple[NumberText, ...]:
    """Return the means of latency and size."""

    def mean(key: str, text: Callable[[float], str], unit: float = 1) -> NumberText:
        return NumberText(text(statistics.fmean(float(run[key]) / unit for run in runs)))

    return (
        mean("time_1", two),
        mean("time_8", two),
        mean("parameters_learned", whole),
        mean("macs_learned", two, 1e6),
    )
