"""A network's feature maps by name, for detectors and segmenters that take a backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from topolearn.compiler.network import Network, prune_to, require_network
from topolearn.errors import GraphError, OptionError, suggest
from topolearn.graph import Graph
from topolearn.ops import Shape


class Features(nn.Module):
    """A backbone that returns some nodes' outputs as an ordered dict, as torchvision's models expect.

    Attributes:
        net: The network that computes them, without the parts that only other outputs need.
        names: Id of a node -> name of its feature map.
        channels: Name -> channels of the feature map.
        strides: Name -> stride of the feature map relative to the image.
    """

    def __init__(self, net: Network, names: Mapping[str, str]) -> None:
        super().__init__()
        self.net = net
        self.names = dict(names)
        self.channels: dict[str, int] = {}
        self.strides: dict[str, int] = {}
        for node, name in names.items():
            shape = _map_shape(net.graph, node)
            assert isinstance(shape.stride, int)
            self.channels[name], self.strides[name] = shape.channels, shape.stride

    def forward(self, *inputs: Tensor, **named: Tensor) -> OrderedDict[str, Tensor]:
        """Map (N, C, H, W) to (N, channels, ceil(H / stride), ceil(W / stride)) by name, in the order of ``names``.

        Args:
            inputs: The image.
            named: Inputs by id, if there are several.
        """
        outputs = self.net(*inputs, **named)
        if isinstance(outputs, Tensor):
            outputs = dict.fromkeys(self.names, outputs)  # there is only one
        return OrderedDict((name, outputs[node]) for node, name in self.names.items())


def features(net: nn.Module, names: Sequence[str] | Mapping[str, str]) -> Features:
    """Make a backbone for detection or segmentation that returns feature maps of a network.

    The backbone has the network's weights and is pruned as by :func:`topolearn.prune`. If the network has a learner, it
    keeps the edges that the learner would keep, at their weights; otherwise the edges whose weight is not 0. The
    classifier is removed, with everything that only it needs. The network itself does not change.

    Args:
        net: A network, also inside a plain wrapper such as DDP.
        names: Ids of nodes, or id -> name that its feature map gets.

    Returns:
        A module from images to an ordered dict of feature maps by name, in the order given.

    Raises:
        GraphError: A node does not exist, is cut off from the input, or gives no feature map.
        OptionError: No name is given, or one name for two nodes.
    """
    net = require_network(net, "features")
    wanted = _wanted(names)
    topology = net.topology()
    fed = {*net.graph.inputs, *(edge.dst for edge, kept in zip(net.graph.edges, topology.keep, strict=True) if kept)}
    for node in wanted:
        _map_shape(net.graph, node)
        if node not in fed:
            raise GraphError(
                f"node '{node}' gives no features: all edges into it were removed; name a node that is left", node=node
            )
    return Features(prune_to(net, tuple(wanted), topology), wanted).train(net.training)


def _wanted(names: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    if isinstance(names, str):
        raise OptionError(f"give the names of features as a list or a mapping; write ['{names}']")
    wanted = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    if not wanted:
        raise OptionError("name at least one node whose feature map to take")
    for name in wanted.values():
        if list(wanted.values()).count(name) > 1:
            raise OptionError(f"two feature maps are both called '{name}'; give each a different name")
    return wanted


def _map_shape(graph: Graph, node: str) -> Shape:
    if node not in graph.nodes:
        raise GraphError(f"the network has no node '{node}'{suggest(node, graph.nodes)}", node=node)
    shape = graph.shapes[node]
    if not isinstance(shape, Shape) or not isinstance(shape.stride, int):
        raise GraphError(f"node '{node}' gives {shape}, which is not a feature map; name another node", node=node)
    return shape
