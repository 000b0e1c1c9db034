"""The modules of every op family, found by the op's class."""

from topolearn.compiler.modules import backbone, blocks, edges, nodes
from topolearn.compiler.modules.base import (
    BatchNorm,
    ConvUnit,
    build_edge,
    build_node,
    builds_edge,
    builds_node,
    stackable,
)

__all__ = [
    "BatchNorm",
    "ConvUnit",
    "backbone",
    "blocks",
    "build_edge",
    "build_node",
    "builds_edge",
    "builds_node",
    "edges",
    "nodes",
    "stackable",
]
