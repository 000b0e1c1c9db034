"""Lifting: turns torchvision networks into graphs, with their weights."""

from topolearn.lifting.convert import lift
from topolearn.lifting.pretrained import liftable

__all__ = ["lift", "liftable"]
