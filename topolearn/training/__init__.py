"""Training: fit, its optimisers, data, and what a run leaves behind."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topolearn.training.artefacts import load_model as load_model
    from topolearn.training.comparison import Comparison as Comparison
    from topolearn.training.optim import lr_factor as lr_factor
    from topolearn.training.optim import optimizers as optimizers
    from topolearn.training.options import TrainOptions as TrainOptions
    from topolearn.training.result import FitResult as FitResult
    from topolearn.training.result import read_result as read_result
    from topolearn.training.run import fit as fit

# Public name -> module. Resolved on first use, so that `load_model` needs no code of the search.
_PUBLIC = {
    "Comparison": "comparison",
    "FitResult": "result",
    "TrainOptions": "options",
    "fit": "run",
    "load_model": "artefacts",
    "lr_factor": "optim",
    "optimizers": "optim",
    "read_result": "result",
}

__all__ = ["Comparison", "FitResult", "TrainOptions", "fit", "load_model", "lr_factor", "optimizers", "read_result"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'topolearn.training' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"topolearn.training.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
