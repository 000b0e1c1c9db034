"""Decoders that were trained side by side: how good, how large, how fast in ONNX Runtime.

    python -m benchmarks.decoders runs/camvid [--rounds 15] [--threads 2]

Takes the folder of a ``topolearn compare`` of segmentation recipes. Every run's network is exported and timed on one
image of the graph's size; the networks take turns. Prints mIoU, edges of the decoder, its parameters and
multiply-accumulates, those of the backbone aside, and the median time, as means over seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

import topolearn
from benchmarks.machine import describe, median_times
from topolearn.onnx import export_onnx, open_session
from topolearn.ops.edges import ConvResize
from topolearn.report import facts
from topolearn.runs import FitResult, read_result
from topolearn.studies.comparison import mean_and_deviation


@dataclass(frozen=True)
class Measured:
    """A trained network in numbers.

    Attributes:
        miou: On the data that judged it.
        edges: Between features and stages.
        params: Of all but the backbone.
        macs: Multiply-accumulates of the same, for one image.
    """

    miou: float
    edges: int
    params: int
    macs: int

    @classmethod
    def of(cls, result: FitResult) -> Measured:
        """The numbers of a finished run."""
        known = facts(result.graph)
        return cls(
            result.metrics["miou"],
            sum(edge.op == ConvResize.op_name for edge in result.graph.edges),
            known["decoder_params"],
            known["decoder_macs"],
        )


def forward(result: FitResult, folder: Path, threads: int) -> Callable[[], object]:
    """A call of the exported network on one image."""
    path = export_onnx(result.model, folder / "model.onnx", check=False).path
    session = open_session(path, "cpu", threads)
    generator = np.random.default_rng(0)
    feeds: dict[str, Any] = {
        name: generator.standard_normal((1, *result.graph.input_size(name))).astype(np.float32)
        for name in result.graph.inputs
    }
    return lambda: session.run(None, feeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="Folder of a comparison: NAME/seed-N.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    folders: dict[str, list[Path]] = defaultdict(list)
    for graph in sorted(args.runs.glob("**/seed-*/graph.yaml")):
        folders[str(graph.parent.parent.relative_to(args.runs))].append(graph.parent)
    if not folders:
        sys.exit(f"no finished run in {args.runs}; name the folder that 'topolearn compare --out' was given")
    measured: dict[str, list[Measured]] = {}
    steps: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, runs in folders.items():
            results = [read_result(run) for run in runs]
            measured[name] = [Measured.of(result) for result in results]
            for run, result in zip(runs, results, strict=True):
                steps[str(run)] = forward(result, Path(temporary), args.threads)
        times = median_times(steps, torch.device("cpu"), args.rounds)
    print(
        f"one image, {args.threads} threads in ONNX Runtime; {describe(torch.device('cpu'))}; topolearn "
        f"{topolearn.__version__}; median of {args.rounds} rounds, means over seeds"
    )
    print()
    print("| recipe | mIoU, % | decoder edges | decoder parameters | decoder, million MACs | image, ms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, rows in measured.items():
        print(
            f"| {name} | {mean_and_deviation([row.miou for row in rows])} | {mean([row.edges for row in rows]):.1f}"
            f" | {mean([row.params for row in rows]):,.0f} | {mean([row.macs / 1e6 for row in rows]):,.1f}"
            f" | {mean([1e3 * times[str(run)] for run in folders[name]]):.1f} |"
        )


if __name__ == "__main__":
    main()
