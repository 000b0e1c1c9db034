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

import numpy as np
import torch
from torch import Tensor, nn

import topolearn
from topolearn.compiler import DAG, Network
from topolearn.errors import ExportError, suggest
from topolearn.format import dumps, write_atomically
from topolearn.onnx.fold import fold_batch_norm, fold_edge_weights
from topolearn.onnx.runtime import open_session, require_provider
from topolearn.ops import Shape

METADATA_KEY = "topolearn"
"""The one key of the model's metadata: a JSON string."""
TOLERANCE = {"float32": 1e-4, "float16": 1e-2}
"""Largest difference from PyTorch, over the largest output (at least 1)."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_AXES = ("batch", "height", "width")


@dataclass(frozen=True)
class ExportReport:
    """What an export gave.

    Attributes:
        path: The file.
        size: Its bytes.
        precision: ``float32`` or ``float16``.
        dynamic: Axes that may change.
        provider: Where parity was checked; None where it was not.
        errors: Inputs' (batch, height, width) -> largest difference from PyTorch, over the largest output.
        folded: Edges whose weight other than 1 went into a convolution.
        nodes: ONNX nodes.
    """

    path: Path
    size: int
    precision: str
    dynamic: tuple[str, ...]
    provider: str | None
    errors: dict[tuple[int, ...], float]
    folded: int
    nodes: int


class _Baked(nn.Module):
    """A network with constant edge weights, taking its inputs one by one."""

    def __init__(self, net: Network, weights: list[float]) -> None:
        super().__init__()
        # Whichever interpreter the network has.
        self.dag = DAG(net.graph, net.nodes, net.edges, net.shared)
        self.names = net.graph.inputs
        self.outputs = net.graph.outputs
        self.weights = tuple(weights)

    def forward(self, *inputs: Tensor) -> Any:
        given = inputs[0] if len(self.names) == 1 else dict(zip(self.names, inputs, strict=True))
        result = self.dag(given, self.weights)
        return tuple(result[name] for name in self.outputs) if isinstance(result, dict) else result


def export_onnx(
    net: Network,
    path: str | Path,
    *,
    precision: str = "float32",
    dynamic: Sequence[str] = ("batch",),
    provider: str = "cpu",
    check: bool = True,
) -> ExportReport:
    """Write a network to an ONNX file.

    Batch normalisation is folded into convolutions, constant edge weights into the convolutions
    beside them. The file's metadata holds, under the key ``topolearn``, a JSON string with the graph's
    YAML, the task, the input sizes, mean, standard deviation, class names and library version.

    Args:
        net: The network; of one with a learner, what it computes in eval mode.
        path: The file; it appears whole, and only if the check passes.
        precision: ``float32`` or ``float16``.
        dynamic: Axes of the inputs that may change: ``batch``, ``height``, ``width``.
        provider: Execution provider that the check runs on: ``cpu``, ``cuda`` or ``tensorrt``.
        check: Whether to compare with PyTorch on random inputs, at two sizes where axes are dynamic.

    Raises:
        ExportError: The provider is not there, the graph cannot be exported with these dynamic axes,
            or the file does not agree with the network.
    """
    target = Path(path)
    axes = (dynamic,) if isinstance(dynamic, str) else tuple(dynamic)
    if precision not in _DTYPES:
        raise ExportError(f"unknown precision '{precision}'{suggest(precision, _DTYPES)}")
    for axis in axes:
        if axis not in _AXES:
            raise ExportError(f"unknown axis '{axis}'{suggest(axis, _AXES)}")
    if check:
        require_provider(provider)
    if not target.parent.is_dir():
        raise ExportError(f"there is no folder {target.parent}; make it first")
    original = copy.deepcopy(net).cpu().float().eval()
    weights = _constant_weights(original)
    folded = copy.deepcopy(original)
    fold_batch_norm(folded)
    left = fold_edge_weights(folded, weights)
    model = _Baked(folded, left).to(_DTYPES[precision]).eval()
    proto = _convert(model, net, precision, axes)
    about = {
        "version": topolearn.__version__,
        "graph": dumps(net.graph),
        "task": net.graph.task,
        "input_size": {name: list(net.graph.input_size(name)) for name in net.graph.inputs},
        "mean": [],
        "std": [],
        "classes": [],
        **net.about,
    }
    proto.metadata_props.add(key=METADATA_KEY, value=json.dumps(about, sort_keys=True))
    data: bytes = proto.SerializeToString()
    errors = _check(data, _Baked(original, weights), net, precision, axes, provider) if check else {}
    write_atomically(target, data)
    return ExportReport(
        path=target,
        size=len(data),
        precision=precision,
        dynamic=axes,
        provider=provider if check else None,
        errors=errors,
        folded=sum(was != now for was, now in zip(weights, left, strict=True)),
        nodes=len(proto.graph.node),
    )


def _constant_weights(net: Network) -> list[float]:
    with torch.no_grad():
        weights = net.effective_weights()
    return [float(weight) for weight in (weights.tolist() if isinstance(weights, Tensor) else weights)]


def _examples(net: Network, batch: int, height: float, width: float, dtype: torch.dtype) -> list[Tensor]:
    """Random inputs; height and width are factors of the graph's."""
    generator = torch.Generator().manual_seed(batch)
    full = [round(side * factor) for side, factor in zip(net.graph.image, (height, width), strict=True)]
    shapes = []
    for name in net.graph.inputs:
        shape = net.graph.shapes[name]
        assert isinstance(shape, Shape)
        sides = () if shape.stride is None else shape.size((full[0], full[1]))
        shapes.append((batch, shape.channels, *sides))
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def _axis_names(net: Network, dynamic: tuple[str, ...]) -> tuple[dict[int, str], ...]:
    """Per input, the names of its dynamic axes; an image of another size has a height and width of its own."""
    names = []
    for name in net.graph.inputs:
        shape = net.graph.shapes[name]
        assert isinstance(shape, Shape)
        axes = dict(enumerate(("batch", "channels", "height", "width") if shape.is_map else ("batch",)))
        own = shape.stride != 1 and shape.is_map
        names.append(
            {i: f"{name}_{axis}" if own and axis != "batch" else axis for i, axis in axes.items() if axis in dynamic}
        )
    return tuple(names)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the remarks of torch and of the exporter; what goes wrong is raised."""
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


def _convert(model: _Baked, net: Network, precision: str, dynamic: tuple[str, ...]) -> Any:
    # Exported with a batch of 1 the batch would be taken for a constant.
    inputs = _examples(net, 2 if "batch" in dynamic else 1, 1.0, 1.0, _DTYPES[precision])
    try:
        with _quietly(), torch.no_grad():
            program = torch.onnx.export(
                model,
                tuple(inputs),
                dynamo=True,
                input_names=list(net.graph.inputs),
                output_names=list(net.graph.outputs),
                dynamic_shapes=(_axis_names(net, dynamic),),
                verbose=False,
            )
    except Exception as error:  # the exporter's errors have no common base
        axes = f"with dynamic {', '.join(dynamic)}" if dynamic else "with fixed sizes"
        raise ExportError(f"the graph cannot be exported {axes}: {_reason(error)}") from error
    assert program is not None
    model = program.model_proto
    # The exporter's notes: stack traces with this machine's paths, half the bytes of a small file.
    for part in (model, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del part.metadata_props[:]
    return model


def _reason(error: BaseException) -> str:
    """First line of what the exporter's error was caused by."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _check(
    data: bytes, original: _Baked, net: Network, precision: str, dynamic: tuple[str, ...], provider: str
) -> dict[tuple[int, ...], float]:
    """Compare the file with the network it came from; returns the differences.

    Raises:
        ExportError: They are larger than the tolerance.
    """
    session = open_session(data, provider)
    factors = [1.5 if axis in dynamic else 1.0 for axis in ("height", "width")]
    batches = (2, 5) if "batch" in dynamic else (1, 1)
    errors: dict[tuple[int, ...], float] = {}
    for batch, (height, width) in zip(batches, ((1.0, 1.0), factors), strict=True):
        inputs = _examples(net, batch, height, width, _DTYPES[precision])
        if tuple(inputs[0].shape) in errors:
            continue
        feeds = {name: x.numpy() for name, x in zip(net.graph.inputs, inputs, strict=True)}
        try:
            with torch.no_grad():
                wanted = original(*(x.float() for x in inputs))
            found = session.run(None, feeds)
        except Exception as error:  # ONNX Runtime's errors have no common base
            sizes = ", ".join(f"{name} {' x '.join(map(str, x.shape))}" for name, x in feeds.items())
            raise ExportError(
                f"the network cannot be run with dynamic {', '.join(dynamic)} at {sizes}: {_reason(error)}"
            ) from error
        worst = 0.0
        for name, theirs, ours in zip(
            net.graph.outputs, found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True
        ):
            difference = _difference(theirs, ours.numpy())
            if not difference <= TOLERANCE[precision]:
                raise ExportError(
                    f"output '{name}' of the ONNX model differs from PyTorch by {difference:.2g} at batch {batch};"
                    f" at most {TOLERANCE[precision]:g} is allowed in {precision}"
                )
            worst = max(worst, difference)
        errors[tuple(inputs[0].shape)] = worst
    return errors


def _difference(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any]) -> float:
    """Largest difference, over the largest wanted value (at least 1); infinite where shapes differ or NaN."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - wanted).max() / max(1.0, float(np.abs(wanted).max())))
