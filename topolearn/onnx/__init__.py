"""ONNX: export, checks of parity and provider, latency."""

from topolearn.onnx.export import ExportReport, export_onnx, usual_axes
from topolearn.onnx.parity import examples
from topolearn.onnx.runtime import Latency, latencies, latency, open_session

__all__ = ["ExportReport", "Latency", "examples", "export_onnx", "latencies", "latency", "open_session", "usual_axes"]
