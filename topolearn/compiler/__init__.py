"""Compiles a graph to an nn.Module; prunes networks and takes their feature maps."""

from topolearn.compiler.dag import DAG
from topolearn.compiler.feature_maps import Features, features
from topolearn.compiler.modules import builds_edge, builds_node
from topolearn.compiler.modules.part import with_networks
from topolearn.compiler.network import Network, compile, load_pretrained, prune
from topolearn.compiler.reference import ReferenceDAG
from topolearn.compiler.timing import measure

__all__ = [
    "DAG",
    "Features",
    "Network",
    "ReferenceDAG",
    "builds_edge",
    "builds_node",
    "compile",
    "features",
    "load_pretrained",
    "measure",
    "prune",
    "with_networks",
]
