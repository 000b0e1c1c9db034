"""Graphs (the IR), their verification, topologies, and passes over graphs. Imports no torch."""

from topolearn.graph.chain import chain_edges
from topolearn.graph.cost import GraphCost
from topolearn.graph.decoder import DropSubsetNodes, FinaliseDecoder, MergeDuplicateNodes
from topolearn.graph.ir import Graph
from topolearn.graph.passes import (
    BindFanIn,
    EliminateDead,
    FixPoint,
    KeepEdges,
    Pass,
    RemoveIdleRelus,
    UnitWeights,
    apply_passes,
)
from topolearn.graph.price import one_level_params
from topolearn.graph.removal import removal_order, without
from topolearn.graph.skipping import Removable, is_by_block, removables
from topolearn.graph.source import Source
from topolearn.graph.topology import Topology
from topolearn.graph.wiring import AGGREGATES, Edge, Node

__all__ = [
    "AGGREGATES",
    "BindFanIn",
    "DropSubsetNodes",
    "Edge",
    "EliminateDead",
    "FinaliseDecoder",
    "FixPoint",
    "Graph",
    "GraphCost",
    "KeepEdges",
    "MergeDuplicateNodes",
    "Node",
    "Pass",
    "Removable",
    "RemoveIdleRelus",
    "Source",
    "Topology",
    "UnitWeights",
    "apply_passes",
    "chain_edges",
    "is_by_block",
    "one_level_params",
    "removables",
    "removal_order",
    "without",
]
