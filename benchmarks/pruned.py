"""Prune finished searches without training, and add the results to a results file.

    python -m benchmarks.pruned runs/depth gpt12x64-bytes-learned keep 2 3 4 -o results/depth.csv

Takes the finished runs of one recipe in the folder of a ``topolearn compare``. Each network is taken as it was at the
end of its search, pruned with every given value of a learner's option (as ``topolearn prune RUN --set keep=3`` does),
and measured. The variant of a row is ``pruned keep=3``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.results import Record, extend_file, read_run
from topolearn.errors import TopolearnError
from topolearn.runs.folder import is_finished
from topolearn.studies.comparison import RunSummary
from topolearn.studies.reprune import reprune


def row(run: Path, folder: Path, setting: tuple[str, str], data_root: Path | None) -> Record:
    """Prune a run in one way and return its row; the training time is the run's own."""
    option, value = setting
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "pruned"
        result = reprune(run, target, {option: value}, data_root)
        size = RunSummary.read(target, 0).learned
    changed = {**result.metrics, **{f"{kind}_learned": number for kind, number in vars(size).items()}}
    own = {"variant": f"pruned {option}={value}", **{name: str(number) for name, number in changed.items()}}
    return {**read_run(run, folder, {}), **own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of a comparison")
    parser.add_argument("recipe", help="name of the recipe whose runs are pruned")
    parser.add_argument("option", help="option of its learner")
    parser.add_argument("values", nargs="+", help="values of the option")
    parser.add_argument("-o", "--out", type=Path, required=True, help="results file")
    parser.add_argument("--data-root", type=Path, help="folder to search first for the data set")
    args = parser.parse_args()
    try:
        for run in sorted((args.runs / args.recipe).glob("seed-*")):
            if is_finished(run):
                for value in args.values:
                    extend_file(args.out, [row(run, args.runs, (args.option, value), args.data_root)])
                    print(f"{run}: {args.option}={value}", flush=True)
    except TopolearnError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
