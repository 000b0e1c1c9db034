"""``unlift``: gives a lifted network's own class back, with what was learned and without what was removed."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from topolearn.compiler import Network, prune
from topolearn.compiler.modules.part import reading_size
from topolearn.compiler.network import require_network
from topolearn.errors import GraphError, LiftError
from topolearn.graph import Edge, Graph, KeepEdges, RemoveIdleRelus, Topology, apply_passes
from topolearn.lifting.convert import outline
from topolearn.lifting.equal_outputs import difference, evaluating, outputs, tolerance_of
from topolearn.lifting.parts import graph_of
from topolearn.lifting.sources import SOURCE
from topolearn.lifting.surgery import remove
from topolearn.ops import Shape
from topolearn.ops.part import NetworkPart
from topolearn.tracing.builders import open_source
from topolearn.tracing.opened import Opened
from topolearn.tracing.region import Region

_EXITS = "export it as ONNX, .pt2 or PyTorch source instead"
_SUMS = ("identity", "relu")
"""Ops of the nodes that add branches: they hold no modules of the network."""


def unlift(net: nn.Module) -> nn.Module:
    """Give back the network that was lifted: its own class, with the weights of ``net``.

    What was removed from ``net`` is gone: a block becomes an ``nn.Identity``. Where only a branch was removed, the
    modules of the branch become ones without parameters. A weight other than 1 of an edge is multiplied into the last
    layer before it, if that is exact. The names in the ``state_dict`` are those of the original.

    Args:
        net: A network that :func:`topolearn.lift` made: trained, pruned or searched, or loaded by
            :func:`topolearn.load_model`. It is not changed. If it has a learner, edges are kept as by
            :func:`topolearn.prune`.

    Returns:
        A network of the original's class, in the mode, precision and device of ``net``. In eval mode, it gives the same
        outputs as ``net`` for a random input, to 1e-5 of the largest one.

    Raises:
        LiftError: The network was not lifted; or the class cannot compute what was learned, such as an edge around
            several blocks.
        OptionError: Not a network over a graph.
    """
    small = prune(require_network(net, "unlift"))
    graph = small.graph
    if SOURCE not in graph.sources:
        raise LiftError(
            "this graph does not say which network it was lifted from, so there is no class to give back; lift a"
            f" network first, or {_EXITS}"
        )
    opened = open_source(graph.sources[SOURCE], reading_size(graph))
    with torch.random.fork_rng(devices=[]):
        model = copy.deepcopy(opened.make())
    origin = _origin(graph, opened, model)
    try:
        _fold(small)
        branches, bypassed = _removed(origin, small.graph)
        remove(opened, model, branches, bypassed)
        _load(model, small, origin.places)
        model.train(small.training)
        _check(model, small)
    except LiftError as error:
        raise LiftError(f"cannot give back the {type(model).__name__}: {error.message}; {_EXITS}") from None
    return model


@dataclass(frozen=True)
class _Origin:
    """The network as it was lifted.

    Attributes:
        graph: Its graph.
        opened: What it computes.
        places: Path of a module of ours -> path in the network; of modules that are not copies of the network's.
        bodies: Id of a node -> the operations that it computes.
    """

    graph: Graph
    opened: Opened
    places: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, set[int]] = field(default_factory=dict)


def _origin(now: Graph, opened: Opened, model: nn.Module) -> _Origin:
    """Lift the network again, without computing anything: nodes get the same ids each time."""
    flow, trace = opened.flow, opened.flow.trace
    if all(node.op in ("input", *_SUMS, NetworkPart.op_name) for node in now.nodes.values()):
        graph = graph_of(opened, now.name, now.sources[SOURCE], now.input_size(now.inputs[0]))
        ends = {
            name: _ends(graph, opened, name) for name, node in graph.nodes.items() if node.op == NetworkPart.op_name
        }
        return _Origin(graph, opened, {}, {name: flow.inside(*pair) for name, pair in ends.items()})
    draft = outline(model, now.name, now.image)
    places = {ours: theirs for theirs, ours in draft.places.items()}
    bodies: dict[str, set[int]] = {}
    for ours, theirs in places.items():
        table, name, *_ = ours.split(".")
        calls = [call for call in trace.calls if f"{call.path}.".startswith(f"{theirs}.")]
        if table == "nodes":
            bodies.setdefault(name, set()).update(*(range(call.start, call.stop) for call in calls))
    return _Origin(draft.graph(), opened, places, bodies)


def _ends(graph: Graph, opened: Opened, name: str) -> tuple[int, int]:
    rule = graph.nodes[name].rule
    assert isinstance(rule, NetworkPart)
    return opened.number(rule.after), opened.number(rule.until)


def _removed(origin: _Origin, now: Graph) -> tuple[set[int], dict[int, int]]:
    """Return the operations of removed branches, and the ends of removed blocks.

    Raises:
        LiftError: More was changed than that.
    """
    whole = origin.graph
    gone = {name for name, node in whole.nodes.items() if name not in now.nodes and node.op not in _SUMS}
    keep = []
    bypassed: dict[int, int] = {}
    for edge in whole.edges:
        kept = edge.src not in gone and edge.weight != 0.0
        if edge.weight == 0.0:
            others = [whole.edges[i] for i in whole.in_edges(edge.dst)]
            blocks = [other.src for other in others if other.weight != 0.0]
            kept = gone.issuperset(blocks)
            if kept:  # the edge around a block that was removed
                entry, exit = _ends(whole, origin.opened, blocks[0])
                bypassed[exit] = entry
        keep.append(kept)
    topology = Topology(tuple(keep), (1.0,) * len(keep))
    try:
        expected = apply_passes(whole, KeepEdges(topology), RemoveIdleRelus())
    except GraphError as error:
        raise LiftError(error.message) from None
    _compare(expected, now)
    blocks_ops = set().union(*(origin.opened.flow.inside(entry, exit) for exit, entry in bypassed.items()))
    branches = set().union(*(origin.bodies[name] for name in gone)) - blocks_ops
    return branches, bypassed


def _compare(expected: Graph, now: Graph) -> None:
    """Raise a LiftError unless a graph is the one that the class computes without what was removed."""
    wanted, found = ({(edge.src, edge.dst): edge for edge in graph.edges} for graph in (expected, now))
    for pair, edge in found.items():
        where = f"edge {edge.src} -> {edge.dst}"
        if pair not in wanted:
            raise LiftError(f"it has no {where}, which was learned")
        if edge.weight != 1.0:
            raise LiftError(
                f"{where} has the weight {edge.weight:.4g}, which cannot be multiplied into a layer of '{edge.src}'"
            )
    for pair, edge in wanted.items():
        if pair not in found:
            raise LiftError(f"it cannot do without the edge {edge.src} -> {edge.dst}, unless '{edge.src}' is gone too")
    for name, node in now.nodes.items():
        if node != expected.nodes.get(name):
            raise LiftError(f"node '{name}' has been changed in the graph")


def _fold(net: Network) -> None:
    """Multiply weights of edges into the nodes that they start from, if all edges of a node have one weight."""
    edges = net.graph.edges
    weights = {edge.src: {other.weight for other in edges if other.src == edge.src} for edge in edges}
    factors = {name: found.pop() for name, found in weights.items() if len(found) == 1}
    folded = {name for name, factor in factors.items() if factor != 1.0 and _scale(net, name, factor)}
    if folded:
        net.graph = net.graph.replace(edges=[_with_weight_1(edge) if edge.src in folded else edge for edge in edges])
        net.set_edge_weights([edge.weight for edge in net.graph.edges])


def _with_weight_1(edge: Edge) -> Edge:
    return replace(edge, weight=1.0)


def _scale(net: Network, name: str, factor: float) -> bool:
    """Multiply a node's output by a factor, by the parameters of one of its last layers; return whether that works."""
    if net.graph.nodes[name].op in (*_SUMS, "input"):
        return False
    module = net.nodes[name]
    x = _example(net, name)
    with torch.no_grad(), evaluating(module):
        wanted = module(x) * factor
        for part in reversed(list(module.modules())):
            own = list(part.parameters(recurse=False))
            before = [tensor.clone() for tensor in own]
            for tensor in own:
                tensor.mul_(factor)
            if own and difference(module(x), wanted) <= tolerance_of(x.dtype):
                return True
            for tensor, value in zip(own, before, strict=True):
                tensor.copy_(value)
    return False


