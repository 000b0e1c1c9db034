"""Loggers by name, for the command line."""

from __future__ import annotations

from topolearn.errors import OptionError, suggest
from topolearn.loggers.base import Logger
from topolearn.loggers.mlflow import MLflowLogger
from topolearn.loggers.tensorboard import TensorBoardLogger
from topolearn.loggers.wandb import WandbLogger

LOGGERS: dict[str, type[MLflowLogger] | type[TensorBoardLogger] | type[WandbLogger]] = {
    "mlflow": MLflowLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
}
"""Name -> class."""


def make_logger(name: str) -> Logger:
    """Return the logger of a name, with its defaults.

    Raises:
        OptionError: There is none, or its library is not installed.
    """
    if name not in LOGGERS:
        raise OptionError(f"unknown logger '{name}'{suggest(name, LOGGERS)}")
    return LOGGERS[name]()
