"""Prediction with trained networks: classes, masks and pictures for image files; continuations for prompts."""

from topolearn.errors import printable
from topolearn.prediction.continuing import continue_text
from topolearn.prediction.examples import draw_examples
from topolearn.prediction.inputs import Skipped
from topolearn.prediction.model import Model
from topolearn.prediction.opening import load
from topolearn.prediction.predict import Prediction, Predictions, predict, predict_validation
from topolearn.prediction.run_samples import run_samples
from topolearn.prediction.text_model import TextModel

__all__ = [
    "Model",
    "Prediction",
    "Predictions",
    "Skipped",
    "TextModel",
    "continue_text",
    "draw_examples",
    "load",
    "predict",
    "predict_validation",
    "printable",
    "run_samples",
]
