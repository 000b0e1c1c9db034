"""Helpers shared by the commands: read their arguments, print tables and errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topolearn.errors import CheckpointError, OptionError, printable, tell

if TYPE_CHECKING:
    from topolearn.graph import Graph
    from topolearn.report.tables import Table


GraphName = Annotated[str, typer.Argument(metavar="GRAPH", help="A YAML file, or the name of a shipped graph.")]


Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the file, such as nodes.head.classes=10."),
]


FAILED = 2
"""Exit status after a user's error."""


def load(name: str, settings: dict[str, str]) -> tuple[Graph, Graph | None]:
    """Load the graph that ``name`` means and, if it is the folder of a run, the searched graph too."""
    from topolearn.format import load_graph

    folder = Path(name)
    if is_run(name):
        search = folder / "search.yaml"
        searched = load_graph(search) if search.is_file() else None
        return load_graph(folder / "graph.yaml", settings), searched
    if os.path.isfile(folder / "config.yaml"):
        raise CheckpointError(f"the run in {folder} is not finished; go on with --resume")
    return load_graph(name, settings), None


def is_run(name: str) -> bool:
    """Whether ``name`` is the folder of a finished run, with a learned graph."""
    return os.path.isfile(Path(name) / "graph.yaml")


def overrides(
    settings: list[str] | None, option: str = "--set", example: str = "nodes.head.classes=10"
) -> dict[str, str]:
    """Return ``KEY=VALUE`` options as a mapping; an error shows an example."""
    found = {}
    for text in settings or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise OptionError(f"{option} {text}: write it as KEY=VALUE, such as {example}")
        found[key] = value
    return found


def sides(size: str) -> tuple[int, int]:
    """Return height and width from ``--size 32`` or ``--size 32,64``."""
    given = size.split(",")
    if len(given) > 2 or not all(side.strip().isdecimal() for side in given):
        raise OptionError(f"--size {size}: write a number of pixels, or height and width, such as 224 or 192,256")
    numbers = [int(side) for side in given]
    return numbers[0], numbers[-1]


def print_table(table: Table) -> None:
    """Print a table: with lines on a terminal, in plain columns elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(table.rich())
    else:
        print(table.plain())


def say(text: str, kept: str = "") -> None:
    """Print a line that contains names from outside to stdout, without terminal control characters.

    Args:
        text: The line.
        kept: Control characters to keep: line breaks, if there are several lines.
    """
    print(printable(text, kept), flush=True)


def complain(message: str) -> None:
    """Print an error as one line on stderr."""
    tell(f"error: {' '.join(message.split())}")
