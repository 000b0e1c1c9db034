"""Training: ``fit`` and its parts, for those who have a loop already."""

from topolearn.training.fitting import fit
from topolearn.training.optim import lr_factor, optimizers

__all__ = ["fit", "lr_factor", "optimizers"]
