"""Passes over decoders, which SparseMask runs between its search and the training of the final network.

Wu, Zhang, Huang, "SparseMask: Differentiable Connectivity Learning for Dense Image Prediction", ICCV 2019.

A *decoder stage* is a node that only adds up, or normalises too (op ``identity`` or ``batch_norm``), whose
in-edges are all ``conv_resize``, and which is no output. Since such edges take a source of any shape, a stage
that reads one stage can read another instead; a stage that anything else reads, as the head does, is a *last*
one. Of two stages the one of the larger stride is the *deeper*; of equals, the one that comes first.

The two passes that merge look at which nodes a stage reads, not at the edges' weights, so they change the
function. Nothing that they leave is dead, and nothing that they take away leaves a node without an in-edge.
Where one has gone, stages that read it can have become duplicates, and where two have been merged, subsets:
:class:`~topolearn.graph.passes.FixPoint` runs both until neither finds anything.
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
    """Ids of the decoder stages, the deepest first."""
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
    """The stages of a graph, with what they read and what reads them; changes as stages go.

    Attributes:
        stages: The stages that are left, the deepest first.
        into: Node -> source -> edge.
        readers: Node -> those that read it.
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
        """Take a stage away, with its edges."""
        for src in self.into.pop(stage):
            self.readers[src].remove(stage)
        for dst in self.readers.pop(stage):
            del self.into[dst][stage]
        self.stages.remove(stage)

    def reroute(self, old: str, new: str) -> None:
        """Let all that reads ``old`` read ``new``; whoever reads that already keeps the edge it has."""
        for dst in self.readers[old]:
            self.into[dst].setdefault(new, replace(self.into[dst][old], src=new))
            self.readers[new].add(dst)

    def graph(self, graph: Graph) -> Graph:
        """``graph`` with the nodes and edges that are left; the same one where all are."""
        if len(self.into) == len(graph.nodes):
            return graph
        return graph.replace(
            nodes={name: node for name, node in graph.nodes.items() if name in self.into},
            edges=tuple(edge for edges in self.into.values() for edge in edges.values()),
        )


@dataclass(frozen=True)
class MergeDuplicateNodes(Pass):
    """Merge every decoder stage that reads the same nodes as a deeper one into that, to the fix-point.

    Its readers read the deeper one instead. A last stage is never merged into another. Changes the function.
    """

    preserves_function: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> Graph:
        """Merge them, the deepest first."""
        wiring = _Wiring(graph)
        while pair := _duplicates(wiring):
            deeper, stage = pair
            wiring.reroute(stage, deeper)
            wiring.remove(stage)
        return wiring.graph(graph)


def _duplicates(wiring: _Wiring) -> tuple[str, str] | None:
    """A stage, and one that is less deep and can be merged into it."""
    first: dict[frozenset[str], str] = {}
    for stage in wiring.stages:
        deeper = first.setdefault(frozenset(wiring.into[stage]), stage)
        if deeper != stage and stage not in wiring.last:
            return deeper, stage
    return None


@dataclass(frozen=True)
class DropSubsetNodes(Pass):
    """Drop every decoder stage whose sources and readers are all among those of a less deep one, to the fix-point.

    Neither of the two is a last stage. Changes the function.
    """

    preserves_function: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> Graph:
        """Drop them, the deepest first."""
        wiring = _Wiring(graph)
        while (stage := _contained(wiring)) is not None:
            wiring.remove(stage)
        return wiring.graph(graph)


def _contained(wiring: _Wiring) -> str | None:
    """A stage that another can stand in for."""
    inner = [stage for stage in wiring.stages if stage not in wiring.last]
    for place, stage in enumerate(inner):
        for other in inner[place + 1 :]:
            reads_no_more = wiring.into[stage].keys() <= wiring.into[other].keys()
            if reads_no_more and wiring.readers[stage] <= wiring.readers[other]:
                return stage
    return None


@dataclass(frozen=True)
class FinaliseDecoder(Pass):
    """Give decoder stages and their in-edges the form in which the final network is trained.

    The edges lose their batch normalisation and their gate (weight 1); the stage normalises the sum, with
    scale and shift. Changes the function, and is for networks that are trained anew.
    """

    preserves_function: ClassVar[bool] = False

    def __call__(self, graph: Graph) -> Graph:
        """Change stages and edges; those that have that form already stay as they are."""
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
