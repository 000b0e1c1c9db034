"""What each task trains and judges by: losses, metrics, and what data and outputs must be."""

from topolearn.tasks.evaluation import Evaluation, Loss, Metric, default_loss, default_metrics

__all__ = ["Evaluation", "Loss", "Metric", "default_loss", "default_metrics"]
