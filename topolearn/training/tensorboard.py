"""The history of a run for TensorBoard, where that is installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from topolearn.errors import utf8
from topolearn.training.trainer import Trainer


@contextlib.contextmanager
def tensorboard(trainer: Trainer) -> Iterator[None]:
    """Write the history to TensorBoard too while entered, where that is installed and the run has a folder.

    TensorBoard knows no names of folders that are not UTF-8; a run in such a folder goes without.
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
