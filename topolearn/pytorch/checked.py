"""What both kinds of files have in common: what can be exported, the check, and the report."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from topolearn.compiler import Network
from topolearn.compiler.finite import not_finite
from topolearn.errors import ExportError
from topolearn.graph import Graph
from topolearn.onnx.wrappers import Baked
from topolearn.pytorch.own_process import compare_file


@dataclass(frozen=True)
class PyTorchReport:
    """Result of an export for PyTorch.

    Attributes:
        path: The file.
        size: Size of the file in bytes, without the weights beside it.
        errors: Shape of the first input -> largest difference from the network, divided by the largest output (at least
            1); empty if the file was not compared.
    """

    path: Path
    size: int
    errors: dict[tuple[int, ...], float]


def ready(net: Network, target: Path) -> Network:
    """Return a copy of a network in float32 on the CPU, in eval mode.

    Raises:
        ExportError: A weight is not finite, or there is no folder for the file.
    """
    if not target.parent.is_dir():
        raise ExportError(f"there is no folder {target.parent}; create it first")
    name = not_finite(net)
    if name is not None:
        raise ExportError(f"'{name}' of the network holds values that are NaN or infinite; export a trained network")
    return copy.deepcopy(net).cpu().float().eval()


def report(made: Path, target: Path, original: Baked, graph: Graph, axes: Sequence[str], check: bool) -> PyTorchReport:
    """Compare a file that is going to be ``target``, and return the report."""
    errors = compare_file(made, original, graph, axes) if check else {}
    return PyTorchReport(target, made.stat().st_size, errors)
