"""Graph -> nn.Module: the plan, the aggregation, the interpreters, and pruning of networks."""

from topolearn.compiler.dag import DAG
from topolearn.compiler.network import Network, compile, prune
from topolearn.compiler.reference import ReferenceDAG

__all__ = ["DAG", "Network", "ReferenceDAG", "compile", "prune"]
