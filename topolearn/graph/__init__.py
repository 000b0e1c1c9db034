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
from topolearn.graph.skippable import Skippable, is_by_block, skippables
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
    "RemoveIdleRelus",
    "Skippable",
    "Source",
    "Topology",
    "UnitWeights",
    "apply_passes",
    "chain_edges",
    "is_by_block",
    "one_level_params",
    "removal_order",
    "skippables",
    "without",
]
