"""Export to ONNX, checked against PyTorch."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topolearn._version import __version__
from topolearn.compiler import Network
from topolearn.compiler.finite import not_finite
from topolearn.compiler.network import require_network
from topolearn.errors import ExportError, suggest
from topolearn.files import write_atomically
from topolearn.format import dumps
from topolearn.graph import Graph
from topolearn.onnx.fold import fold_batch_norm, fold_edge_weights, fold_stage_norms
from topolearn.onnx.parity import DTYPES, compare, examples, reason
from topolearn.onnx.runtime import require_provider
from topolearn.onnx.wrappers import Baked, ClassMap, constant_weights
from topolearn.ops import Shape

METADATA_KEY = "topolearn"
"""The only key in the model's metadata; its value is a JSON string."""
_AXES = ("batch", "height", "width", "length")
OUTPUTS = ("logits", "argmax")
"""What a file can return: the network's outputs, or the class of every pixel of the image."""


@dataclass(frozen=True)
class ExportReport:
    """Result of an export: the file, its options, and how close it is to PyTorch.

    Attributes:
        path: The file.
        size: Size of the file in bytes.
        precision: ``float32`` or ``float16``.
        dynamic: Axes that may change.
        output: ``logits`` or ``argmax``.
        provider: Execution provider of the parity check; None if it was skipped.
        errors: Shape of the first input -> largest difference from PyTorch, divided by the largest output (at
            least 1). For ``argmax``: PyTorch's best logit minus its logit of the class that the file returns,
            divided likewise.
        folded: Number of edges with a weight other than 1 that was folded into a convolution.
        nodes: Number of ONNX nodes.
    """

    path: Path
    size: int
    precision: str
    dynamic: tuple[str, ...]
    output: str
    provider: str | None
    errors: dict[tuple[int, ...], float]
    folded: int
    nodes: int


def usual_axes(graph: Graph) -> tuple[str, ...]:
    """Return the axes that usually change between inputs.

    These are the batch, height and width if all outputs are maps, and the length if all inputs are sequences.
    """
    inputs, outputs = ([graph.shapes[name] for name in names] for names in (graph.inputs, graph.outputs))
    if all(isinstance(shape, Shape) and isinstance(shape.stride, int) for shape in outputs):
        return ("batch", "height", "width")
    if all(isinstance(shape, Shape) and shape.is_tokens for shape in inputs):
        return ("batch", "length")
    return ("batch",)


def export_onnx(
    net: nn.Module,
    path: str | Path,
    *,
    precision: str = "float32",
    dynamic: Sequence[str] = ("batch",),
    output: str = "logits",
    provider: str = "cpu",
    check: bool = True,
) -> ExportReport:
    """Write a network to an ONNX file and check it against PyTorch.

    Batch normalisation and constant edge weights are folded into neighbouring convolutions. The file's metadata holds,
    under the key ``topolearn``, a JSON string with the graph's YAML, the task, the kind of output, the input sizes,
    mean, standard deviation, class names and library version.

    Args:
        net: The network, also inside a plain wrapper such as DDP. A network with a learner is exported as in eval mode.
        path: The file. It is written as a whole, and only if the check passes.
        precision: ``float32`` or ``float16``.
        dynamic: Axes of the inputs that may change: ``batch``; ``height`` and ``width`` of images; ``length`` of
            sequences, at most the graph's length if positions are learned.
        output: ``logits``: what the network computes. ``argmax``, for segmentation networks: the class of every pixel
            of the image, (N, H, W) uint8 (int64 with more than 256 classes). For this, logits are resized to the image
            bilinearly with aligned corners, as for the metrics.
        provider: Execution provider that runs the check: ``cpu``, ``cuda`` or ``tensorrt``.
        check: Whether to compare with PyTorch on random inputs, at two sizes if axes are dynamic.

    Raises:
        ExportError: The provider is not available; a weight is NaN, infinite or too large for ``precision``; the graph
            cannot be exported with these dynamic axes; ``argmax`` needs one map of classes and the graph has none; or
            the file does not agree with the network.
        OptionError: Not a network over a graph.
    """
    net = require_network(net, "export_onnx")
    target = Path(path)
    axes = checked_axes(dynamic, net.graph)
    if precision not in DTYPES:
        raise ExportError(f"unknown precision '{precision}'{suggest(precision, DTYPES)}")
    if output not in OUTPUTS:
        raise ExportError(f"unknown output '{output}'{suggest(output, OUTPUTS)}")
    if check:
        require_provider(provider)
    if not target.parent.is_dir():
        raise ExportError(f"there is no folder {target.parent}; create it first")
    name = not_finite(net)
    if name is not None:
        raise ExportError(f"'{name}' of the network holds values that are NaN or infinite; export a trained network")
    original = copy.deepcopy(net).cpu().float().eval()
    weights = constant_weights(original)
    folded = copy.deepcopy(original)
    fold_batch_norm(folded)
    left = fold_edge_weights(folded, weights)
    fold_stage_norms(folded, left)
    baked, truth = Baked(folded, left), Baked(original, weights)
    made, wanted = (ClassMap(baked, net.graph), ClassMap(truth, net.graph)) if output == "argmax" else (baked, truth)
    made = made.to(DTYPES[precision]).eval()
    if precision != "float32" and not_finite(made) is not None:
        raise ExportError(f"a weight of the network is too large for {precision}; export it in float32")
    proto = _convert(made, net, precision, axes)
    about = {
        "version": __version__,
        "graph": dumps(net.graph),
        "task": net.graph.task,
        "output": output,
        "input_size": {name: net.graph.input_rule(name).spec for name in net.graph.inputs},
        "mean": [],
        "std": [],
        "classes": [],
        **net.about,
    }
    proto.metadata_props.add(key=METADATA_KEY, value=json.dumps(about, sort_keys=True))
    data: bytes = proto.SerializeToString()
    errors = compare(data, wanted, net.graph, precision, axes, provider) if check else {}
    write_atomically(target, data)
    return ExportReport(
        path=target,
        size=len(data),
        precision=precision,
        dynamic=axes,
        output=output,
        provider=provider if check else None,
        errors=errors,
        folded=sum(was != now for was, now in zip(weights, left, strict=True)),
        nodes=len(proto.graph.node),
    )


