"""The ops that graphs are made of: node ops and edge ops, registered by name."""

from topolearn.ops import backbone, basic, conv, edges, head, mobilenet, pool, resnet, resnext, tokens, transformer
from topolearn.ops.base import (
    EDGE_OPS,
    NODE_OPS,
    EdgeOp,
    NodeOp,
    ShapeError,
    edge_op,
    node_op,
    register_edge_op,
    register_node_op,
)
from topolearn.ops.shape import Bundle, Cost, Shape, Size, Stride

__all__ = [
    "EDGE_OPS",
    "NODE_OPS",
    "Bundle",
    "Cost",
    "EdgeOp",
    "NodeOp",
    "Shape",
    "ShapeError",
    "Size",
    "Stride",
    "backbone",
    "basic",
    "conv",
    "edge_op",
    "edges",
    "head",
    "mobilenet",
    "node_op",
    "pool",
    "register_edge_op",
    "register_node_op",
    "resnet",
    "resnext",
    "tokens",
    "transformer",
]
