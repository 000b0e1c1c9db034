"""The IR: graphs, their verification, topologies, and passes over them. Imports no torch."""

from topolearn.graph.cost import GraphCost, one_level_params
from topolearn.graph.ir import AGGREGATES, Edge, Graph, Node
from topolearn.graph.passes import BindFanIn, EliminateDead, KeepEdges, Pass, UnitWeights, apply_passes
from topolearn.graph.topology import Topology

__all__ = [
    "AGGREGATES",
    "BindFanIn",
    "Edge",
    "EliminateDead",
    "Graph",
    "GraphCost",
    "KeepEdges",
    "Node",
    "Pass",
    "Topology",
    "UnitWeights",
    "apply_passes",
    "one_level_params",
]
