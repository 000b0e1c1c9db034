"""A page about a comparison: its table, and a dot for each run."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

from topolearn.errors import CheckpointError, Location
from topolearn.files import read_start
from topolearn.report.tables import NumberText, Table, metric_heading
from topolearn.studies.comparison import CSV, mean_and_deviation

MOST_TEXT = 2**22
"""Largest number of bytes that are read of a table."""
_SIZES = {"parameters": (1, ",.0f"), "macs": (1e6, ",.2f"), "edges": (1, ",.1f"), "nodes": (1, ",.1f")}
_HEADINGS = {"macs": "million MACs"}


def is_comparison(folder: Path) -> bool:
    """Whether a folder is that of a comparison."""
    return (folder / CSV).is_file()


def write_comparison(folder: Path, path: Path) -> None:
    """Write a page of HTML about a comparison. It opens without a network.

    Args:
        folder: Folder of the comparison, with its table.
        path: The file, with the ending .html; written whole or not at all.

    Raises:
        CheckpointError: The table cannot be read.
        OptionError: Another ending, or Bokeh is not installed.
        TopolearnError: The file cannot be written.
    """
    from topolearn.page import Page, dots, needs_bokeh

    needs_bokeh(path)
    rows = _read(folder / CSV)
    metrics = list(
        dict.fromkeys(match[1] for row in rows for key in row if (match := re.fullmatch(r"(.+)_seed_\d+", key)))
    )
    found = {metric: {row["recipe"]: _by_seed(row, metric, folder) for row in rows} for metric in metrics}
    page = Page(folder.resolve().name)
    page.section("Result", "Metrics of the pruned networks: mean ± sample standard deviation over seeds.")
    headings = ("recipe", *map(metric_heading, metrics), "runs", *(_HEADINGS.get(kind, kind) for kind in _SIZES))
    page.table(
        Table(
            headings,
            tuple(
                (
                    row["recipe"],
                    *(mean_and_deviation(metric, list(found[metric][row["recipe"]].values())) for metric in metrics),
                    NumberText(row.get("runs", "")),
                    *(_size(row, kind, folder) for kind in _SIZES),
                )
                for row in rows
            ),
        )
    )
    page.section("Runs", "A dot is a run, a line the mean, a bar one sample standard deviation to each side.")
    for metric in metrics:
        page.chart(dots(metric, found[metric]))
    page.write(path)


def _read(path: Path) -> list[dict[str, str]]:
    """Return the rows of the table: column -> text."""
    try:
        text = read_start(path, MOST_TEXT).decode()
        rows = [{str(key): value or "" for key, value in row.items()} for row in csv.DictReader(io.StringIO(text))]
    except (OSError, ValueError, csv.Error):
        rows = []
    names = [row.get("recipe") for row in rows]
    if not rows or None in names or len(set(names)) < len(names):
        raise CheckpointError("is not the table of a comparison; compare again to make it", Location(str(path)))
    return rows


def _by_seed(row: Mapping[str, str], metric: str, folder: Path) -> dict[int, float]:
    """Return seed -> value of a metric."""
    keys = {key: re.fullmatch(re.escape(metric) + r"_seed_(\d+)", key) for key in row}
    return {int(match[1]): _number(row[key], folder) for key, match in keys.items() if match and row[key]}


def _size(row: Mapping[str, str], kind: str, folder: Path) -> NumberText | None:
    """Return the size of the searched and of the learned graph, as text."""
    unit, spec = _SIZES[kind]
    sizes = [row.get(f"{kind}_{graph}", "") for graph in ("searched", "learned")]
    if not all(sizes):
        return None
    return NumberText(" → ".join(f"{_number(size, folder) / unit:{spec}}" for size in sizes))


def _number(text: str, folder: Path) -> float:
    try:
        return float(text)
    except ValueError:
        raise CheckpointError(
            "is not the table of a comparison; compare again to make it", Location(str(folder / CSV))
        ) from None
