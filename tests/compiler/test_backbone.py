"""The torchvision backbone: measured without weights, read through feature nodes."""

from __future__ import annotations

import copy
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

import topolearn
from tests.compiler import toys
from tests.compiler.test_prune import closed
from topolearn.compiler import load_pretrained
from topolearn.errors import GraphError, TopolearnError
from topolearn.format import loads
from topolearn.graph import Edge, Graph, Node, Topology
from topolearn.ops import Shape

# torchvision's announcement for googlenet and inception_v3, whatever is asked of them.
announced = pytest.mark.filterwarnings("ignore:The default weight initialization:FutureWarning")

RESNET = {"model": "resnet18", "features": {"low": "layer1", "before": "layer2.0.bn1", "high": "layer2"}}
MOBILENET = {"model": "mobilenet_v2", "features": {"low": "features.3", "high": "features.13"}}


def segmenter(params: dict[str, Any], size: tuple[int, int] = (64, 64)) -> Graph:
    """backbone -> features -> a sum of conv_resize edges -> logits."""
    features = list(params["features"])
    return toys.graph(
        [
            Node("image", "input", {"size": (3, *size)}),
            Node("backbone", "torchvision.backbone", params),
            *(Node(name, "feature", {"name": name}) for name in features),
            Node("sum", "identity", {}, "sum", Shape(8, 4)),
            Node("logits", "segmentation_head", {"classes": 3}),
        ],
        [
            Edge("image", "backbone"),
            *(Edge("backbone", name) for name in features),
            *(Edge(name, "sum", "conv_resize", learnable=True) for name in features),
            Edge("sum", "logits"),
        ],
        task="segmentation",
    )


@pytest.fixture(scope="module")
def resnet() -> Graph:
    return segmenter(RESNET)


@pytest.mark.parametrize(
    ("params", "shapes"),
    [
        (RESNET, {"low": Shape(64, 4), "before": Shape(128, 8), "high": Shape(128, 8)}),
        (MOBILENET, {"low": Shape(24, 4), "high": Shape(96, 16)}),
    ],
    ids=["resnet18", "mobilenet_v2"],
)
def test_shapes_parameters_and_macs_follow_the_rules(params: dict[str, Any], shapes: dict[str, Shape]) -> None:
    graph = segmenter(params, (64, 96))
    assert {name: graph.shapes[name] for name in shapes} == shapes
    net = toys.build(graph, reference=True).eval()
    assert sum(p.numel() for p in net.parameters()) == graph.cost.params
    macs = toys.Macs(1)
    macs.watch(net)
    seen: dict[str, tuple[int, ...]] = {}
    for name in shapes:
        net.nodes[name].register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: tuple(out.shape)})
        )
    output = net(torch.randn(1, 3, 64, 96))
    assert output.shape == (1, 3, 16, 24)
    assert macs.total == graph.cost.macs
    assert seen == {name: (1, shape.channels, *shape.size((64, 96))) for name, shape in shapes.items()}
    assert loads(graph.to_yaml()) == graph


@pytest.mark.parametrize(
    ("model", "place"),
    [
        # Linear layers over (N, H, W, C), squeeze-and-excitation on 1 x 1 maps.
        ("convnext_tiny", "features.3"),
        ("mobilenet_v3_small", "features.4"),
    ],
)
def test_macs_of_other_families_at_another_size(model: str, place: str) -> None:
    graph = segmenter({"model": model, "features": {"one": place}}, (512, 320))
    with torch.device("meta"):
        net = topolearn.compile(graph, reference=True).eval()
        macs = toys.Macs(1)
        macs.watch(net)
        net(torch.empty(1, 3, 512, 320))
    assert macs.total == graph.cost.macs
    assert sum(p.numel() for p in net.parameters()) == graph.cost.params


ROUNDING_DOWN = [
    ("vgg11_bn", {"low": "features.1", "high": "features.9"}),
    ("densenet121", {"low": "features.norm0", "high": "features.transition1.pool"}),
    ("convnext_tiny", {"low": "features.1", "high": "features.3"}),
    pytest.param("googlenet", {"low": "conv1.bn", "high": "inception3a"}, marks=announced),
]


