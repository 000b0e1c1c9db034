"""Exports a trained network in any of the formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.compiler import Network
from topolearn.errors import OptionError, suggest

if TYPE_CHECKING:
    from topolearn.onnx import ExportReport
    from topolearn.pytorch import PyTorchReport

_SUFFIXES = {".pt2": "pt2", ".py": "torch"}
"""Suffix of a file -> its format; all others are ONNX files."""
_OF_WEIGHTS = (".pt", ".pth", ".safetensors", ".ckpt", ".bin")
"""Suffixes that say that a file holds weights alone."""
_OPTIONS = {
    "onnx": ("precision", "dynamic", "output", "provider", "check"),
    "pt2": ("dynamic", "check"),
    "torch": ("check",),
}
"""Format -> its options."""


def format_of(path: Path, format: str | None = None) -> str:
    """Return the format of a file to write: ``onnx``, ``pt2`` or ``torch``; by default, by its suffix.

    Raises:
        OptionError: There is no such format, the suffix says that the file holds weights alone, or source code does
            not go to a .py file.
    """
    suffix = path.suffix.lower()
    if format is None and suffix in _OF_WEIGHTS:
        raise OptionError(
            f"'{path.name}' would be a file of weights alone; write NAME.onnx, NAME.pt2, or NAME.py with its weights"
            " beside it in NAME.safetensors"
        )
    if format is None:
        return _SUFFIXES.get(suffix, "onnx")
    if format not in _OPTIONS:
        raise OptionError(f"unknown format '{format}'{suggest(format, _OPTIONS)}")
    if format == "torch" and path.suffix != ".py":
        raise OptionError(f"the format torch is source code, which goes to a .py file, not to '{path.name}'")
    return format


def export(net: Network, path: str | Path, format: str | None = None, **options: Any) -> ExportReport | PyTorchReport:
    """Export a network and compare the file with it.

    Args:
        net: The network.
        path: The file.
        format: ``onnx``, ``pt2`` or ``torch``; None: by the file's suffix.
        options: Those of :func:`topolearn.export_onnx`, :func:`topolearn.export_pt2` or :func:`topolearn.export_torch`;
            the default of ``dynamic`` depends on the task.

    Raises:
        OptionError: There is no such format, or it has no such option.
        ExportError: The network cannot be exported, or the file does not agree with it.
    """
    from topolearn.onnx import export_onnx, usual_axes
    from topolearn.pytorch import export_pt2, export_torch

    kind = format_of(Path(path), format)
    for name in options:
        if name not in _OPTIONS[kind]:
            raise OptionError(f"the format {kind} has no option '{name}'{suggest(name, _OPTIONS[kind])}")
    if kind == "onnx":
        return export_onnx(net, path, **{"dynamic": usual_axes(net.graph), **options})
    return export_pt2(net, path, **options) if kind == "pt2" else export_torch(net, path, **options)
