"""Callbacks of ``fit`` that write the numbers of a run to TensorBoard, MLflow, or Weights & Biases."""

from topolearn.loggers.base import Logger
from topolearn.loggers.mlflow import MLflowLogger
from topolearn.loggers.named import LOGGERS, make_logger
from topolearn.loggers.tensorboard import TensorBoardLogger
from topolearn.loggers.wandb import WandbLogger

__all__ = ["LOGGERS", "Logger", "MLflowLogger", "TensorBoardLogger", "WandbLogger", "make_logger"]
