"""The result of ``fit``: learned graph, trained network, metrics, history."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.compiler import Network
from topolearn.files import make_folder, write_atomically
from topolearn.format import dumps
from topolearn.runs.config import write_config
from topolearn.runs.exports import export
from topolearn.runs.finished import FinishedRun, read_finished
from topolearn.runs.folder import CLASSES, CONFIG, GRAPH, SEARCHED, WEIGHTS
from topolearn.runs.history import write_history
from topolearn.runs.tensor_files import save_tensors
from topolearn.runs.trained import load_model

if TYPE_CHECKING:
    from topolearn.learners import EdgeLearner
    from topolearn.onnx import ExportReport
    from topolearn.pytorch import PyTorchReport
    from topolearn.runs.report_page import RunSample


@dataclass(repr=False, kw_only=True)
class FitResult(FinishedRun):
    """The result of a run: what it says of itself, and its network; it prints as the closing table.

    Attributes:
        model: The trained network of the learned graph, in eval mode.
        learner: The learner at the end; None if the run was read from its folder.
        exported: Report of the ONNX file that was just written to ``folder``; None if none was.
    """

    model: Network
    learner: EdgeLearner | None
    exported: ExportReport | None = None

    def report(self, path: str | Path, sample_of: Callable[[Path], RunSample | None] | None = None) -> None:
        """Write a page of HTML about the run, which opens in any browser, without a network.

        How the values moved during the search is in it if the run has a folder.

        Args:
            path: The file, with the ending .html.
            sample_of: ``topolearn.prediction.run_samples``, to show examples too.

        Raises:
            TopolearnError: The file cannot be written, or Bokeh is not installed.
        """
        from topolearn.runs.report_page import write_report

        write_report([self], path, sample_of)

    def export(self, path: str | Path, format: str | None = None, **options: Any) -> ExportReport | PyTorchReport:
        """Export the learned network, and compare the file with it.

        Args:
            path: The file; it appears whole, and only if the check passes.
            format: ``onnx``; ``pt2``, an archive of torch.export; or ``torch``, a Python file with its weights beside
                it. Default: by the file's suffix, .onnx, .pt2 or .py.
            options: As in :func:`topolearn.export_onnx`, :func:`topolearn.export_pt2` or
                :func:`topolearn.export_torch`; the default of ``dynamic`` depends on the task.
        """
        return export(self.model, path, format, **options)

    def save(self, folder: str | Path) -> None:
        """Write the run's files: search.yaml, graph.yaml, weights.safetensors, history.jsonl, config.yaml."""
        target = Path(folder)
        make_folder(target)
        write_atomically(target / SEARCHED, dumps(self.searched).encode())
        write_atomically(target / CONFIG, write_config(self.config).encode())
        write_history(target, self.history)
        self.save_model(target)

    def save_model(self, folder: Path) -> None:
        """Write graph.yaml and weights.safetensors, which :func:`topolearn.load_model` needs, and classes.csv."""
        if self.per_class:
            text = io.StringIO()
            table = csv.DictWriter(text, list(self.per_class[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(self.per_class)
            write_atomically(folder / CLASSES, text.getvalue().encode())
        write_atomically(folder / GRAPH, dumps(self.graph).encode())
        save_tensors(folder / WEIGHTS, self.model.state_dict(), {"graph": self.graph.name, "format": 1})


def closing_record(result: FitResult) -> dict[str, Any]:
    """Return the last record of a run's history."""
    return {
        "phase": "result",
        "metrics": result.metrics,
        "searched_metrics": result.searched_metrics,
        **({"given_metrics": result.given_metrics} if result.given_metrics else {}),
        **({"removed_metrics": result.removed_metrics} if result.removed_metrics else {}),
        "one_level_params": result.one_level_params,
        **({} if result.spent is None else {"spent": asdict(result.spent)}),
        **({"per_class": result.per_class} if result.per_class else {}),
        **({"notes": list(result.notes)} if result.notes else {}),
    }


def read_result(folder: str | Path) -> FitResult:
    """Read a finished run from its folder.

    Raises:
        CheckpointError: It is not the folder of a finished run.
    """
    summary = read_finished(folder)
    known = {each.name: getattr(summary, each.name) for each in fields(summary)}
    model = load_model(folder)
    return FitResult(**known | {"graph": model.graph}, model=model, learner=None)
