"""Prediction: image files in, classes, masks and pictures out."""

from topolearn.prediction.examples import draw_examples
from topolearn.prediction.inputs import Skipped
from topolearn.prediction.model import Model, load
from topolearn.prediction.predict import Prediction, Predictions, predict

__all__ = ["Model", "Prediction", "Predictions", "Skipped", "draw_examples", "load", "predict"]
