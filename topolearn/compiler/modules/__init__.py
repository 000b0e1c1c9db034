"""The modules of all op families, by the op's class."""

from topolearn.compiler.modules import backbone, blocks, edges, nodes, timm_encoder, tokens, transformer
from topolearn.compiler.modules.base import (
    BatchNorm,
    ConvUnit,
    ModuleTable,
    build_edge,
    build_node,
    builds_edge,
    builds_node,
    stackable,
)

__all__ = [
    "BatchNorm",
    "ConvUnit",
    "ModuleTable",
    "backbone",
    "blocks",
    "build_edge",
    "build_node",
    "builds_edge",
    "builds_node",
    "edges",
    "nodes",
    "stackable",
    "timm_encoder",
    "tokens",
    "transformer",
]