def checked_axes(dynamic: str | Sequence[str], graph: Graph) -> tuple[str, ...]:
    """Return the axes that may change; raise an ExportError if there is no such axis, or no input has it."""
    axes = (dynamic,) if isinstance(dynamic, str) else tuple(dynamic)
    there = {axis for name in graph.inputs for axis in _axes_of(graph, name).values()}
    for axis in axes:
        if axis not in _AXES:
            raise ExportError(f"unknown axis '{axis}'{suggest(axis, _AXES)}")
        if axis not in there:
            has = ", ".join(each for each in _AXES if each in there)
            raise ExportError(f"the axis '{axis}' cannot change, since no input has it; the inputs have: {has}")
    return axes


def axis_names(net: Network, dynamic: tuple[str, ...]) -> tuple[dict[int, str], ...]:
    """Return, per input, the names of its dynamic axes; smaller images get their own height and width names."""
    names = []
    for name in net.graph.inputs:
        shape = net.graph.shapes[name]
        assert isinstance(shape, Shape)
        own = shape.stride != 1 and shape.is_map
        names.append(
            {
                i: f"{name}_{axis}" if own and axis != "batch" else axis
                for i, axis in _axes_of(net.graph, name).items()
                if axis in dynamic
            }
        )
    return tuple(names)


def _axes_of(graph: Graph, name: str) -> dict[int, str]:
    """Return which axes of an input can change, by their place."""
    shape = graph.shapes[name]
    assert isinstance(shape, Shape)
    if shape.is_vector:
        return {0: "batch"}
    return {0: "batch", 2: "height", 3: "width"} if shape.is_map else {0: "batch", 1: "length"}


@contextmanager
def quietly() -> Iterator[None]:
    """Silence messages of torch and the exporter; errors are still raised."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _convert(model: Baked | ClassMap, net: Network, precision: str, dynamic: tuple[str, ...]) -> Any:
    # The exporter would treat a batch of 1 as a constant.
    inputs = examples(net.graph, 2 if "batch" in dynamic else 1, DTYPES[precision])
    try:
        with quietly(), torch.no_grad():
            program = torch.onnx.export(
                model,
                tuple(inputs),
                dynamo=True,
                input_names=list(net.graph.inputs),
                output_names=list(net.graph.outputs),
                dynamic_shapes=(axis_names(net, dynamic),),
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have no common base
        axes = f"with dynamic {', '.join(dynamic)}" if dynamic else "with fixed sizes"
        raise ExportError(f"the graph cannot be exported {axes}: {reason(error)}") from error
    assert program is not None
    model = program.model_proto
    # Remove the exporter's notes: stack traces with this machine's paths, half the bytes of a small file.
    for part in (model, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    return model
