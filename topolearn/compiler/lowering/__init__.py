"""Turns a graph into a plan: the plain plan, and passes that make it faster without changing what it computes."""

from topolearn.compiler.lowering.fans import make_fans
from topolearn.compiler.lowering.late_resizes import resize_late
from topolearn.compiler.lowering.plain import make_plan, plain_plan
from topolearn.compiler.lowering.siblings import Siblings, find_siblings, merge_siblings

__all__ = ["Siblings", "find_siblings", "make_fans", "make_plan", "merge_siblings", "plain_plan", "resize_late"]
