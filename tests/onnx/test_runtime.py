"""Sessions run where they were asked to, and their latency is measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from topolearn.errors import ExportError
from topolearn.onnx import Latency, latency, open_session


@pytest.fixture(scope="module")
def doubling() -> bytes:
    """y = x + x."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def test_a_session_from_bytes_and_from_a_file(doubling: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(doubling)
    x = np.ones((2, 3), np.float32)
    for model in (doubling, path):
        session = open_session(model, "cpu", threads=1)
        assert session.get_providers() == ["CPUExecutionProvider"]
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], 2 * x)


@pytest.mark.parametrize("model", [b"not a model", Path("missing.onnx")], ids=["rubbish", "missing"])
def test_a_model_that_cannot_be_loaded_is_one_clear_line(model: bytes | Path) -> None:
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot load (the model|'missing\.onnx'): ") as caught:
        open_session(model)
    assert "\n" not in str(caught.value)


def test_an_unknown_provider_gets_a_suggestion(doubling: bytes) -> None:
    with pytest.raises(ExportError, match="unknown provider 'tensort'; did you mean 'tensorrt'"):
        open_session(doubling, "tensort")


def test_a_provider_that_is_not_built_in_is_an_error(doubling: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        ExportError, match="this ONNX Runtime has no CUDAExecutionProvider; it has CPUExecutionProvider"
    ):
        open_session(doubling, "cuda")


def test_falling_back_is_an_error(doubling: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class FellBack:
        def __init__(self, *args: Any, **options: Any) -> None:
            pass

        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("onnxruntime.InferenceSession", FellBack)
    with pytest.raises(ExportError, match="asked for CUDAExecutionProvider, but ONNX Runtime fell back to CPU"):
        open_session(doubling, "cuda")


@pytest.mark.gpu
def test_a_session_on_a_gpu(doubling: bytes) -> None:
    assert open_session(doubling, "cuda").get_providers()[0] == "CUDAExecutionProvider"


def test_latency_counts_only_the_timed_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls = [0.0], []

    def run(outputs: None, feeds: dict[str, Any]) -> None:
        calls.append(feeds)
        now[0] += 1.0 if len(calls) <= 2 else len(calls) * 1e-3  # the warm-up is slow

    monkeypatch.setattr("topolearn.onnx.runtime.time", SimpleNamespace(perf_counter=lambda: now[0]))
    found = latency(SimpleNamespace(run=run), {"x": np.ones((4, 3))}, runs=5, warmup=2)
    assert len(calls) == 7
    assert (found.batch, found.runs) == (4, 5)
    assert (found.p50, found.p90, found.mean) == pytest.approx((5.0, 6.6, 5.0))


def test_latency_of_a_real_session(doubling: bytes) -> None:
    found = latency(open_session(doubling), {"x": np.ones((2, 3), np.float32)}, runs=5, warmup=1)
    assert isinstance(found, Latency)
    assert 0 < found.p50 <= found.p90
