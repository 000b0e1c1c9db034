"""``topolearn report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR…", help="The folders of finished runs, or of a comparison.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The page: NAME.html.")] = Path(
        "report.html"
    ),
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="TOPOLEARN_DATA", help="Folder in which data sets are looked for, to show examples."),
    ] = None,
) -> None:
    """Write a page about a run, several side by side, or a comparison, that opens in any browser without a network."""
    from topolearn.cli.common import say
    from topolearn.errors import DataError, OptionError, tell
    from topolearn.prediction import run_samples
    from topolearn.runs.report_page import RunSample, write_report
    from topolearn.studies.compare_page import is_comparison, write_comparison

    def sample_of(folder: Path) -> RunSample | None:
        try:
            return run_samples(folder, data_root)
        except DataError as error:
            tell(f"no examples of {folder}: {error.message}")
            return None

    compared = [folder for folder in runs if is_comparison(folder)]
    if compared and len(runs) > 1:
        raise OptionError(f"{compared[0]} is the folder of a comparison, which has a page of its own; report it alone")
    if compared:
        write_comparison(compared[0], output)
    else:
        write_report(runs, output, sample_of)
    say(f"{output}: open it in a browser")
