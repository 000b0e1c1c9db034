"""Write finished runs as rows of a results file, from which ``benchmarks.tables`` makes the tables.

    python -m benchmarks.results runs/digits -o results/digits.csv [--set KEY=VALUE …] [--jobs N]

Takes the folder of a ``topolearn compare``. Run it on the machine that made the runs, with the same ``--set``
(``--epochs N`` is ``--set epochs=N``) and ``--jobs``. Every run is checked against its recipe. If the file has a row of
the same run, it is replaced. The other rows stay.
"""

from __future__ import annotations

import argparse
import csv
import io
import platform
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import place
from topolearn import __version__
from topolearn.device import find_device
from topolearn.errors import TopolearnError
from topolearn.files import make_folder, write_atomically
from topolearn.recipes import Recipe, load_recipe
from topolearn.runs.config import read_config
from topolearn.runs.folder import CONFIG, WEIGHTS, is_finished
from topolearn.runs.history import read_closing
from topolearn.runs.same_run import holds_this_run
from topolearn.studies.comparison import RunSummary

FOLDER = Path(__file__).resolve().parent.parent / "results"
PAPERS = "papers.csv"

Record = dict[str, str]
"""A row of a results file: column -> text, empty if unknown.

A row of one run has one seed in ``seeds``. With several seeds, separated by spaces, the row is a summary of as many
runs: its figures are means, and ``NAME_deviation`` is the sample standard deviation of NAME. ``seeds`` is empty for
figures that do not depend on a seed, such as the time of a step.
"""

FIRST = ("recipe", "variant", "seeds")
KINDS = ("parameters", "macs", "edges", "nodes")
SIZES = tuple(f"{kind}_{graph}" for kind in KINDS for graph in ("searched", "learned"))
LAST = (*SIZES, "seconds", "data", "data_hash", "topolearn", "torch", "python", "machine", "threads", "date")
"""The last columns. The metrics stand between these and the first ones, sorted by name."""


# -- files ---------------------------------------------------------------------------------------


def read_file(path: Path, needed: Sequence[str] = FIRST) -> list[Record]:
    """Read the rows of a CSV file; an empty list if there is no such file.

    Raises:
        TopolearnError: A column is missing, or a row has more or fewer cells than there are columns.
    """
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    headings = lines[0] if lines else []
    for name in needed:
        if name not in headings:
            raise TopolearnError(f"{path}: has no column '{name}', which every results file has")
    for number, line in enumerate(lines, 1):
        if len(line) != len(headings):
            raise TopolearnError(f"{path}: row {number} has {len(line)} cells under {len(headings)} headings")
    return [dict(zip(headings, line, strict=True)) for line in lines[1:]]


def written(records: Sequence[Record]) -> bytes:
    """Return the content of a results file, sorted by recipe, variant and seed, with the columns that any row fills."""
    filled = {name for record in records for name, text in record.items() if text}
    metrics = sorted(filled - {*FIRST, *LAST})
    columns = [*FIRST, *metrics, *(name for name in LAST if name in filled)]
    rows = sorted(records, key=lambda record: (record["recipe"], record["variant"], seeds_of(record)))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def extended(old: Iterable[Record], new: Iterable[Record]) -> list[Record]:
    """Add rows; a new row replaces the row of the same run, and a summary of the same recipe and variant."""
    rows = {tuple(record[name] for name in FIRST): record for record in new}
    measured = {key[:2] for key in rows}
    for record in old:
        key = tuple(record[name] for name in FIRST)
        if len(seeds_of(record)) < 2 or key[:2] not in measured:
            rows.setdefault(key, record)
    return list(rows.values())


def extend_file(path: Path, new: Sequence[Record]) -> None:
    """Add rows to a results file; make the file if there is none.

    Raises:
        TopolearnError: The file cannot be read or written.
    """
    make_folder(path.parent)
    write_atomically(path, written(extended(read_file(path), new)))


