"""Learn which connections of a neural network to keep.

A network is a graph in a file; which of its edges to keep is learned by gradient descent together
with the weights; what remains is an ordinary, smaller network that runs anywhere ONNX runs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from topolearn.errors import TopolearnError

if TYPE_CHECKING:
    from topolearn import learners as learners
    from topolearn.compiler import Network as Network
    from topolearn.compiler import compile as compile
    from topolearn.compiler import features as features
    from topolearn.compiler import prune as prune
    from topolearn.format import dump_graph as dump_graph
    from topolearn.format import load_graph as load_graph
    from topolearn.graph import Edge as Edge
    from topolearn.graph import Graph as Graph
    from topolearn.graph import Node as Node
    from topolearn.graph import Topology as Topology
    from topolearn.lifting import lift as lift
    from topolearn.onnx import export_onnx as export_onnx
    from topolearn.training import Comparison as Comparison
    from topolearn.training import FitResult as FitResult
    from topolearn.training import fit as fit
    from topolearn.training import load_model as load_model
    from topolearn.training import optimizers as optimizers
    from topolearn.training.compare import compare as compare

__version__ = "0.1.0"

# Public name -> module. Resolved on first use, so that `import topolearn` needs no torch.
_PUBLIC = {
    "Comparison": "topolearn.training",
    "Edge": "topolearn.graph",
    "FitResult": "topolearn.training",
    "Graph": "topolearn.graph",
    "Network": "topolearn.compiler",
    "Node": "topolearn.graph",
    "Topology": "topolearn.graph",
    "compare": "topolearn.training.compare",
    "compile": "topolearn.compiler",
    "dump_graph": "topolearn.format",
    "export_onnx": "topolearn.onnx",
    "features": "topolearn.compiler",
    "fit": "topolearn.training",
    "lift": "topolearn.lifting",
    "load_graph": "topolearn.format",
    "load_model": "topolearn.training",
    "optimizers": "topolearn.training",
    "prune": "topolearn.compiler",
}

__all__ = ["TopolearnError", "__version__", "learners", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "learners":
        return importlib.import_module("topolearn.learners")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'topolearn' has no attribute '{name}'")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
