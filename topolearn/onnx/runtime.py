"""ONNX Runtime sessions that run where they were asked to, and how fast they are."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from topolearn.errors import ExportError, suggest

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
"""Our names of execution providers."""

_WARNING, _FATAL = 2, 4
"""ONNX Runtime's severities of log messages; the first is its default."""


def require_provider(provider: str) -> str:
    """ONNX Runtime's name of ``provider``.

    Raises:
        ExportError: Unknown, or not built into this ONNX Runtime.
    """
    import onnxruntime as ort

    if provider not in PROVIDERS:
        raise ExportError(f"unknown provider '{provider}'{suggest(provider, PROVIDERS)}")
    name = PROVIDERS[provider]
    if name not in ort.get_available_providers():
        raise ExportError(f"this ONNX Runtime has no {name}; it has {', '.join(ort.get_available_providers())}")
    return name


def open_session(model: bytes | Path, provider: str = "cpu", threads: int | None = None) -> Any:
    """An ``InferenceSession`` on exactly this provider.

    ONNX Runtime falls back to another provider without an error; this raises instead.

    Args:
        model: A serialised model or its path.
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        threads: Threads within an op; None for ONNX Runtime's choice.

    Raises:
        ExportError: Unknown provider, one that is not there, or a model it cannot load.
    """
    import onnxruntime as ort

    name = require_provider(provider)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    ort.set_default_logger_severity(_FATAL)  # a provider that does not start says so at length
    try:
        session = ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=[name])
    except Exception as error:  # ONNX Runtime has no public base class of its errors
        what = "the model" if isinstance(model, bytes) else f"'{model}'"
        raise ExportError(f"ONNX Runtime cannot load {what}: {str(error).partition(chr(10))[0]}") from None
    finally:
        ort.set_default_logger_severity(_WARNING)
    if session.get_providers()[0] != name:
        raise ExportError(
            f"asked for {name}, but ONNX Runtime fell back to {session.get_providers()[0]}; check its installation"
        )
    return session


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call.

    Attributes:
        batch: Inputs per call.
        p50: Median.
        p90: 90th percentile.
        mean: Mean.
        runs: Timed calls.
    """

    batch: int
    p50: float
    p90: float
    mean: float
    runs: int


def latency(session: Any, feeds: dict[str, np.ndarray[Any, Any]], *, runs: int = 50, warmup: int = 10) -> Latency:
    """Time ``runs`` calls of a session after ``warmup`` untimed ones."""
    for _ in range(warmup):
        session.run(None, feeds)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, feeds)
        times.append((time.perf_counter() - start) * 1e3)
    batch = len(next(iter(feeds.values())))
    return Latency(batch, float(np.percentile(times, 50)), float(np.percentile(times, 90)), float(np.mean(times)), runs)
