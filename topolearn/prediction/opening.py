"""Loads a network for prediction from the folder of a run or from an ONNX file."""

from __future__ import annotations

from pathlib import Path

import torch

from topolearn.device import find_device
from topolearn.errors import CheckpointError
from topolearn.onnx.runtime import open_session
from topolearn.prediction.metadata import AboutTask, metadata_of, read_metadata
from topolearn.prediction.model import Model, model_of_file, model_of_run
from topolearn.prediction.text_model import TextModel, text_model_of_file, text_model_of_run
from topolearn.runs.trained import load_model
from topolearn.task_kinds import kind_of


def load(source: str | Path, *, device: str | torch.device = "auto", provider: str = "cpu") -> Model | TextModel:
    """Load a network for prediction: from the folder of a run, with PyTorch, or from an ONNX file, with ONNX Runtime.

    Args:
        source: The folder, or the file.
        device: The device for the network of a run; ``auto`` is CUDA if there is a GPU.
        provider: The only provider for an ONNX file: ``cpu``, ``cuda`` or ``tensorrt``.

    Returns:
        A :class:`TextModel` if the task is ``next_token``, else a :class:`Model`, which takes images.

    Raises:
        CheckpointError: The source is neither a folder nor a file, or the run is unfinished or damaged.
        ExportError: The provider is not available, or :func:`topolearn.export_onnx` did not write the file.
        DataError: The network is for another task, or does not have exactly one image or text as input.
    """
    path = Path(source)
    if path.is_dir():
        net, where = load_model(path), find_device(device)
        return (text_model_of_run if kind_of(net.graph.task).is_text else model_of_run)(net, path, where)
    if path.is_file():
        session = open_session(path, provider)
        metadata = metadata_of(session, path)
        task = read_metadata(AboutTask, metadata, path).task
        return (text_model_of_file if kind_of(task).is_text else model_of_file)(session, metadata, path)
    raise CheckpointError(f"there is no '{path}'; name the folder of a finished run, or an ONNX file")