@pytest.mark.parametrize(("model", "places"), ROUNDING_DOWN)
def test_models_that_round_sizes_down_take_images_of_any_size(model: str, places: dict[str, str]) -> None:
    graph = segmenter({"model": model, "features": places}, (33, 45))
    rule = graph.nodes["backbone"].rule
    largest = max(stride for stride in rule.strides.values() if stride)  # type: ignore[attr-defined]
    assert rule.multiple == largest > 1  # type: ignore[attr-defined]
    net = toys.build(graph).eval()
    backbone = net.nodes["backbone"]
    image = torch.randn(2, 3, 33, 45)
    whole = torch.zeros(2, 3, -(-33 // largest) * largest, -(-45 // largest) * largest)
    whole[..., :33, :45] = image
    with torch.no_grad():
        bundle, of_whole = backbone(image), backbone(whole)
        for name in places:
            shape = graph.shapes[name]
            assert isinstance(shape, Shape)
            rows, columns = shape.size((33, 45))
            assert bundle[name].shape == (2, shape.channels, rows, columns)
            torch.testing.assert_close(bundle[name], of_whole[name][..., :rows, :columns])
        assert net(image).shape == (2, 3, 9, 12)
    net.train()
    net(image).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_the_cost_of_a_padded_image_is_that_of_what_is_computed() -> None:
    for size in ((64, 64), (65, 47)):
        graph = segmenter({"model": "vgg11_bn", "features": {"low": "features.1", "high": "features.9"}}, size)
        with torch.device("meta"):
            net = topolearn.compile(graph, reference=True).eval()
            macs = toys.Macs(1)
            macs.watch(net)
            net(torch.empty(1, 3, *size))
        assert macs.total == graph.cost.macs


def test_models_that_round_up_are_left_alone(resnet: Graph) -> None:
    assert resnet.nodes["backbone"].rule.multiple == 1  # type: ignore[attr-defined]
    net = toys.build(resnet)
    assert not any(node.name.startswith("padded") for node in net.nodes["backbone"].graph.nodes)  # type: ignore[union-attr]
    graph = segmenter({"model": "efficientnet_b0", "features": {"a": "features.3"}}, (33, 45))
    assert graph.nodes["backbone"].rule.multiple == 1  # type: ignore[attr-defined]


def test_measuring_needs_no_memory_and_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from topolearn.compiler.modules import backbone
    from topolearn.ops.backbone import _measure

    calls = []
    measure = backbone.measure
    monkeypatch.setattr(backbone, "measure", lambda *args: calls.append(args) or measure(*args))
    _measure.cache_clear()
    for _ in range(2):
        segmenter(MOBILENET, (96, 64)).cost  # noqa: B018
    assert len(calls) == 1


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_reference_and_trains(resnet: Graph, training: bool) -> None:
    compiled, reference = toys.pair(resnet)
    inputs, weights = toys.examples(resnet, 2, torch.float64, side=32), toys.edge_weights(resnet, seed=4)
    steps = []
    for net in (compiled, reference):
        net.train(training)
        steps.append(toys.step(net, inputs, weights))
    toys.assert_equal(*steps)
    assert steps[0].parameters["nodes.backbone.layer1.0.conv1.weight"].any()


def test_a_feature_taken_before_an_activation_is_not_overwritten(resnet: Graph) -> None:
    from torchvision.models import resnet18

    net = toys.build(resnet).eval()
    plain = resnet18().eval()
    plain.load_state_dict(
        {key.removeprefix("nodes.backbone."): value for key, value in net.state_dict().items()}, strict=False
    )
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = plain.layer1(plain.maxpool(plain.relu(plain.bn1(plain.conv1(image)))))
        before = plain.layer2[0].bn1(plain.layer2[0].conv1(x))
        bundle = net.nodes["backbone"](image)
        assert (before < 0).any()
        torch.testing.assert_close(bundle["low"], x)
        torch.testing.assert_close(bundle["before"], before)
        torch.testing.assert_close(bundle["high"], plain.layer2(x))


@announced
def test_functional_activations_do_not_overwrite_features_either() -> None:
    # googlenet calls F.relu(x, inplace=True) on what its batch normalisations give.
    graph = segmenter({"model": "googlenet", "features": {"bn": "conv1.bn", "later": "conv2.bn"}})
    net = toys.build(graph).eval()
    with torch.no_grad():
        bundle = net.nodes["backbone"](torch.randn(1, 3, 64, 64))
    assert (bundle["bn"] < 0).any()
    assert (bundle["later"] < 0).any()


def test_a_deep_copy_and_its_modes(resnet: Graph) -> None:
    net = toys.build(resnet)
    copied = copy.deepcopy(net)
    assert copied.training
    copied = copy.deepcopy(net.eval())
    assert not any(module.training for module in copied.modules())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(copied(image), net(image))
    copied.train()
    assert all(module.training for module in copied.modules())
    before = copied.state_dict()["nodes.backbone.bn1.running_mean"].clone()
    copied(torch.randn(2, 3, 64, 64))
    assert not torch.equal(copied.state_dict()["nodes.backbone.bn1.running_mean"], before)
    assert torch.equal(net.state_dict()["nodes.backbone.bn1.running_mean"], before)


def test_pruning_drops_features_nobody_reads(resnet: Graph) -> None:
    net = toys.build(resnet).eval()
    keep = [not (edge.learnable and edge.src in ("low", "before")) for edge in resnet.edges]
    topology = closed(Topology(tuple(keep), tuple(edge.weight for edge in resnet.edges)), resnet)
    small = topolearn.prune(net, topology)
    assert [node.id for node in small.graph.nodes.values() if node.op == "feature"] == ["high"]
    image = torch.randn(1, 3, 64, 64)
    net.set_edge_weights(topology.edge_weights())
    torch.testing.assert_close(small(image), net(image), rtol=1e-5, atol=1e-5)


def test_a_batch_of_one_trains_where_the_last_map_is_one_pixel() -> None:
    graph = segmenter({"model": "resnet18", "features": {"last": "layer4"}}, (32, 32))
    net = toys.build(graph)
    result = toys.step(net, toys.examples(graph, 1))
    assert all(grad is not None and grad.isfinite().all() for grad in result.parameters.values())


def test_the_momentum_of_batch_normalisations() -> None:
    graph = segmenter({**RESNET, "bn_momentum": 0.01})
    backbone = topolearn.compile(graph).nodes["backbone"]
    assert {m.momentum for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}


@announced
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model": "resnet19", "features": {"a": "layer1"}}, "no classifier 'resnet19'; did you mean 'resnet"),
        ({"model": "resnet18", "features": {"a": "layer1", "b": "layer9"}}, "'resnet18' has no place 'layer9'"),
        ({"model": "resnet18", "features": {"a": "flatten"}}, "feature 'a' of 'resnet18' is not a feature map"),
        ({"model": "vit_b_16", "features": {"a": "encoder.ln"}}, "'vit_b_16'"),
        ({"model": "inception_v3", "features": {"a": "Conv2d_1a_3x3"}}, "whole stride"),
    ],
)
def test_a_backbone_that_is_not_there_is_one_clear_error(params: dict[str, Any], message: str) -> None:
    nodes = [Node("image", "input", {"size": (3, 64, 64)}), Node("net", "torchvision.backbone", params)]
    nodes.append(Node("a", "feature", {"name": "a"}))
    with pytest.raises(GraphError, match=message) as caught:
        toys.graph(nodes, [Edge("image", "net"), Edge("net", "a")])
    assert "node 'net'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("weights", "there"), [("IMAGENET1K_V1", "resnet18-f37072fd.pth"), ("NOPE", None)])
