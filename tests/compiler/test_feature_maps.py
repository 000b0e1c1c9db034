"""Feature maps by name, and torchvision's detectors and segmenters over them, unchanged."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.segmentation import DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

import topolearn
from tests.compiler import toys
from tests.lifting.networks import images, network, relative
from topolearn.compiler import Features
from topolearn.errors import GraphError, OptionError
from topolearn.graph import Edge, Graph, Node, Topology
from topolearn.learners import make_learner


def backbone(names: Any = ("layer1", "layer2", "layer3", "layer4")) -> Features:
    """Of a ResNet-18 that has lost two blocks."""
    net = topolearn.lift(network("resnet18"), size=64)
    gone = {"layer1_1", "layer3_1"}
    keep = [edge.weight != 0 and edge.src not in gone for edge in net.graph.edges]
    pruned = topolearn.prune(net, Topology(tuple(keep), tuple(edge.weight for edge in net.graph.edges)))
    assert not gone & set(pruned.graph.nodes)
    return topolearn.features(pruned, names)


def test_they_are_those_of_torchvisions_own_getter() -> None:
    model = network("resnet18").eval()
    names = {"layer2": "8", "layer4": "32"}
    found = topolearn.features(topolearn.lift(model), names)(images(2))
    wanted = IntermediateLayerGetter(model, names)(images(2))
    assert list(found) == list(wanted) == ["8", "32"]
    assert isinstance(found, OrderedDict)
    for name, value in wanted.items():
        assert relative(found[name], value) <= 1e-5


def test_channels_strides_order_and_what_is_left() -> None:
    body = backbone(["layer3", "layer2"])
    assert body.channels == {"layer3": 256, "layer2": 128}
    assert body.strides == {"layer3": 16, "layer2": 8}
    found = body(images(1, 65))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "layer3": (1, 256, 5, 5),
        "layer2": (1, 128, 9, 9),
    }
    assert list(found) == ["layer3", "layer2"]
    assert body.net.graph.outputs == ("layer3", "layer2")
    assert not {"fc", "layer4", "layer4_0"} & set(body.net.graph.nodes)
    assert not any(name.startswith(("net.nodes.fc", "net.nodes.layer4")) for name in body.state_dict())


def test_one_feature_map() -> None:
    body = backbone({"layer4": "out"})
    found = body(images(1))
    assert list(found) == ["out"]
    assert found["out"].shape == (1, 512, 2, 2)


def test_a_sum_that_pruning_would_remove_stays_where_it_is_named() -> None:
    net = topolearn.lift(network("resnet18").eval())
    net.set_edge_weights([0.0 if edge.src == "layer2_1" else edge.weight for edge in net.graph.edges])
    body = topolearn.features(net, ["layer2_1_add", "layer2"])
    found = body(images(1))
    assert torch.equal(found["layer2_1_add"], found["layer2"])
    assert "layer2_1" not in body.net.graph.nodes


def test_the_network_stays_as_it_was_and_shares_nothing() -> None:
    net = toys.build(toys.diamond()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    body = topolearn.features(net, ["b"])
    assert body.training
    assert body.net.training
    assert not topolearn.features(net.eval(), ["b"]).training
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.graph.outputs == ("head",)


@pytest.mark.parametrize("name", ["maskconnect", "continuous"])
def test_of_a_network_with_a_learner_they_are_those_of_its_topology(name: str) -> None:
    graph = toys.diamond()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = topolearn.compile(graph, make_learner(name, graph)).eval()
    body = topolearn.features(net, {"join": "out"})
    assert not body.net.graph.candidates
    assert body.net.learner is None
    seen = []
    net.set_edge_weights(net.topology().edge_weights())
    net.nodes["join"].register_forward_hook(lambda module, given, output: seen.append(output))
    x = toys.examples(graph)["image"]
    net(x)
    torch.testing.assert_close(body(x)["out"], seen[0])


def with_vector() -> Graph:
    return toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            Node("a", "conv_bn_relu", {"out_channels": 4}),
            Node("b", "conv_bn_relu", {"out_channels": 4}),
            Node("pool", "global_avg_pool"),
            Node("head", "classifier", {"classes": 3}),
        ],
        [
            Edge("image", "a"),
            Edge("a", "b", learnable=True, weight=0.0),
            Edge("a", "head", learnable=True),
            Edge("b", "head", learnable=True),
            Edge("a", "pool"),
            Edge("pool", "head", "resize"),
        ],
    )


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (["aa"], GraphError, "the network has no node 'aa'; did you mean 'a'"),
        (["head"], GraphError, "node 'head' gives a vector of 3, which is not a feature map"),
        (["pool"], GraphError, "node 'pool' gives 4 channels at 1 x 1, which is not a feature map"),
        (["b"], GraphError, "node 'b' gives no features: all edges into it were removed"),
        ([], OptionError, "name at least one node"),
        ("a", OptionError, r"give the names of features as a list or a mapping; write \['a'\]"),
        ({"a": "x", "image": "x"}, OptionError, "two feature maps are both called 'x'"),
    ],
)
def test_names_that_give_no_feature_map(names: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        topolearn.features(toys.build(with_vector()), names)


def test_they_are_taken_from_networks_over_graphs() -> None:
    with pytest.raises(OptionError, match="features takes a network over a graph, not a ResNet; compile a graph first"):
        topolearn.features(resnet18(), ["layer1"])  # type: ignore[arg-type]


def test_a_backbones_bundle_is_no_feature_map() -> None:
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 32, 32)}),
            Node("net", "torchvision.backbone", {"model": "resnet18", "features": {"low": "layer1"}}),
            Node("low", "feature", {"name": "low"}),
            Node("head", "classifier", {"classes": 3}),
        ],
        [Edge("image", "net"), Edge("net", "low"), Edge("low", "head")],
    )
    net = toys.build(graph).eval()
    with pytest.raises(GraphError, match=r"'net' gives a bundle of features \(low\), which is not a feature map"):
        topolearn.features(net, ["net"])
    assert topolearn.features(net, ["low"])(images(1, 32))["low"].shape == (1, 64, 8, 8)


# -- torchvision's detectors and segmenters ----------------------------------------------------


def trains(model: nn.Module, loss: Tensor) -> None:
    """A step that changes the backbone's first convolution."""
    first = next(model.parameters())
    before = first.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, before)


