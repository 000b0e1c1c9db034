"""From the folder of a run, or an ONNX file, to a network that can be asked about images or about text."""

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
    """The network in the folder of a run, which PyTorch runs, or in an ONNX file, which ONNX Runtime runs.

    Args:
        source: The folder, or the file.
        device: Of a run's network; ``auto`` is CUDA where there is one.
        provider: Of an ONNX file: ``cpu``, ``cuda`` or ``tensorrt``, and no other than that.

    Returns:
        A :class:`TextModel` where the task is ``next_token``, else a :class:`Model`, which takes images.

    Raises:
        CheckpointError: Neither of the two, or a run that is not finished or damaged.
        ExportError: The provider is not there, or the file is not what :func:`topolearn.export_onnx` writes.
        DataError: A network for another task, or with other inputs than one image or one text.
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
