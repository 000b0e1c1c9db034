"""Training: ``fit``, and its parts for your own training loop."""

from topolearn.training.fitting import fit
from topolearn.training.memory import kept_memory
from topolearn.training.optim import lr_factor, optimizers

__all__ = ["fit", "kept_memory", "lr_factor", "optimizers"]