def test_faster_rcnn_over_a_feature_pyramid() -> None:
    # Where proposals are pooled, torchvision's detectors take feature maps by these names.
    body = backbone({"layer2": "0", "layer3": "1", "layer4": "2"})
    pyramid = FeaturePyramidNetwork(list(body.channels.values()), 32, extra_blocks=LastLevelMaxPool())
    whole = nn.Sequential(OrderedDict(body=body, fpn=pyramid))
    whole.out_channels = 32
    model = FasterRCNN(
        whole,
        num_classes=3,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (96,)), ((0.5, 1.0, 2.0),) * 4),
        rpn_pre_nms_top_n_train=50,
        rpn_post_nms_top_n_train=20,
        rpn_pre_nms_top_n_test=50,
        rpn_post_nms_top_n_test=20,
        box_score_thresh=0.0,
    )
    assert next(iter(model.parameters())).shape == (64, 3, 7, 7)
    pictures = [images(1, 64)[0], images(1, (64, 80))[0]]
    targets = [
        {"boxes": torch.tensor([[4.0, 6.0, 40.0, 50.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.tensor([[10.0, 0.0, 70.0, 30.0], [5.0, 5.0, 25.0, 60.0]]), "labels": torch.tensor([2, 1])},
    ]
    losses = model.train()(pictures, targets)
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    trains(model, sum(losses.values()))
    with torch.no_grad():
        found = model.eval()(pictures)
    assert len(found) == 2
    for each in found:
        assert each["boxes"].shape == (len(each["scores"]), 4)
        assert len(each["scores"]) > 0
        assert torch.isfinite(each["boxes"]).all()


def test_deeplabv3() -> None:
    body = backbone({"layer4": "out"})
    model = DeepLabV3(body, DeepLabHead(body.channels["out"], 4, atrous_rates=(1, 2, 3)))
    masks = torch.randint(0, 4, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    logits = model.train()(images(2))["out"]
    assert logits.shape == (2, 4, 64, 64)
    trains(model, nn.functional.cross_entropy(logits, masks))
    with torch.no_grad():
        found = model.eval()(images(1, (48, 80)))["out"]
    assert found.shape == (1, 4, 48, 80)
    assert torch.isfinite(found).all()
