"""Checks that an exported file computes what the network computes in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topolearn.errors import ExportError
from topolearn.graph import Graph
from topolearn.onnx.runtime import open_session
from topolearn.onnx.wrappers import Baked, ClassMap
from topolearn.ops import Shape

TOLERANCE = {"float32": 1e-4, "float16": 1e-2}
"""Largest allowed difference from PyTorch, divided by the largest output (at least 1)."""
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def examples(graph: Graph, batch: int, dtype: torch.dtype = torch.float32, other: Collection[str] = ()) -> list[Tensor]:
    """Draw random inputs for a graph: int64 ids below the vocabulary, normally distributed numbers for the rest.

    Args:
        graph: The graph.
        batch: Number of inputs per batch.
        dtype: Type of all inputs except ids.
        other: Axes whose size differs from the graph's. ``height`` and ``width`` get a larger, odd size: it is no
            multiple of a stride and so reveals different rounding. ``length`` gets a smaller size, for which positions
            have been learned.
    """
    generator = torch.Generator().manual_seed(batch)
    full = tuple(
        round(side * 1.5) | 1 if axis in other else side
        for side, axis in zip(graph.image, ("height", "width"), strict=True)
    )
    inputs = []
    for name in graph.inputs:
        shape = graph.shapes[name]
        assert isinstance(shape, Shape)
        if shape.length is not None:
            length = (shape.length * 2 + 2) // 3 if "length" in other else shape.length
            sizes: tuple[int, ...] = (batch, length, shape.channels)
        else:
            sizes = (batch, shape.channels, *(shape.size((full[0], full[1])) if shape.is_map else ()))
        if shape.vocabulary is not None:
            inputs.append(torch.randint(shape.vocabulary, sizes[:2], generator=generator))
        else:
            inputs.append(torch.randn(sizes, generator=generator).to(dtype))
    return inputs


def compare(
    data: bytes, original: Baked | ClassMap, graph: Graph, precision: str, dynamic: tuple[str, ...], provider: str
) -> dict[tuple[int, ...], float]:
    """Compare a file with its network, at two sizes if axes are dynamic.

    Args:
        data: Contents of the file.
        original: The network that the file should match, in float32.
        graph: Graph of the network.
        precision: Precision of the file, ``float32`` or ``float16``.
        dynamic: Axes that may change.
        provider: Execution provider.

    Returns:
        Shape of the first input -> largest difference.

    Raises:
        ExportError: A difference is larger than the tolerance, or the file cannot be run.
    """
    session = open_session(data, provider)
    batches = (2, 5) if "batch" in dynamic else (1, 1)
    errors: dict[tuple[int, ...], float] = {}
    for batch, other in zip(batches, ((), dynamic), strict=True):
        inputs = examples(graph, batch, DTYPES[precision], other)
        if tuple(inputs[0].shape) in errors:
            continue
        feeds = {name: x.numpy() for name, x in zip(graph.inputs, inputs, strict=True)}
        full = [x.float() if x.is_floating_point() else x for x in inputs]
        try:
            wanted = _given(original, full)
            found = session.run(None, feeds)
        except Exception as error:  # ONNX Runtime's errors have no common base
            sizes = ", ".join(f"{name} {' x '.join(map(str, x.shape))}" for name, x in feeds.items())
            raise ExportError(
                f"the network cannot be run with dynamic {', '.join(dynamic)} at {sizes}: {reason(error)}"
            ) from error
        worst = 0.0
        measure = _shortfall if isinstance(original, ClassMap) else _difference
        for name, theirs, ours in zip(graph.outputs, found, wanted, strict=True):
            if not bool(ours.isfinite().all()):
                raise ExportError(
                    f"output '{name}' is NaN or infinite in PyTorch already, for random inputs at batch {batch}, so"
                    " there is nothing to compare a file with; train the network, or export it without the check"
                )
            difference = measure(theirs, ours.numpy())
            if not difference <= TOLERANCE[precision]:
                why = _why(original, full, theirs, precision)
                raise ExportError(
                    f"output '{name}' of the ONNX model differs from PyTorch by {difference:.2g} at batch {batch};"
                    f" at most {TOLERANCE[precision]:g} is allowed in {precision}. {why}"
                )
            worst = max(worst, difference)
        errors[tuple(inputs[0].shape)] = worst
    return errors


def _given(original: Baked | ClassMap, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the network's outputs in PyTorch: logits if its file returns classes."""
    with torch.no_grad():
        given = original.logits(*inputs) if isinstance(original, ClassMap) else original(*inputs)
    return given if isinstance(given, tuple) else (given,)


def _why(original: Baked | ClassMap, inputs: Sequence[Tensor], found: NDArray[Any], precision: str) -> str:
    """Measure why a file differs from the network; return the reason and what to do."""
    if precision != "float32":
        overflow = "" if np.isfinite(found).all() else f"A value is too large for {precision}. "
        return f"{overflow}Export it in float32, or without the check"
    exact = _given(copy.deepcopy(original).double(), [x.double() if x.is_floating_point() else x for x in inputs])
    rounding = max(map(_difference, (y.numpy() for y in _given(original, inputs)), (y.numpy() for y in exact)))
    if rounding > TOLERANCE[precision] / 10:
        return (
            f"PyTorch's own float32 differs from float64 by {rounding:.2g}, so this is rounding; export the network"
            " without the check"
        )
    return f"PyTorch rounds by {rounding:.2g} only, so the file is wrong; report it with the graph"


def reason(error: BaseException) -> str:
    """Return the first line of an error's root cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the largest difference over the largest wanted value (at least 1); infinite for NaN or other shapes."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def _shortfall(found: NDArray[Any], logits: NDArray[Any]) -> float:
    """Return the best logit minus the found class's, over the largest logit (at least 1); infinite for other shapes.

    If two classes are equally good, either is right.
    """
    classes = logits.shape[1]
    if found.shape != (len(logits), *logits.shape[2:]) or not ((found >= 0) & (found < classes)).all():
        return float("inf")
    given = np.take_along_axis(logits, found[:, None].astype(np.int64), axis=1)[:, 0]
    return float((logits.max(axis=1) - given).max() / max(1.0, float(np.abs(logits).max())))
