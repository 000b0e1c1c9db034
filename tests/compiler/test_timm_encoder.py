"""Encoders from timm: measured without weights, read through feature nodes; they compute what timm computes."""

from __future__ import annotations

import copy
import sys
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import topolearn
from tests.compiler import toys
from tests.compiler.test_prune import closed
from topolearn.compiler import load_pretrained
from topolearn.errors import GraphError, TrainingError
from topolearn.format import loads
from topolearn.graph import Edge, Node, Topology
from topolearn.ops import Shape
from topolearn.ops.backbone import TimmBackbone, _measure_timm
from topolearn.tracing.record import CountMacs

timm = pytest.importorskip("timm", reason="timm is not installed")

RESNET = {"model": "test_resnet", "features": {"low": 1, "high": 3}}
CONVNEXT = {"model": "test_convnext", "features": {"low": 0, "high": 2}}
VIT = {"model": "test_vit", "features": {"low": 2, "high": 5}, "img_size": (64, 96)}


@pytest.mark.parametrize("params", [RESNET, CONVNEXT, VIT], ids=lambda params: params["model"])
def test_features_parameters_and_macs_are_timms(params: dict[str, Any]) -> None:
    graph = toys.encoded(params)
    net = toys.build(graph, reference=True).eval()
    assert sum(p.numel() for p in net.parameters()) == graph.cost.params
    options = {"img_size": params["img_size"]} if "img_size" in params else {}
    theirs = timm.create_model(
        params["model"], features_only=True, out_indices=list(params["features"].values()), **options
    ).eval()
    backbone = net.nodes["backbone"]
    theirs.load_state_dict(backbone.get_submodule("network").state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        wanted, found = theirs(image), backbone(image)
        assert net(image).shape == (2, 3, 16, 24)
    for name, value in zip(params["features"], wanted, strict=True):
        assert torch.equal(found[name], value)
        shape = graph.shapes[name]
        assert isinstance(shape, Shape)
        assert value.shape == (2, shape.channels, *shape.size((64, 96)))
    with CountMacs() as counter, torch.no_grad():
        net.to("meta")(image[:1].to("meta"))  # where attention is two products
    assert counter.total == graph.cost.macs
    assert loads(graph.to_yaml()) == graph


def test_a_model_that_rounds_sizes_down_takes_images_of_any_size() -> None:
    graph = toys.encoded(CONVNEXT, (33, 45))
    rule = graph.nodes["backbone"].rule
    assert isinstance(rule, TimmBackbone)
    assert rule.multiple == 16
    net = toys.build(graph).eval()
    image = torch.randn(2, 3, 33, 45)
    whole = nn.functional.pad(image, (0, 3, 0, 15))
    with torch.no_grad():
        found, of_whole = net.nodes["backbone"](image), net.nodes["backbone"](whole)
    assert found["low"].shape == (2, 24, 9, 12)
    for name in found:
        height, width = found[name].shape[2:]
        torch.testing.assert_close(found[name], of_whole[name][..., :height, :width])
    with torch.device("meta"), CountMacs() as counter:
        topolearn.compile(graph, reference=True).eval()(torch.empty(1, 3, 33, 45))
    assert counter.total == graph.cost.macs
    assert toys.encoded(RESNET, (33, 45)).nodes["backbone"].rule.multiple == 1  # type: ignore[attr-defined]


def test_channels_come_first() -> None:
    rule = TimmBackbone(model="swin_tiny_patch4_window7_224", features={"a": 0, "b": 3})
    assert dict(rule.output(Shape(3, 1))) == {"a": Shape(96, 4), "b": Shape(768, 32)}


def test_measuring_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from topolearn.compiler.modules import timm_encoder

    calls = []
    measure = timm_encoder.measure_encoder
    monkeypatch.setattr(timm_encoder, "measure_encoder", lambda *args: calls.append(args) or measure(*args))
    _measure_timm.cache_clear()
    for _ in range(2):
        toys.encoded(RESNET, (96, 64)).cost  # noqa: B018
    assert len(calls) == 1


def test_it_trains_as_the_reference_does_and_can_be_copied_pruned_and_exported(tmp_path: Path) -> None:
    graph = toys.encoded({**RESNET, "bn_momentum": 0.02})
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, 2, torch.float64, side=32), toys.edge_weights(graph, seed=4)
    steps = [toys.step(net, inputs, weights) for net in (compiled, reference)]
    toys.assert_equal(*steps)
    assert steps[0].parameters["nodes.backbone.network.layer1.0.conv1.weight"].any()
    net = toys.build(graph)
    assert {m.momentum for m in net.nodes["backbone"].modules() if isinstance(m, nn.BatchNorm2d)} == {0.02}
    net.eval()
    image = torch.randn(1, 3, 64, 96)
    wanted = net(image)
    assert torch.equal(copy.deepcopy(net)(image), wanted)
    keep = [not (edge.learnable and edge.src == "low") for edge in graph.edges]
    topology = closed(Topology(tuple(keep), tuple(edge.weight for edge in graph.edges)), graph)
    small = topolearn.prune(net, topology)
    assert [node.id for node in small.graph.nodes.values() if node.op == "feature"] == ["high"]
    topolearn.export_onnx(small, tmp_path / "net.onnx")  # raises unless the outputs are the same


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model": "test_resnot", "features": {"a": 0}}, "timm has no model 'test_resnot'; did you mean 'test_resnet"),
        (
            {"model": "test_resnet", "features": {"a": 5}},
            "'test_resnet' has no feature 5; it has 5, and the first is 0",
        ),
        ({"model": "hf_hub:a/b", "features": {"a": 0}}, "model"),
        ({"model": "test_resnet", "features": {}}, "features"),
        ({"model": "test_resnet", "features": {"a": 1}, "img_size": (64, 64)}, "timm makes no features of"),
        ({"model": "test_vit", "features": {"a": 1}, "img_size": (50, 50)}, "'test_vit'"),
    ],
)
def test_an_encoder_that_is_not_there_is_one_clear_error(params: dict[str, Any], message: str) -> None:
    nodes = [Node("image", "input", {"size": (3, 64, 64)}), Node("net", "timm.backbone", params)]
    nodes.append(Node("a", "feature", {"name": "a"}))
    with pytest.raises(GraphError, match=message) as caught:
        toys.graph(nodes, [Edge("image", "net"), Edge("net", "a")])
    assert "node 'net'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_timm_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    _measure_timm.cache_clear()
    with pytest.raises(GraphError, match=r"node 'backbone': timm is not installed; run: pip install 'topo"):
        toys.encoded(RESNET)


