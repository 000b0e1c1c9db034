"""Studies of runs: compare several, sweep the share of removed edges, prune one again."""

from topolearn.studies.comparison import Comparison

__all__ = ["Comparison"]
