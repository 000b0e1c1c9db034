"""Writes a network as an archive of torch.export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from topolearn.compiler.network import require_network
from topolearn.errors import ExportError
from topolearn.files import write_atomically
from topolearn.onnx import usual_axes
from topolearn.onnx.export import axis_names, checked_axes, quietly
from topolearn.onnx.parity import examples, reason
from topolearn.onnx.wrappers import Baked, constant_weights
from topolearn.pytorch.checked import PyTorchReport, ready, report


def export_pt2(
    net: nn.Module, path: str | Path, *, dynamic: Sequence[str] | None = None, check: bool = True
) -> PyTorchReport:
    """Write a network to an archive of torch.export, which ``torch.export.load`` reads without topolearn.

    Args:
        net: The network, also inside a plain wrapper such as DDP. A network with a learner is exported as in eval mode.
        path: The file, ``NAME.pt2``; it is written only if the check passes.
        dynamic: Axes of the inputs that may change, as in :func:`topolearn.export_onnx`. Default: the batch; also
            height and width if all outputs are maps, and the length of sequences.
        check: Whether to load the file in a process of its own and compare its outputs with the network's, at two
            sizes.

    Raises:
        ExportError: A weight is NaN or infinite, the graph cannot be exported with these dynamic axes, or the file
            gives something else than the network.
        OptionError: Not a network over a graph.
    """
    target, net = Path(path), require_network(net, "export_pt2")
    axes = usual_axes(net.graph) if dynamic is None else checked_axes(dynamic, net.graph)
    original = ready(net, target)
    graph = original.graph
    baked = Baked(original, constant_weights(original)).eval()
    shapes = tuple(dict.fromkeys(names, torch.export.Dim.DYNAMIC) for names in axis_names(original, axes))
    try:
        with quietly(), torch.no_grad():
            inputs = tuple(examples(graph, 2 if "batch" in axes else 1))
            program = torch.export.export(baked, inputs, dynamic_shapes=(shapes,))
    except Exception as error:  # torch.export's errors have no common base
        with_axes = f"with dynamic {', '.join(axes)}" if axes else "with fixed sizes"
        raise ExportError(f"the graph cannot be exported {with_axes}: {reason(error)}") from error
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "network.pt2"
        torch.export.save(program, made)
        result = report(made, target, baked, graph, axes, check)
        write_atomically(target, made.read_bytes())
    return result
