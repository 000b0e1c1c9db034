"""Folding for inference: moves batch normalisation and constant edge weights into convolutions, if exact."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.utils import fuse_conv_bn_eval

from topolearn.compiler import Network
from topolearn.compiler.modules import ConvUnit
from topolearn.compiler.modules.edges import ConvResize
from topolearn.compiler.plan import edge_key, shared_parts
from topolearn.graph import Edge, Node
from topolearn.ops import edges
from topolearn.ops.basic import BatchNorm


def fold_batch_norm(net: Network) -> None:
    """Fold every batch normalisation that directly follows a convolution into it; ``net`` is in eval mode."""
    for module in list(net.modules()):
        if isinstance(module, ConvUnit):
            module.fold_batch_norm()
        elif isinstance(module, fx.GraphModule):
            _fold_traced(module)


def _fold_traced(module: fx.GraphModule) -> None:
    """Fold batch normalisations of a traced backbone; a convolution whose output is a feature stays as it is."""
    modules = dict(module.named_modules())
    for node in list(module.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        norm, convolution = modules[str(node.target)], modules[str(before.target)]
        if isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
            module.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
    module.delete_all_unused_submodules()
    module.recompile()


def fold_stage_norms(net: Network, weights: list[float]) -> None:
    """Fold each node that is a batch normalisation into the convolutions of the edges that it adds up.

    This is exact, because the resizing after the convolutions is linear and leaves constants as they are.

    Args:
        net: A network in eval mode, which is changed; its other normalisations are folded already.
        weights: (E,) effective weights that :func:`fold_edge_weights` returned.
    """
    graph = net.graph
    folded = False
    for node in graph.nodes.values():
        active = [i for i in graph.in_edges(node.id) if weights[i] != 0.0]
        units = [unit for i in active if weights[i] == 1.0 and (unit := _last_convolution(net, graph.edges[i]))]
        if isinstance(node.rule, BatchNorm) and node.aggregate != "normalised" and 0 < len(units) == len(active):
            norm = net.nodes[node.id]
            assert isinstance(norm, nn.BatchNorm2d)
            for number, unit in enumerate(units):
                # Only the first one gets the shift.
                unit.conv = fuse_conv_bn_eval(unit.conv, norm if number == 0 else _without_shift(norm))
            net.nodes[node.id] = nn.Identity()
            folded = True
    for edge in graph.edges if folded else ():
        # Convolutions of one source run as one, so either all have a bias or none has.
        unit = _last_convolution(net, edge)
        if unit is not None and unit.conv.bias is None:
            unit.conv.bias = nn.Parameter(torch.zeros_like(unit.conv.weight[:, 0, 0, 0]), requires_grad=False)


def _last_convolution(net: Network, edge: Edge) -> ConvUnit | None:
    """Return the part of a ``conv_resize`` edge before its resizing, if it ends in a convolution; else None."""
    module = net.edges[edge_key(edge)] if edge.op == edges.ConvResize.op_name else None
    return module.unit if isinstance(module, ConvResize) and module.unit.layout[-1] == "conv" else None


def _without_shift(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Copy a batch normalisation without its shift."""
    scale = copy.deepcopy(norm)
    assert scale.running_mean is not None
    scale.running_mean.zero_()
    if scale.bias is not None:
        nn.init.zeros_(scale.bias)
    return scale


def fold_edge_weights(net: Network, weights: list[float]) -> list[float]:
    """Move edge weights into neighbouring modules.

    An edge with a convolution takes its weight into the convolution. If all in-edges of a node then have a common
    weight c, the node's first layer takes it, if it can compute ``f(c x)`` exactly.

    Args:
        net: A network, which is changed.
        weights: (E,) effective weights.

    Returns:
        (E,) weights that remain to be applied.
    """
    left = list(weights)
    for node in net.graph.nodes.values():
        if node.op != "input" and not node.rule.takes_bundle:
            _fold_node(net, node, left)
    return left


def _fold_node(net: Network, node: Node, left: list[float]) -> None:
    graph = net.graph
    row = graph.in_edges(node.id)
    for i in row:
        if graph.edges[i].rule.has_parameters and left[i] not in (0.0, 1.0):
            scale = getattr(net.edges[edge_key(graph.edges[i])], "scale_output", None)
            if scale is not None and scale(left[i]):
                left[i] = 1.0
    common = {left[i] for i in row if left[i] != 0.0}
    if len(common) != 1 or common == {1.0} or node.aggregate == "normalised" or shared_parts(graph, node.id):
        return
    module: nn.Module = net.nodes[node.id]
    scale = getattr(module, "scale_input", None)
    if scale is not None and scale(common.pop()):
        for i in row:
            left[i] = 1.0 if left[i] != 0.0 else 0.0