def seeds_of(record: Record) -> tuple[int, ...]:
    """Return the seeds of the runs that a row stands for."""
    try:
        return tuple(map(int, record["seeds"].split()))
    except ValueError:
        raise TopolearnError(
            f"results of {record['recipe']}: the seeds are '{record['seeds']}'; write '0 1 2'"
        ) from None


# -- what they say -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """What was measured for a recipe, or for a variant of it.

    Attributes:
        records: One row per run, or a summary; empty for a recipe that has not been run.
    """

    records: tuple[Record, ...] = ()

    def seeds(self, key: str) -> tuple[int, ...]:
        """Return the seeds for which a figure is known."""
        return tuple(sorted(seed for record in self.records if record.get(key) for seed in seeds_of(record)))

    def mean(self, key: str) -> float | None:
        """Return the mean of a figure over seeds; None if it is unknown."""
        values = self._values(key)
        return statistics.mean(values) if values else None

    def deviation(self, key: str) -> float | None:
        """Return the sample standard deviation of a figure over seeds; None for one seed, or if it is unknown."""
        values = self._values(key)
        return statistics.stdev(values) if len(values) > 1 else next(iter(self._values(f"{key}_deviation")), None)

    def by_seed(self, key: str) -> dict[int, float]:
        """Return seed -> figure, without summaries."""
        runs = [record for record in self.records if len(seeds_of(record)) == 1 and record.get(key)]
        return {seeds_of(record)[0]: _number(record, key) for record in runs}

    def texts(self, key: str) -> list[str]:
        """Return the texts of a column, each once."""
        return list(dict.fromkeys(record[key] for record in self.records if record.get(key)))

    def _values(self, key: str) -> list[float]:
        return [_number(record, key) for record in self.records if record.get(key)]


def _number(record: Record, key: str) -> float:
    try:
        return float(record[key])
    except ValueError:
        raise TopolearnError(f"results of {record['recipe']}: '{key}' is '{record[key]}', not a number") from None


class Results:
    """The content of all results files, and what the papers report."""

    def __init__(self, records: Iterable[Record], papers: Iterable[Record] = ()) -> None:
        found: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            found.setdefault((record["recipe"], record["variant"]), []).append(record)
        for (recipe, variant), rows in found.items():
            seeds = [seed for record in rows for seed in seeds_of(record)]
            if len(set(seeds)) < len(seeds):
                name = f"{recipe} {variant}".rstrip()
                raise TopolearnError(f"results have a seed of '{name}' twice; keep one row of each seed")
        self._measured = {key: Measured(tuple(rows)) for key, rows in found.items()}
        self._papers = {(each["recipe"], each["variant"], each["metric"]): each for each in papers}

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Results:
        """Read the results files of a folder.

        Raises:
            TopolearnError: A file is damaged, or a run is in two files.
        """
        files = sorted(path for path in folder.glob("*.csv") if path.name != PAPERS)
        papers = read_file(folder / PAPERS, ("recipe", "variant", "metric", "value", "deviation"))
        return cls((record for path in files for record in read_file(path)), papers)

    def of(self, recipe: str, variant: str = "") -> Measured:
        """Return what was measured for a recipe with the settings of a variant."""
        return self._measured.get((recipe, variant), Measured())

    def paper(self, recipe: str, variant: str, metric: str) -> Record | None:
        """Return what a paper reports: ``value``, and ``deviation`` or an empty text there; None for nothing."""
        return self._papers.get((recipe, variant, metric))


# -- runs ----------------------------------------------------------------------------------------


def environment(jobs: int = 1) -> Record:
    """Return the versions and the machine that this process runs on."""
    return {
        "topolearn": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": place(find_device("auto")),
        "threads": str(max(1, torch.get_num_threads() // jobs)),  # as `topolearn compare` divides them
    }


def ended(run: Path) -> date:
    """Return the day (UTC) on which a run wrote its last file."""
    return datetime.fromtimestamp((run / WEIGHTS).stat().st_mtime, UTC).date()


def split(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the run folders of a comparison: the finished ones, and the others.

    Raises:
        TopolearnError: There is no run.
    """
    folders = sorted(path.parent for path in folder.glob(f"*/**/seed-*/{CONFIG}"))
    if not folders:
        raise TopolearnError(f"no run in {folder}; name the folder that 'topolearn compare --out' was given")
    finished = [run for run in folders if is_finished(run)]
    return finished, [run for run in folders if run not in finished]


