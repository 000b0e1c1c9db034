"""Folding: the function stays, batch normalisations go, and edge weights go where that is exact."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from tests.compiler import samples, toys
from tests.compiler.test_equivalence import HAND_MADE, by_name
from tests.strategies import graphs
from topolearn.compiler import Network
from topolearn.compiler.modules import ConvUnit
from topolearn.graph import Edge, Graph, Node
from topolearn.onnx.fold import fold_batch_norm, fold_edge_weights, fold_stage_norms
from topolearn.ops import Shape


def folded(net: Network) -> tuple[Network, list[float]]:
    """A folded copy and the weights that are left."""
    other = copy.deepcopy(net)
    fold_batch_norm(other)
    weights = net.effective_weights()
    assert isinstance(weights, tuple)
    left = fold_edge_weights(other, list(weights))
    fold_stage_norms(other, left)
    other._link()  # as an export does: what runs several modules as one holds their convolutions
    return other, left


def check(net: Network) -> tuple[Network, list[float]]:
    net.eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    other, left = folded(net)
    inputs = toys.examples(net.graph, 3, torch.float64)
    given = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    with torch.no_grad():
        wanted = toys.as_dict(net, net.dag(given, net.effective_weights()))
        found = toys.as_dict(net, other.dag(given, left))
    for name, output in wanted.items():
        toys.same(found[name], output, 1e-9, name)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    for module in other.modules():
        if isinstance(module, ConvUnit) and "bn" in module.layout:
            assert module.layout[0] == "bn"  # what comes before is another node's
    return other, left


@given(graph=graphs(max_inputs=2), seed=st.integers(0, 1000))
@settings(max_examples=50)
def test_random_graphs(graph: Graph, seed: int) -> None:
    net = toys.build(graph, dtype=torch.float64, seed=seed)
    weights = toys.edge_weights(graph, seed=seed)
    weights[seed % 3 :: 3] *= -0.5  # fixed edges too
    net.set_edge_weights(weights)
    check(net)


@by_name
@pytest.mark.parametrize("common", [0.5, -2.0])
def test_hand_made_graphs(name: str, common: float) -> None:
    graph = HAND_MADE[name]
    net = toys.build(graph, dtype=torch.float64)
    net.set_edge_weights([common if edge.learnable else edge.weight for edge in graph.edges])
    check(net)


@pytest.mark.parametrize("name", samples.GRAPHS)
def test_every_op(name: str) -> None:
    graph = samples.sample(name)
    net = toys.build(graph, dtype=torch.float64)
    net.set_edge_weights([-1.5] * len(graph.edges))
    check(net)


MAP = Shape(4, 1)


def one_consumer(op: str, params: dict[str, Any], x: Shape = MAP, edge: str = "identity") -> Graph:
    """a and b -> x over edges without a convolution."""
    start = [Node(n, "conv", {"out_channels": 4}) for n in "ab"]
    if x.stride is None:
        start = [Node(n, "linear", {"out_features": 4}) for n in "ab"]
    size = (3,) if x.stride is None else (3, 8, 8)
    return toys.graph(
        [Node("image", "input", {"size": size}), *start, Node("x", op, params, "sum", x)],
        [Edge("image", "a"), Edge("image", "b"), Edge("a", "x", edge), Edge("b", "x", edge)],
    )


CLASSES = {"classes": 3}
CONSUMERS = [
    ("classifier", CLASSES, 0.5, True),
    ("classifier", CLASSES, -0.5, True),
    ("classifier", {**CLASSES, "activation": "relu"}, 0.5, True),
    ("classifier", {**CLASSES, "activation": "relu"}, -0.5, False),
    ("classifier", {**CLASSES, "activation": "relu6"}, 0.5, False),
    ("segmentation_head", {**CLASSES, "activation": "relu"}, 0.5, True),
    ("segmentation_head", {**CLASSES, "activation": "none"}, -0.5, True),
    ("segmentation_head", CLASSES, 0.5, False),
    ("conv", {"out_channels": 3}, -0.5, True),
    ("conv_bn_relu", {"out_channels": 3}, -0.5, True),
    ("relu_conv_bn", {"out_channels": 3}, 0.5, True),
    ("relu_conv_bn", {"out_channels": 3}, -0.5, False),
    ("bn_relu_conv", {"out_channels": 3}, 0.5, False),
    ("sepconv_bn_relu", {"out_channels": 3}, -0.5, True),
    ("relu_sepconv_bn", {"out_channels": 3}, 0.5, True),
    ("mobilenetv2.inverted_bottleneck", {"out_channels": 6}, -0.5, True),
    ("mobilenetv2.inverted_bottleneck", {"out_channels": 6, "expansion": 1}, 0.5, True),
    ("mobilenetv2.inverted_bottleneck", {"out_channels": 4}, 0.5, False),
    ("resnet.basic", {"channels": 4}, 0.5, False),
    ("resnet.preact", {"channels": 4}, 0.5, False),
    ("resnet.basic_branch", {"channels": 4}, -0.5, True),
    ("resnet.bottleneck_branch", {"channels": 4, "width": 2, "squeeze": 2}, 0.5, True),
    ("max_pool", {}, 0.5, False),
]


@pytest.mark.parametrize(("op", "params", "common", "exact"), CONSUMERS)
def test_a_common_weight_goes_into_the_consumer_where_exact(
    op: str, params: dict[str, Any], common: float, exact: bool
) -> None:
    net = toys.build(one_consumer(op, params), dtype=torch.float64)
    net.set_edge_weights([1.0, 1.0, common, common])
    _, left = check(net)
    assert left == [1.0, 1.0, *([1.0] * 2 if exact else [common] * 2)]


def test_a_linear_layer_takes_a_common_weight() -> None:
    net = toys.build(one_consumer("linear", {"out_features": 3}, Shape(4, None)), dtype=torch.float64)
    net.set_edge_weights([1.0, 1.0, -3.0, -3.0])
    assert check(net)[1] == [1.0] * 4


def test_an_edge_that_is_off_stays_off_and_different_weights_stay() -> None:
    net = toys.build(one_consumer("conv", {"out_channels": 3}), dtype=torch.float64)
    net.set_edge_weights([1.0, 1.0, 0.0, 0.5])
    assert check(net)[1] == [1.0, 1.0, 0.0, 1.0]
    net.set_edge_weights([1.0, 1.0, 0.25, 0.5])
    assert check(net)[1] == [1.0, 1.0, 0.25, 0.5]
    net.set_edge_weights([1.0, 1.0, 0.0, 0.0])
    assert check(net)[1] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("edge", ["project", "conv_resize"])
def test_an_edge_with_a_convolution_takes_its_own_weight(edge: str) -> None:
    net = toys.build(one_consumer("max_pool", {}, Shape(6, 2), edge), dtype=torch.float64)
    net.set_edge_weights([1.0, 1.0, 0.25, -0.5])
    assert check(net)[1] == [1.0] * 4


def test_the_divisor_of_a_mean_folds_like_any_weight() -> None:
    graph = one_consumer("conv", {"out_channels": 3})
    mean = [
        node if node.id != "x" else Node("x", "conv", node.params, "mean", node.input) for node in graph.nodes.values()
    ]
    assert check(toys.build(graph.replace(nodes=mean), dtype=torch.float64))[1] == [1.0] * 4


def test_a_normalised_sum_keeps_its_weights() -> None:
    graph = one_consumer("conv", {"out_channels": 3})
    nodes = [
        node if node.id != "x" else Node("x", "conv", node.params, "normalised", node.input)
        for node in graph.nodes.values()
    ]
    net = toys.build(graph.replace(nodes=nodes), dtype=torch.float64)
    net.set_edge_weights([1.0, 1.0, 0.5, 0.5])
    assert check(net)[1] == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_the_normalisation_of_a_stage_goes_into_what_it_adds_up(mode: str) -> None:
    """Of two stages that read the same nodes, so that their convolutions run as one; the second reads the first too."""
    size, edge = Shape(6, 2), {"mode": mode}
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 6)}),
            Node("e1", "conv_bn", {"out_channels": 3, "stride": 2}),
            Node("e2", "conv_bn", {"out_channels": 4, "stride": 2}),
            Node("pool", "global_avg_pool"),
            Node("d2", "batch_norm", {}, "mean", size),
            Node("d1", "batch_norm", {}, "sum", size),
            Node("head", "segmentation_head", {"classes": 2}),
        ],
        [
            Edge("image", "e1"),
            Edge("e1", "e2"),
            Edge("e2", "pool"),
            *(Edge(source, "d2", "conv_resize", edge | {"batch_norm": False}) for source in ("e1", "e2", "pool")),
            *(Edge(source, "d1", "conv_resize", edge, weight=-0.5) for source in ("e1", "e2", "pool", "d2")),
            Edge("d1", "head"),
        ],
    )
    net = toys.build(graph, dtype=torch.float64)
    other, _ = check(net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in other.modules())
    assert isinstance(other.nodes["d1"], nn.Identity)
    # An edge that is off takes no part; where all are, or one brings more than a convolution, nothing is folded.
    places = {(e.src, e.dst): i for i, e in enumerate(net.graph.edges)}
    weights = [e.weight for e in net.graph.edges]
    weights[places["e1", "d1"]] = 0.0
    net.set_edge_weights(weights)
    assert isinstance(check(net)[0].nodes["d1"], nn.Identity)
    net.set_edge_weights([0.0 if e.dst == "d1" else e.weight for e in net.graph.edges])
    assert isinstance(check(net)[0].nodes["d1"], nn.BatchNorm2d)
    mixed = [e if e.src != "d2" or e.dst != "d1" else Edge("d2", "d1") for e in graph.edges]
    assert isinstance(
        check(toys.build(graph.replace(edges=tuple(mixed)).verify(), dtype=torch.float64))[0].nodes["d1"],
        nn.BatchNorm2d,
    )


def test_a_traced_backbone_folds_in_place() -> None:
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 32, 32)}),
            Node("net", "torchvision.backbone", {"model": "resnet18", "features": {"low": "layer1"}}),
            Node("low", "feature", {"name": "low"}),
            Node("head", "classifier", CLASSES),
        ],
        [Edge("image", "net"), Edge("net", "low"), Edge("low", "head")],
    )
    other, _ = check(toys.build(graph, dtype=torch.float64))
    assert isinstance(other.nodes["net"], fx.GraphModule)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in other.modules())
