"""Runs an exported file in a process of its own, and compares what it gives with the network."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from topolearn.errors import ExportError
from topolearn.graph import Graph
from topolearn.onnx.parity import examples
from topolearn.onnx.wrappers import Baked

TOLERANCE = 1e-5
"""Largest difference from the network, divided by the largest output (at least 1)."""

_RUN = """
import importlib.util, sys, torch
path, given, made = sys.argv[1:]
if path.endswith(".pt2"):
    net = torch.export.load(path).module()
else:
    spec = importlib.util.spec_from_file_location("exported", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.load()
outputs = []
with torch.no_grad():
    for inputs in torch.load(given, weights_only=True):
        output = net(*inputs)
        output = output.values() if isinstance(output, dict) else output
        outputs.append([output] if isinstance(output, torch.Tensor) else list(output))
torch.save(outputs, made)
"""


def compare_file(path: Path, original: Baked, graph: Graph, dynamic: Collection[str]) -> dict[tuple[int, ...], float]:
    """Run a file at two sizes and compare its outputs.

    Args:
        path: The file, ``.pt2`` or ``.py``.
        original: The network, in eval mode.
        graph: Graph of the network.
        dynamic: Axes that may change.

    Returns:
        Shape of the first input -> largest difference.

    Raises:
        ExportError: The file does not run, or gives something else.
    """
    batches = (2, 5) if "batch" in dynamic else (1, 1)
    given = [examples(graph, batch, other=other) for batch, other in zip(batches, ((), dynamic), strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder) / "inputs.pt", Path(folder) / "outputs.pt"
        torch.save(given, inputs)
        command = [sys.executable, "-c", _RUN, str(path.resolve()), str(inputs), str(outputs)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise ExportError(f"the exported file does not run in a process of its own: {last}")
        found: list[list[Tensor]] = torch.load(outputs, weights_only=True)
    errors: dict[tuple[int, ...], float] = {}
    for batch, theirs in zip(given, found, strict=True):
        with torch.no_grad():
            ours = original(*batch)
        for name, own, other in zip(graph.outputs, ours if isinstance(ours, tuple) else (ours,), theirs, strict=True):
            if not bool(own.isfinite().all()):
                raise ExportError(
                    f"output '{name}' is NaN or infinite for random inputs, so there is nothing to compare a file with;"
                    " train the network, or export it without the check"
                )
            difference = _difference(other, own)
            if not difference <= TOLERANCE:
                raise ExportError(
                    f"output '{name}' of the exported file differs from the network by {difference:.2g}; at most"
                    f" {TOLERANCE:g} is allowed. Report it with the graph"
                )
            shape = tuple(batch[0].shape)
            errors[shape] = max(difference, errors.get(shape, 0.0))
    return errors


def _difference(found: Tensor, wanted: Tensor) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    return float((found.double() - wanted.double()).abs().max()) / max(1.0, float(wanted.abs().max()))
