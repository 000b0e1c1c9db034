"""Lifting: turns networks that people have into graphs, with their weights, and gives them back."""

from topolearn.lifting.convert import lift
from topolearn.lifting.unlift import unlift

__all__ = ["lift", "unlift"]
