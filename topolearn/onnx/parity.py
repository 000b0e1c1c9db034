"""Whether an exported file computes what the network computes in PyTorch."""

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
"""Largest difference from PyTorch, over the largest output (at least 1)."""
DTYPES = {"float32": torch.float32, "float16": torch.float16}


def examples(graph: Graph, batch: int, dtype: torch.dtype = torch.float32, other: Collection[str] = ()) -> list[Tensor]:
    """Random inputs: ids below the vocabulary, int64; everything else normally distributed.

    An odd size is no multiple of a stride: where sizes are rounded in two ways, it shows. A shorter sequence is one
    for which positions have been learned.

    Args:
        graph: What they are for.
        batch: How many.
        dtype: Of all but ids.
        other: Axes that have another size than in the graph: ``height`` and ``width`` a larger, odd one, ``length`` a
            smaller one.
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
    """Compare a file with the network it came from, at two sizes where axes are dynamic.

    Args:
        data: The file.
        original: What it is to compute, in float32.
        graph: Of the network.
        precision: ``float32`` or ``float16``, of the file.
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
    """What the network gives in PyTorch; logits where its file gives classes."""
    with torch.no_grad():
        given = original.logits(*inputs) if isinstance(original, ClassMap) else original(*inputs)
    return given if isinstance(given, tuple) else (given,)


def _why(original: Baked | ClassMap, inputs: Sequence[Tensor], found: NDArray[Any], precision: str) -> str:
    """Why a file differs from the network, as far as that can be measured, and what to do."""
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
    """First line of what an error was caused by."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest difference, over the largest wanted value (at least 1); infinite where shapes differ or NaN."""
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found.astype(np.float64) - wanted).max() / max(1.0, float(np.abs(wanted).max())))


def _shortfall(found: NDArray[Any], logits: NDArray[Any]) -> float:
    """By how much the logit of the class found falls short of the best, over the largest logit (at least 1).

    Two classes may be equally good, and then either is right. Infinite where shapes differ.
    """
    classes = logits.shape[1]
    if found.shape != (len(logits), *logits.shape[2:]) or not ((found >= 0) & (found < classes)).all():
        return float("inf")
    given = np.take_along_axis(logits, found[:, None].astype(np.int64), axis=1)[:, 0]
    return float((logits.max(axis=1) - given).max() / max(1.0, float(np.abs(logits).max())))