def test_weights_that_cannot_be_had_are_one_clear_error(
    weights: str, there: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*args: Any, **options: Any) -> Any:
        raise urllib.error.URLError("no network in a test")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setattr("torch.hub.urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    net = topolearn.compile(segmenter({**RESNET, "weights": weights}))  # reading, measuring and building need none
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(
        TopolearnError, match=f"cannot load the weights '{weights}' of 'resnet18'.*'weights: null'"
    ) as e:
        load_pretrained(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert "\n" not in str(e.value)
    assert (f"save the file as '{tmp_path}/hub/checkpoints/{there}'" in str(e.value)) == (there is not None)
    assert not any(tmp_path.rglob("*.pth"))


@pytest.mark.parametrize("model", ["resnet18", "densenet121"])  # DenseNet's files have other names inside
def test_pretrained_weights_are_torchvisions(model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    donor = models.get_model(model, weights=None)
    for value in donor.state_dict().values():
        torch.nn.init.uniform_(value, 0.5, 1.5) if value.is_floating_point() else value.fill_(7)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: donor.state_dict())
    place = {"resnet18": "layer2", "densenet121": "features.denseblock2"}[model]
    graph = segmenter(
        {
            "model": model,
            "weights": "IMAGENET1K_V1",
            "features": {"low": "relu" if model == "resnet18" else "features.relu0", "high": place},
        }
    )
    net = topolearn.compile(graph)
    before = torch.get_rng_state()
    load_pretrained(net)
    assert torch.equal(torch.get_rng_state(), before)
    own = net.nodes["backbone"].state_dict()
    assert own
    assert all(torch.equal(value, donor.state_dict()[name]) for name, value in own.items())


def test_building_never_asks_for_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.urlopen", lambda *args, **options: pytest.fail("asked for pretrained weights"))
    graph = segmenter({**RESNET, "weights": "IMAGENET1K_V1"})
    net = topolearn.compile(graph).eval()
    again, small = topolearn.compile(net), topolearn.prune(net)
    image = torch.randn(1, 3, 64, 64)
    wanted = net(image)
    torch.testing.assert_close(again(image), wanted)
    torch.testing.assert_close(small(image), wanted)