def test_pretrained_weights_are_loaded_when_training_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = toys.encoded({**RESNET, "weights": "r160_in1k"})
    create = timm.create_model

    def offline(*args: Any, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise urllib.error.URLError("no network in a test")
        return create(*args, **options)

    monkeypatch.setattr("timm.create_model", offline)
    net = topolearn.compile(graph)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(TrainingError, match=r"cannot load the weights 'r160_in1k' of 'test_resnet': .*'weights: null'"):
        load_pretrained(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(TrainingError, match=r"timm has no weights 'nope' of 'test_resnet' \(r160_in1k\); give another"):
        load_pretrained(topolearn.compile(toys.encoded({**RESNET, "weights": "nope"})))

    asked = []

    def downloaded(name: str, pretrained: bool = False, **options: Any) -> Any:
        model = create(name, **options)
        if pretrained:
            asked.append(name)
            for value in model.state_dict().values():
                nn.init.constant_(value, 3) if value.is_floating_point() else value.fill_(3)
        return model

    monkeypatch.setattr("timm.create_model", downloaded)
    capsys.readouterr()
    load_pretrained(net)
    assert asked == ["test_resnet.r160_in1k"]
    assert "loading timm's weights 'r160_in1k' of 'test_resnet', which are downloaded once" in capsys.readouterr().err
    assert all((value == 3).all() for value in net.nodes["backbone"].state_dict().values())
