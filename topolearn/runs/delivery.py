"""Deliver a finished run: export to ONNX, draw pictures, measure latency."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topolearn.drawing.matrix import adjacency
from topolearn.drawing.picture import draw
from topolearn.runs.folder import SEARCH_STATE
from topolearn.runs.learned import read_learned

if TYPE_CHECKING:
    from topolearn.graph import Graph
    from topolearn.onnx import ExportReport, Latency
    from topolearn.runs.result import FitResult

MODEL = "model.onnx"
PICTURE = "graph.svg"
MATRIX = "matrix.svg"


def deliver(result: FitResult, folder: Path) -> ExportReport:
    """Export the learned network, compare the file with PyTorch, and draw the learned graph.

    Args:
        result: A finished run.
        folder: The folder of the run; ``model.onnx``, ``graph.svg`` and ``matrix.svg`` are written there.

    Raises:
        ExportError: The network cannot be exported; the pictures are written anyway.
    """
    from topolearn.onnx import ExportReport

    draw_run(result, folder)
    report = result.export(folder / MODEL)
    assert isinstance(report, ExportReport)
    return report


def draw_run(result: FitResult, folder: Path) -> tuple[Path, Path | None]:
    """Draw ``graph.svg`` and, if the run searched, ``matrix.svg`` to its folder."""
    draw(result.graph, folder / PICTURE, searched=result.searched)
    if not (folder / SEARCH_STATE).is_file():
        return folder / PICTURE, None
    learned = read_learned(folder)
    adjacency(learned.searched, folder / MATRIX, learned.values, learned.kept, learned.title)
    return folder / PICTURE, folder / MATRIX


def time_run(
    result: FitResult,
    *,
    provider: str = "cpu",
    batch: int = 1,
    output: str = "logits",
    model: Path | None = None,
) -> tuple[Latency, Latency]:
    """Time the searched graph with all its edges and the learned network, in ONNX Runtime.

    Both are exported in the same way and run alternately, so that a busy machine slows both.

    Args:
        result: A finished run.
        provider: Execution provider.
        batch: Inputs per call.
        output: Output of the files: see :func:`topolearn.export_onnx`.
        model: ONNX file of the learned network; None to export it here.
    """
    from topolearn.compiler import compile as build
    from topolearn.onnx import export_onnx, latencies, open_session

    whole = build(result.searched).eval()
    with tempfile.TemporaryDirectory() as temporary:
        options: dict[str, Any] = {"output": output, "provider": provider, "check": False}
        full = export_onnx(whole, Path(temporary) / "before.onnx", **options).path
        if model is None:
            model = export_onnx(result.model, Path(temporary) / MODEL, **options).path
        given = open_session(full, provider), _feeds(result.searched, batch)
        final = open_session(model, provider), _feeds(result.graph, batch)
        before, after = latencies([given, final])
        return before, after


def _feeds(graph: Graph, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    from topolearn.onnx import examples

    return {name: x.numpy() for name, x in zip(graph.inputs, examples(graph, batch), strict=True)}
