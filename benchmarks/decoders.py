"""Measure trained decoders: how good, how large, how fast in ONNX Runtime.

    python -m benchmarks.decoders runs/camvid -o results/camvid.csv [--jobs 2] [--rounds 15] [--threads 2]

Takes the folder of a ``topolearn compare`` of segmentation recipes. Every run's network is exported and timed on one
image of the graph's size. The networks take turns. Adds rows to a results file as ``benchmarks.results`` does. In
addition, a row has the edges, parameters and multiply-accumulates of the decoder, without the backbone, and the median
time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe, times_by_round
from benchmarks.results import Record, add_options, extend_file, read_run, split
from topolearn.errors import TopolearnError
from topolearn.graph import Graph
from topolearn.onnx import export_onnx, open_session
from topolearn.ops.edges import ConvResize
from topolearn.report import facts
from topolearn.runs import FitResult, read_result


def decoder(graph: Graph) -> Record:
    """Return the size of all but the backbone, and the number of edges between features and stages."""
    known = facts(graph)
    return {
        "decoder_edges": str(sum(edge.op == ConvResize.op_name for edge in graph.edges)),
        "decoder_parameters": str(known["decoder_params"]),
        "decoder_macs": str(known["decoder_macs"]),
    }


def forward(result: FitResult, folder: Path, threads: int) -> Callable[[], object]:
    """Export a network, and return a function that runs it on one image."""
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
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="threads of ONNX Runtime")
    args = parser.parse_args()
    try:
        finished, others = split(args.runs)
        rows = {str(run): read_run(run, args.runs, dict(args.set), args.jobs) for run in finished}
        steps: dict[str, Callable[[], object]] = {}
        with tempfile.TemporaryDirectory() as temporary:
            for name, row in rows.items():
                result = read_result(name)
                row |= decoder(result.graph)
                steps[name] = forward(result, Path(temporary), args.threads)
            times = times_by_round(steps, torch.device("cpu"), args.rounds)
        machine = f"{args.threads} threads in ONNX Runtime; {describe(torch.device('cpu'))}"
        for name, row in rows.items():
            row |= {"image_ms": f"{1e3 * statistics.median(times[name]):.2f}", "image_machine": machine}
        extend_file(args.out, list(rows.values()))
    except TopolearnError as error:
        sys.exit(f"error: {error}")
    print(f"{args.out}: {len(finished)} runs; {len(others)} are not finished")


if __name__ == "__main__":
    main()
