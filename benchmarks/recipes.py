"""Compare the digits recipes over several seeds, and write the table of models/README.md.

python -m benchmarks.recipes [--seeds 0,1,2] [--out runs/recipes] [NAME …]
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

import topolearn
from benchmarks.machine import describe

MODELS = Path(__file__).resolve().parent.parent / "models"
START, END = "<!-- table: python -m benchmarks.recipes -->", "<!-- end of table -->"
COLUMNS = ("recipe", "metrics", "parameters", "million MACs", "edges", "nodes")


def block(comparison: topolearn.Comparison, machine: str) -> str:
    """The table, each recipe a link to its file, between the marks of the README."""
    table = comparison.table(COLUMNS)
    rows = tuple((f"[{name}]({name}.yaml)", *rest) for name, *rest in table.rows)
    note = (
        f"Accuracy on the 360 validation digits after the last epoch, mean ± standard deviation over seeds"
        f" {', '.join(map(str, comparison.seeds))}; searched graph → learned graph, means over seeds."
        f" {machine}."
    )
    return f"{START}\n{replace(table, rows=rows, note=None).markdown()}\n\n{note}\n{END}"


def replaced(readme: str, text: str) -> str:
    """The README with ``text`` in place of its table."""
    before, _, rest = readme.partition(START)
    return before + text + rest.partition(END)[2]


def main() -> None:
    """Run the recipes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=sorted(path.stem for path in MODELS.glob("digits-*.yaml")))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", default="runs/recipes", help="Folder of the runs; finished ones are not run again.")
    args = parser.parse_args()
    comparison = topolearn.compare(
        [MODELS / f"{name}.yaml" for name in args.names],
        seeds=[int(seed) for seed in args.seeds.split(",")],
        out=args.out,
        jobs=os.cpu_count(),  # and so one thread for each
        device="cpu",
    )
    if comparison.failures:
        sys.exit("\n".join(map(str, comparison.failures)))
    text = block(comparison, f"One thread per run, on {describe(torch.device('cpu'))}")
    print(text)
    readme = MODELS / "README.md"
    readme.write_text(replaced(readme.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
