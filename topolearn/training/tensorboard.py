"""The history of a run in TensorBoard, if that is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from topolearn.errors import utf8
from topolearn.training.trainer import Trainer


@contextlib.contextmanager
def tensorboard(trainer: Trainer) -> Iterator[None]:
    """Also write the history to TensorBoard inside this context, if that is installed and the run has a folder.

    TensorBoard cannot write to a folder whose name is not UTF-8; runs in such folders skip it.
    """
    folder = trainer.writer.folder
    if folder is None or utf8(str(folder)) != str(folder):
        yield
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        yield
        return
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(record: Mapping[str, Any]) -> None:
        for name, value in record.items():
            if isinstance(value, float):
                writer.add_scalar(f"{record['phase']}/{name}", value, trainer.at.epochs)

    trainer.callbacks = (*trainer.callbacks, write)
    try:
        yield
    finally:
        writer.close()
