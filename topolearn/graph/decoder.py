"""Passes over decoders. SparseMask runs them between its search and the training of the final network.

Wu, Zhang, Huang, "SparseMask: Differentiable Connectivity Learning for Dense Image Prediction", ICCV 2019.

A *decoder stage* is a node that adds its in-edges and may normalise the sum (op ``identity`` or ``batch_norm``). All
its in-edges are ``conv_resize``, and it is no output. Such an edge takes a source of any shape, so a stage can read
any other stage instead. A stage that something other than a stage reads, such as the head, is a *last* stage. Of two
stages, the one with the larger stride is *deeper*; with equal strides, the one that comes first.

:class:`MergeDuplicateNodes` and :class:`DropSubsetNodes` compare which nodes a stage reads, not the weights of its
edges, so they change the function. They leave no dead node and no node without an in-edge. Dropping a stage can make
its readers duplicates, and merging two stages can make others subsets.
:class:`~topolearn.graph.passes.FixPoint` runs both passes until neither changes anything.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from topolearn.frozen import EMPTY, FrozenMap
from topolearn.graph.ir import Graph
from topolearn.graph.passes import Pass
from topolearn.graph.wiring import Edge, Node
from topolearn.ops.basic import BatchNorm, Identity
from topolearn.ops.edges import ConvResize


def decoder_stages(graph: Graph) -> tuple[str, ...]:
    """Return the ids of the decoder stages, the deepest first."""
    found = [node for node in graph.nodes.values() if _is_stage(graph, node)]
    return tuple(node.id for node in sorted(found, key=lambda node: -_stride(node)))


def _is_stage(graph: Graph, node: Node) -> bool:
    incoming = graph.in_edges(node.id)
    return (
        type(node.rule) in (Identity, BatchNorm)
        and node.aggregate != "concat"
        and node.id not in graph.outputs
        and len(incoming) > 0
        and all(graph.edges[i].op == ConvResize.op_name for i in incoming)
    )


def _stride(node: Node) -> float:
    stride = None if node.input is None else node.input.stride
    return stride if isinstance(stride, int) else math.inf


class _Wiring:
    """The stages of a graph, with their sources and readers; mutable, for removing stages.

    Attributes:
        stages: The remaining stages, the deepest first.
        into: Node -> source -> edge.
        readers: Node -> the nodes that read it.
        last: The last stages.
    """

    def __init__(self, graph: Graph) -> None:
        self.stages = list(decoder_stages(graph))
        self.into: dict[str, dict[str, Edge]] = {node: {} for node in graph.nodes}
        self.readers: dict[str, set[str]] = {node: set() for node in graph.nodes}
        for edge in graph.edges:
            self.into[edge.dst][edge.src] = edge
            self.readers[edge.src].add(edge.dst)
        self.last = {edge.src for edge in graph.edges if edge.dst not in self.stages}.intersection(self.stages)

    def remove(self, stage: str) -> None:
        """Remove a stage and its edges."""
        for src in self.into.pop(stage):
            self.readers[src].remove(stage)
        for dst in self.readers.pop(stage):
            del self.into[dst][stage]
        self.stages.remove(stage)

    def reroute(self, old: str, new: str) -> None:
        """Let every reader of ``old`` read ``new``; a node that already reads ``new`` keeps its edge."""
        for dst in self.readers[old]:
            self.into[dst].setdefault(new, replace(self.into[dst][old], src=new))
            self.readers[new].add(dst)

    def graph(self, graph: Graph) -> Graph:
        """Return ``graph`` with the remaining nodes and edges; the same object if nothing was removed."""
        if len(self.into) == len(graph.nodes):
            return graph
        return graph.replace(
            nodes={name: node for name, node in graph.nodes.items() if name in self.into},
            edges=tuple(edge for edges in self.into.values() for edge in edges.values()),
        )


@dataclass(frozen=True)
class MergeDuplicateNodes(Pass):
    """Merge decoder stages that read the same nodes into the deepest of them, until nothing changes.

    Readers of a merged stage read the deeper one instead. A last stage is never merged into another. Changes the
    function.
    """

    preserves_function: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> Graph:
        """Merge duplicate stages, the deepest first."""
        wiring = _Wiring(graph)
        while pair := _duplicates(wiring):
            deeper, stage = pair
            wiring.reroute(stage, deeper)
            wiring.remove(stage)
        return wiring.graph(graph)


def _duplicates(wiring: _Wiring) -> tuple[str, str] | None:
    """Return a stage, and a less deep one that can be merged into it; None if there is none."""
    first: dict[frozenset[str], str] = {}
    for stage in wiring.stages:
        deeper = first.setdefault(frozenset(wiring.into[stage]), stage)
        if deeper != stage and stage not in wiring.last:
            return deeper, stage
    return None


@dataclass(frozen=True)
class DropSubsetNodes(Pass):
    """Drop every decoder stage if a less deep stage has all its sources and readers, until there is no such stage.

    Neither of the two is a last stage. Changes the function.
    """

    preserves_function: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> Graph:
        """Drop such stages, the deepest first."""
        wiring = _Wiring(graph)
        while (stage := _contained(wiring)) is not None:
            wiring.remove(stage)
        return wiring.graph(graph)


def _contained(wiring: _Wiring) -> str | None:
    """Return a stage that another one can replace; None if there is none."""
    inner = [stage for stage in wiring.stages if stage not in wiring.last]
    for place, stage in enumerate(inner):
        for other in inner[place + 1 :]:
            reads_no_more = wiring.into[stage].keys() <= wiring.into[other].keys()
            if reads_no_more and wiring.readers[stage] <= wiring.readers[other]:
                return stage
    return None


@dataclass(frozen=True)
class FinaliseDecoder(Pass):
    """Give decoder stages and their in-edges the form that the final network is trained in.

    The edges lose their batch normalisation and their gate (weight 1). The stage normalises the sum, with scale and
    shift. Changes the function: use it for networks that are trained again from the start.
    """

    preserves_function: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> Graph:
        """Change stages and edges that do not have that form yet."""
        stages = frozenset(decoder_stages(graph))
        nodes = [_final_stage(node) if node.id in stages else node for node in graph.nodes.values()]
        edges = [_final_edge(edge) if edge.dst in stages else edge for edge in graph.edges]
        return graph.replace(nodes=nodes, edges=tuple(edges))


def _final_stage(node: Node) -> Node:
    final = isinstance(node.rule, BatchNorm) and node.rule.affine and node.aggregate == "sum"
    return node if final else replace(node, op=BatchNorm.op_name, params=EMPTY, aggregate="sum")


def _final_edge(edge: Edge) -> Edge:
    assert isinstance(edge.rule, ConvResize)
    if not edge.rule.batch_norm:
        return replace(edge, weight=1.0)
    others = {name: value for name, value in edge.params.items() if name != "affine"}
    return replace(edge, params=FrozenMap({**others, "batch_norm": False}), weight=1.0)
