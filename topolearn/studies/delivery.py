"""What a finished run amounts to: ONNX files, pictures, and the table before -> after."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from topolearn.drawing.matrix import adjacency
from topolearn.drawing.picture import draw
from topolearn.report.tables import Change, Table, compare, metric_spec
from topolearn.runs.learned import read_learned

if TYPE_CHECKING:
    from topolearn.graph import Graph
    from topolearn.graph.price import Spent
    from topolearn.onnx import ExportReport, Latency
    from topolearn.runs import FitResult

MODEL = "model.onnx"
PICTURE = "graph.svg"
MATRIX = "matrix.svg"

_ROUNDS, _CALLS = 5, 40
"""Rounds of timing, and calls per round."""


@dataclass(frozen=True)
class Times:
    """Latency in ONNX Runtime.

    Attributes:
        before: Of the searched graph with all its edges.
        after: Of the learned network.
    """

    before: Latency
    after: Latency


@dataclass(frozen=True)
class Delivery:
    """What was made of a run.

    Attributes:
        export: The exported file of the learned network.
        picture: The drawing of the learned graph.
        matrix: The learner's values of all learnable edges; None for a run that searched nothing.
        times: Latency before and after.
    """

    export: ExportReport
    picture: Path
    matrix: Path | None
    times: Times


def deliver(result: FitResult, folder: Path, *, provider: str = "cpu", batch: int = 1) -> Delivery:
    """Export the learned network, check and time it, and draw what it learned.

    Args:
        result: A finished run.
        folder: The folder of the run, where ``model.onnx``, ``graph.svg`` and ``matrix.svg`` go.
        provider: Execution provider.
        batch: Inputs per call of the timing.
    """
    from topolearn.onnx import export_onnx, usual_axes

    export = export_onnx(result.model, folder / MODEL, dynamic=usual_axes(result.graph), provider=provider)
    picture, matrix = draw_run(result, folder)
    times = time_run(result, provider=provider, batch=batch, model=export.path)
    return Delivery(export, picture, matrix, times)


def draw_run(result: FitResult, folder: Path) -> tuple[Path, Path | None]:
    """Draw ``graph.svg`` and, of a run that searched, ``matrix.svg`` into its folder."""
    from topolearn.runs.folder import SEARCH_STATE

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
) -> Times:
    """Time the searched graph, every edge in place, and the learned network in ONNX Runtime.

    Both are exported in the same way, and take turns, so that a busy machine slows both.

    Args:
        result: A finished run.
        provider: Execution provider.
        batch: Inputs per call.
        output: What the files give: see :func:`topolearn.export_onnx`.
        model: The learned network's file; exported anew where not given.
    """
    from topolearn.compiler import compile as build
    from topolearn.onnx import export_onnx, latency, open_session

    whole = build(result.searched).eval()
    rounds: list[tuple[Latency, Latency]] = []
    with tempfile.TemporaryDirectory() as temporary:
        options: dict[str, Any] = {"output": output, "provider": provider, "check": False}
        full = export_onnx(whole, Path(temporary) / "before.onnx", **options).path
        if model is None:
            model = export_onnx(result.model, Path(temporary) / MODEL, **options).path
        before, after = open_session(full, provider), open_session(model, provider)
        feeds = _feeds(result.searched, batch), _feeds(result.graph, batch)
        for _ in range(_ROUNDS):
            rounds.append((latency(before, feeds[0], runs=_CALLS), latency(after, feeds[1], runs=_CALLS)))
    # The median round: one round may meet another program's burst.
    middle = [sorted(each, key=lambda one: one.p50)[_ROUNDS // 2] for each in zip(*rounds, strict=True)]
    return Times(*middle)


def _feeds(graph: Graph, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    from topolearn.onnx import examples

    return {name: x.numpy() for name, x in zip(graph.inputs, examples(graph, batch), strict=True)}


def comparison(result: FitResult, delivery: Delivery | None = None, times: Times | None = None) -> Table:
    """The closing table: metrics, parameters, MACs, edges, nodes and latency, before and after."""
    was, now = result.searched.cost, result.graph.cost
    changes = [
        Change(name, result.searched_metrics.get(name), value, metric_spec(name))
        for name, value in result.metrics.items()
        if name != "loss"
    ]
    changes += [
        Change("parameters", was.params, now.params),
        Change("parameters, one-level rule", was.params, result.one_level_params),
        Change("MACs", was.macs, now.macs),
        Change("edges", len(result.searched.edges), len(result.graph.edges)),
        Change("nodes", len(result.searched.nodes), len(result.graph.nodes)),
    ]
    if result.spent is not None:
        changes += _budget(result.spent)
    times = delivery.times if delivery is not None else times
    if times is not None:
        name = f"ONNX Runtime, batch {times.after.batch}, median"
        changes.append(Change(name, times.before.p50, times.after.p50, ".3f", " ms"))
    return compare(changes, title=f"{result.searched.name}: {result.config['learner']}")


def _budget(spent: Spent) -> list[Change]:
    """What a budget allowed; and what was reached, where the table does not say so anyhow."""
    if spent.kind == "macs":
        return [Change("MACs, budget", round(spent.full), round(spent.allowed))]
    return [
        Change("measured node by node", spent.full, spent.reached, ".3f", " ms"),
        Change("measured node by node, budget", spent.full, spent.allowed, ".3f", " ms"),
    ]
