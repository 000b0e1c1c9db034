"""A page about one run, or several runs side by side."""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.drawing import adjacency_svg
from topolearn.errors import CheckpointError, Location, OptionError
from topolearn.files import read_start
from topolearn.graph import Graph
from topolearn.report.tables import Table, metric_heading, metric_number
from topolearn.runs.config import write_config
from topolearn.runs.finished import FinishedRun, read_finished
from topolearn.runs.folder import SEARCH_STATE, SWEEP
from topolearn.runs.learned import read_learned
from topolearn.runs.movement import read_movement

if TYPE_CHECKING:
    from topolearn.page import Page

MOST_RUNS = 8
MOST_TEXT = 2**20
"""Largest number of bytes that are read of a table."""
MOST_EDGES = 60
"""Largest number of edges listed in which runs differ."""


@dataclass(frozen=True)
class RunSample:
    """What a run's network does with some examples.

    Attributes:
        heading: Heading of the section.
        svg: A picture: an ``<svg>`` element that this package drew; or empty.
        text: Text; or empty.
    """

    heading: str
    svg: str = ""
    text: str = ""


def write_report(
    runs: Sequence[str | Path | FinishedRun],
    path: str | Path,
    sample_of: Callable[[Path], RunSample | None] | None = None,
) -> None:
    """Write a page of HTML about finished runs: what they learned, and how. It opens without a network.

    Args:
        runs: Folders of finished runs, or their results; at most 8.
        path: The file, with the ending .html; written whole or not at all.
        sample_of: Gives what a run's network does with some examples, from the folder of the run, such as
            ``topolearn.prediction.run_samples``.

    Raises:
        CheckpointError: A folder holds no finished run.
        OptionError: No runs or too many, another ending, or Bokeh is not installed.
        TopolearnError: The page would be too large, or the file cannot be written.
    """
    from topolearn.page import Page, needs_bokeh

    needs_bokeh(Path(path))
    if not 1 <= len(runs) <= MOST_RUNS:
        raise OptionError(f"{len(runs)} runs were given, and a page shows 1 to {MOST_RUNS}")
    found = [run if isinstance(run, FinishedRun) else read_finished(run) for run in runs]
    names = _names(found)
    page = Page(" and ".join(names) if len(names) <= 2 else f"{len(names)} runs")
    _results(page, found, names)
    _training(page, found, names)
    for run, name in zip(found, names, strict=True):
        sample = None if sample_of is None or run.folder is None else sample_of(run.folder)
        if sample is not None:
            page.section(_of(sample.heading, name if len(found) > 1 else ""))
            if sample.svg:
                page.svg(sample.svg)
            else:
                page.text(sample.text)
    for run, name in zip(found, names, strict=True):
        _learned(page, run, name if len(found) > 1 else "")
        _pruned(page, run, name if len(found) > 1 else "")
    if len(found) > 1:
        _differences(page, found, names)
    for run, name in zip(found, names, strict=True):
        page.section(_of("Settings", name if len(found) > 1 else ""))
        page.text(write_config(run.config))
    page.write(path)


def _names(runs: Sequence[FinishedRun]) -> list[str]:
    """Return a name for each run: its folder, or its graph and learner; each once."""
    names: list[str] = []
    for run in runs:
        name = f"{run.searched.name}: {run.config['learner']}" if run.folder is None else run.folder.resolve().name
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def _of(heading: str, name: str) -> str:
    return f"{heading}: {name}" if name else heading


def _results(page: Page, runs: Sequence[FinishedRun], names: Sequence[str]) -> None:
    page.section("Result")
    if len(runs) > 1:
        metrics = list(dict.fromkeys(name for run in runs for name in run.metrics))
        rows = [
            (
                name,
                run.config["learner"],
                *(
                    None if metric not in run.metrics else metric_number(metric, run.metrics[metric])
                    for metric in metrics
                ),
                run.graph.cost.params,
                run.graph.cost.macs,
                len(run.graph.edges),
            )
            for run, name in zip(runs, names, strict=True)
        ]
        headings = ("run", "learner", *map(metric_heading, metrics), "parameters", "MACs", "edges")
        page.table(Table(headings, tuple(rows)))
    for run in runs:
        page.table(run.table())
    for run in runs:
        if run.per_class:
            columns = list(run.per_class[0])
            page.table(Table(tuple(columns), tuple(tuple(row[key] for key in columns) for row in run.per_class)))