def _example(net: Network, name: str) -> Tensor:
    """Return a random input of a node, for a batch of two."""
    graph, shape = net.graph, net.graph.nodes[name].input
    assert isinstance(shape, Shape)
    dims = (shape.channels, *(shape.size(graph.image) if shape.is_map else ()))
    if shape.is_tokens:
        assert shape.length is not None
        dims = (shape.length, shape.channels)
    first = next(parameter for parameter in net.parameters() if parameter.is_floating_point())
    module = net.nodes[name]
    factor, axis = (module.factor, module.axis) if isinstance(module, Region) else (1, 0)
    rows = 2 * factor  # windows of an image are rows too
    numbers = torch.Generator().manual_seed(0)
    x = torch.randn(rows, *(shape.dims or dims), generator=numbers).to(device=first.device, dtype=first.dtype)
    return x.movedim(0, axis)


def _load(model: nn.Module, net: Network, places: Mapping[str, str]) -> None:
    """Give a model the tensors of a network that was lifted from it."""
    for first in itertools.islice(net.parameters(), 1):
        model.to(first.device)
    mine = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for ours, tensor in (*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)):
        table, _, rest = ours.partition(".")
        path, _, leaf = ours.rpartition(".")
        name = f"{places[path]}.{leaf}" if path in places else rest.partition(".")[2]
        if table != "shared" and name in mine:
            mine[name].data = tensor.detach().clone()
            mine[name].requires_grad_(tensor.requires_grad)


def _check(model: nn.Module, net: Network) -> None:
    """Raise a LiftError unless two networks compute the same."""
    size = reading_size(net.graph)
    try:
        found = outputs(model, size)
    except LiftError as error:
        raise LiftError(f"without what was removed{error.message.partition(':')[2]}") from None
    wanted = outputs(net, size)
    differs_by = difference(found, wanted)
    if not differs_by <= tolerance_of(next(net.parameters(), wanted).dtype):
        raise LiftError(f"without what was removed, what it computes differs by {differs_by:.2g} of the largest output")
