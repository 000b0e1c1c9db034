"""Run recipes over several seeds and write the table of models/README.md.

python -m benchmarks.recipes [--seeds 0,1,2] [--jobs 2] [NAME …]
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

import topolearn
from benchmarks.machine import describe
from topolearn.report import Table
from topolearn.report.tables import Figure

MODELS = Path(__file__).resolve().parent.parent / "models"
START, END = "<!-- table: python -m benchmarks.recipes -->", "<!-- end of table -->"


def run(name: str, seed: int) -> topolearn.FitResult:
    """One recipe with one seed, on one thread: runs go side by side, one per core."""
    torch.set_num_threads(1)
    result = topolearn.fit(f"models/{name}.yaml", seed=seed, quiet=True)
    print(name, seed, result.metrics, flush=True)
    return result


def row(name: str, results: list[topolearn.FitResult]) -> tuple[object, ...]:
    """One recipe over all seeds."""
    accuracy = [100 * result.metrics["accuracy"] for result in results]
    spread = statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0
    searched = results[0].searched

    def mean(values: Iterable[int]) -> float:
        return statistics.mean(list(values))

    return (
        f"[{name}]({name}.yaml)",
        Figure(f"{statistics.mean(accuracy):.2f} ± {spread:.2f}"),
        Figure(f"{searched.cost.params:,} → {mean(r.graph.cost.params for r in results):,.0f}"),
        Figure(f"{searched.cost.macs / 1e6:.2f} → {mean(r.graph.cost.macs for r in results) / 1e6:.2f}"),
        Figure(f"{len(searched.edges)} → {mean(len(r.graph.edges) for r in results):.1f}"),
        Figure(f"{len(searched.nodes)} → {mean(len(r.graph.nodes) for r in results):.1f}"),
    )


def main() -> None:
    """Run the recipes and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=sorted(path.stem for path in MODELS.glob("digits-*.yaml")))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    seeds = [int(seed) for seed in args.seeds.split(",")]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        waiting = {name: [pool.submit(run, name, seed) for seed in seeds] for name in args.names}
        rows = tuple(row(name, [each.result() for each in futures]) for name, futures in waiting.items())
    table = Table(("recipe", "accuracy, %", "parameters", "million MACs", "edges", "nodes"), rows)
    note = (
        f"Accuracy on the 360 validation digits after the last epoch, mean ± standard deviation over seeds"
        f" {', '.join(map(str, seeds))}; searched graph → learned graph, means over seeds."
        f" One thread per run, on {describe(torch.device('cpu'))}."
    )
    text = f"{START}\n{table.markdown()}\n\n{note}\n{END}"
    print(text)
    readme = MODELS / "README.md"
    old = readme.read_text(encoding="utf-8")
    before, _, rest = old.partition(START)
    readme.write_text(before + text + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    main()