def _training(page: Page, runs: Sequence[FinishedRun], names: Sequence[str]) -> None:
    from topolearn.page import Curve, curves

    epochs = [[record for record in run.history if record.get("phase") != "result"] for run in runs]
    keys = dict.fromkeys(
        key for records in epochs for record in records for key in record if key.startswith(("val_", "train_"))
    )
    if not keys:
        return
    page.section("Training", "Each point is an epoch. Dashed lines part the phases.")
    marks = _phases(epochs[0]) if len(runs) == 1 else {}
    losses = [key for key in keys if key.endswith("loss")]
    for label, chosen in (("loss", losses), *((key.removeprefix("val_"), [key]) for key in keys if key not in losses)):
        lines = []
        for key, (records, name) in itertools.product(chosen, zip(epochs, names, strict=True)):
            points = [(i + 1, record[key]) for i, record in enumerate(records) if isinstance(record.get(key), float)]
            what = "training" if key.startswith("train_") else "validation"
            title = [name] * (len(runs) > 1) + [what] * (len(chosen) > 1)
            if points:
                lines.append(Curve(", ".join(title) or what, *map(tuple, zip(*points, strict=True))))
        if lines:
            page.chart(curves(label, lines, marks=marks))


def _phases(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the name of each phase, and the place in front of its first epoch."""
    marks: dict[str, float] = {}
    for i, record in enumerate(records):
        marks.setdefault(str(record["phase"]).replace("_", " "), i + 0.5)
    return marks


def _learned(page: Page, run: FinishedRun, name: str) -> None:
    from topolearn.page import graph_view, movements

    page.section(
        _of("What was kept", name), "Drag to move, turn the wheel to zoom. The mouse shows what a node or an edge is."
    )
    page.chart(graph_view(run.graph, run.searched))
    if run.folder is None or not (run.folder / SEARCH_STATE).is_file():
        return
    learned = read_learned(run.folder)
    if learned.searched.candidates:
        page.section(_of("Value of every edge at the end of the search", name))
        page.svg(adjacency_svg(learned.searched, learned.values, learned.kept, learned.title))
    moved = read_movement(run.folder, learned.searched)
    if moved is None or len(moved[0]) < 2:
        return
    edges = [(edge.src, edge.dst) for edge in learned.searched.edges if edge.learnable]
    kept = [left for edge, left in zip(learned.searched.edges, learned.kept, strict=True) if edge.learnable]
    charts, left_out = movements(*moved, edges, kept)
    note = f" {left_out:,} nodes whose edges moved less are not shown." if left_out else ""
    page.section(
        _of("How the values moved", name),
        f"A chart for each node: a line is the value of an edge into it. Blue edges were kept.{note}",
    )
    page.chart(charts)


def _pruned(page: Page, run: FinishedRun, name: str) -> None:
    """Draw what pruning more and more edges costs, if that was measured."""
    from topolearn.page import Curve, curves

    if run.folder is None or not (run.folder / SWEEP).is_file():
        return
    metric = next((key for key in run.metrics if key != "loss"), "loss")
    points: dict[str, dict[float, list[float]]] = {}
    try:
        text = read_start(run.folder / SWEEP, MOST_TEXT).decode()
        for row in csv.DictReader(io.StringIO(text)):
            removed, value = 100 * float(row["removed"]), float(row[metric])
            points.setdefault(row["order"], {}).setdefault(removed, []).append(value)
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        raise CheckpointError(
            "cannot be read; make it again with topolearn prune --sweep", Location(str(run.folder / SWEEP))
        ) from None
    lines = [
        Curve(order, tuple(sorted(found)), tuple(statistics.fmean(found[share]) for share in sorted(found)))
        for order, found in points.items()
    ]
    if lines:
        page.section(_of("What pruning more edges costs", name), "A point is the searched network with fewer edges.")
        page.chart(curves(metric, lines, x_label="edges removed, %"))


def _differences(page: Page, runs: Sequence[FinishedRun], names: Sequence[str]) -> None:
    """Say which learnable edges some of the runs kept, and others did not."""
    kept = [_pairs(run.graph) for run in runs]
    decided = [{(edge.src, edge.dst) for edge in run.searched.edges if edge.learnable} for run in runs]
    common = set.intersection(*decided)
    page.section("Where the runs differ", "Among the learnable edges that all runs had.")
    if not common:
        page.text("They have no learnable edge in common.")
        return
    all_kept = {pair for pair in common if all(pair in each for each in kept)}
    none_kept = {pair for pair in common if not any(pair in each for each in kept)}
    differing = sorted(common - all_kept - none_kept)
    page.text(
        f"{len(all_kept):,} edges are kept by all, {len(none_kept):,} by none, {len(differing):,} by some of them."
    )
    if differing:
        rows = [(f"{src} → {dst}", *((src, dst) in each for each in kept)) for src, dst in differing[:MOST_EDGES]]
        left_out = len(differing) - len(rows)
        page.table(Table(("kept", *names), tuple(rows), note=f"… and {left_out:,} more" if left_out else None))


def _pairs(graph: Graph) -> set[tuple[str, str]]:
    return {(edge.src, edge.dst) for edge in graph.edges}
