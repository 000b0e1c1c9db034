"""``topolearn report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR…", help="The folders of finished runs.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page: NAME.html.")] = Path(
        "report.html"
    ),
) -> None:
    """Write a page about one run, or several side by side, that opens in any browser, without a network."""
    from topolearn.cli.common import say
    from topolearn.runs.report_page import write_report

    write_report(runs, output)
    say(f"{output}: open it in a browser")
