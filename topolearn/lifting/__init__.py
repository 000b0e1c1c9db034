"""Lifting: turns networks that people have into graphs, with their weights."""

from topolearn.lifting.convert import lift

__all__ = ["lift"]
