"""ONNX Runtime sessions on exactly the provider that you ask for, and their latency."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
"""Execution provider by the name that options use."""

_WARNING, _FATAL = 2, 4
"""Severities of ONNX Runtime's log messages; the first is its default."""


def require_provider(provider: str) -> str:
    """Return ONNX Runtime's name of ``provider``.

    Raises:
        ExportError: The provider is unknown, or this ONNX Runtime was built without it.
    """
    import onnxruntime as ort

    if provider not in PROVIDERS:
        raise ExportError(f"unknown provider '{provider}'{suggest(provider, PROVIDERS)}")
    name = PROVIDERS[provider]
    if name not in ort.get_available_providers():
        raise ExportError(f"this ONNX Runtime has no {name}; it has {', '.join(ort.get_available_providers())}")
    return name


def open_session(model: bytes | Path, provider: str = "cpu", threads: int | None = None) -> Any:
    """Open an ``InferenceSession`` on exactly this provider.

    ONNX Runtime itself falls back to another provider without an error.

    Args:
        model: A serialised model or its path.
        provider: ``cpu``, ``cuda`` or ``tensorrt``.
        threads: Threads within an op; None for ONNX Runtime's choice.

    Raises:
        ExportError: The provider is unknown or not available, or ONNX Runtime cannot load the model.
    """
    import onnxruntime as ort

    name = require_provider(provider)
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    ort.set_default_logger_severity(_FATAL)  # a provider that does not start logs a long message
    try:
        # Bytes, because ONNX Runtime does not support file names that are not UTF-8.
        data = model if isinstance(model, bytes) else model.read_bytes()
        session = ort.InferenceSession(data, options, providers=[name])
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
        quartiles: 25th and 75th percentile.
        p90: 90th percentile.
        mean: Mean.
        runs: Timed calls.
    """

    batch: int
    p50: float
    quartiles: tuple[float, float]
    p90: float
    mean: float
    runs: int

    @classmethod
    def of(cls, batch: int, times: Sequence[float]) -> Latency:
        """Summarise the milliseconds of single calls."""
        low, middle, high, late = np.percentile(times, (25, 50, 75, 90)).tolist()
        return cls(batch, middle, (low, high), late, float(np.mean(times)), len(times))


Feeds = dict[str, np.ndarray[Any, Any]]
"""Input name -> value."""


def latency(session: Any, feeds: Feeds, *, runs: int = 50, warmup: int = 10) -> Latency:
    """Time ``runs`` calls of a session after ``warmup`` untimed ones."""
    return latencies([(session, feeds)], rounds=1, runs=runs, warmup=warmup)[0]


def latencies(
    calls: Sequence[tuple[Any, Feeds]], *, rounds: int = 5, runs: int = 40, warmup: int = 10
) -> list[Latency]:
    """Time sessions in turns, so that a busy machine slows all of them alike.

    Args:
        calls: Sessions and their inputs.
        rounds: Turns per session.
        runs: Timed calls per turn.
        warmup: Untimed calls before them.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for (session, feeds), own in zip(calls, times, strict=True):
            for _ in range(warmup):
                session.run(None, feeds)
            for _ in range(runs):
                start = time.perf_counter()
                session.run(None, feeds)
                own.append((time.perf_counter() - start) * 1e3)
    return [Latency.of(len(next(iter(feeds.values()))), own) for (_, feeds), own in zip(calls, times, strict=True)]
