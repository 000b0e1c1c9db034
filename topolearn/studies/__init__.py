"""Many runs, and what is made of one: comparisons, sweeps, pruning again, what a finished run delivers."""

from topolearn.studies.comparison import Comparison

__all__ = ["Comparison"]