def read_run(run: Path, folder: Path, settings: Mapping[str, str], jobs: int = 1) -> Record:
    """Return a finished run as a row.

    Args:
        run: The run's folder below ``folder``: ``NAME/seed-S``, or ``NAME/KEY=VALUE/seed-S`` for a variant.
        folder: The comparison's folder.
        settings: The ``--set`` of the comparison.
        jobs: How many runs the comparison ran at a time.

    Raises:
        TopolearnError: The run is not what the recipe and the settings say.
    """
    name, *varied, last = run.relative_to(folder).parts
    seed = int(last.removeprefix("seed-"))
    own = {key: value for text in varied for key, _, value in (item.partition("=") for item in text.split(","))}
    changed = {**settings, **own}
    config = read_config(run / CONFIG)
    _check(run, name, changed, seed, config)
    summary = RunSummary.read(run, seed)
    _, closing = read_closing(run)
    values: dict[str, Any] = {
        "recipe": name,
        "variant": " ".join(f"{key}={text}" for key, text in sorted(changed.items())),
        "seeds": seed,
        **closing["metrics"],
        **{f"{kind}_searched": value for kind, value in vars(summary.searched).items()},
        **{f"{kind}_learned": value for kind, value in vars(summary.learned).items()},
        "seconds": round(summary.seconds, 1),
        "date": ended(run),
        **{key: config[key] for key in ("data", "topolearn", "torch", "python") if key in config},
        **({"data_hash": config["content"]["sha256"]} if "sha256" in config.get("content", {}) else {}),
    }
    return {**environment(jobs), **{key: str(value) for key, value in values.items()}}


def _check(run: Path, name: str, settings: Mapping[str, str], seed: int, config: Mapping[str, Any]) -> None:
    """Raise unless a run is the recipe with these settings; the data are not compared."""
    try:
        recipe = Recipe.of(load_recipe(f"models/{name}.yaml", settings), seed=seed)
        learner = recipe.make_learner()
        asked = {
            **config,
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "lr": recipe.lr,
            "precision": config["precision"] if recipe.precision == "auto" else recipe.precision,
            "learner": learner.learner_name,
            "learner_options": learner.options.model_dump(),
            "training": recipe.training.model_dump(),
        }
        holds_this_run(run, recipe.graph, asked, learner, resume=True)
    except TopolearnError as error:
        raise TopolearnError(
            f"{run} is not a run of models/{name}.yaml as it is now; give --set as 'topolearn compare' was given it"
            f" ({error.message})"
        ) from None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which runs to read, and where to write their rows."""
    parser.add_argument("runs", type=Path, help="folder of a comparison")
    parser.add_argument("-o", "--out", type=Path, required=True, help="results file")
    parser.add_argument("--set", action="append", default=[], type=_setting, help="KEY=VALUE, as in the comparison")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs the comparison ran at a time")


def _setting(text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' has no value; write KEY=VALUE")
    return key, value


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    args = parser.parse_args(arguments)
    try:
        finished, others = split(args.runs)
        extend_file(args.out, [read_run(run, args.runs, dict(args.set), args.jobs) for run in finished])
    except TopolearnError as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: {len(finished)} runs, made on {environment()['machine']}; {len(others)} are not finished")


if __name__ == "__main__":
    main()
