"""The graphs of SparseMask: counts of the specification, wiring, and a small Fully Dense Network searched by all."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import topolearn
from tests.learners.samples import network, step
from topolearn import optimizers, prune
from topolearn.compiler import Network
from topolearn.compiler.modules import build_node
from topolearn.format import loads
from topolearn.frozen import FrozenMap
from topolearn.graph import (
    DropSubsetNodes,
    FinaliseDecoder,
    FixPoint,
    Graph,
    KeepEdges,
    MergeDuplicateNodes,
    Topology,
    apply_passes,
)
from topolearn.graph.decoder import decoder_stages
from topolearn.learners import SparseMask, make_learner
from topolearn.ops import Shape
from topolearn.report.summary import facts
from topolearn.training.phases import begin_phase

Run = Callable[..., tuple[int, str, str]]

# Parameters of decoder and classifier, learnable edges: computed in the specification; ResNets by hand below.
COUNTS = {
    "fdn-mobilenetv2-voc": (1_934_293, 90),
    "fdn-mobilenetv2-camvid": (1_934_293 - 10 * (64 + 1), 90),
    "fdn-efficientnetlite0-camvid": (287_563, 30),
    "fdn-resnet50-voc": (1_750_997, 30),
    "fdn-resnet101-voc": (1_750_997, 30),
    "sparsemask-mobilenetv2-voc": (560_981, 0),
    "unet-mobilenetv2-voc": (164_821, 0),
    "fcn-mobilenetv2-voc": (26_901, 0),
}
ENCODERS = {
    "mobilenetv2": 2_223_872,
    "efficientnetlite0": 4_652_008 - 1281 * 1000 - 320 * 1280 - 2 * 1280,
    "resnet50": 25_557_032 - 2049 * 1000,
    "resnet101": 44_549_160 - 2049 * 1000,
}
"""Parameters of torchvision's networks without their last layer, and of timm's without what follows the last block."""
MACS = {"sparsemask-mobilenetv2-voc": 0.294, "fdn-mobilenetv2-voc": 1.287}
"""10⁹ multiply-accumulates of the decoder at 512 x 512."""

CHANNELS = (32, 16, 24, 32, 64, 96, 160, 320, 1280)
STRIDES = (2, 2, 4, 8, 16, 16, 32, 32, 32)
"""Of MobileNetV2's features, highest resolution first."""

PUBLISHED = {"d8": "e9 g", "d7": "e7 g", "d6": "e6 g", "d1": "e9 e8 e7 e6 e1 g d8 d7 d6"}


def wiring_of(graph: Graph) -> dict[str, set[str]]:
    return {node: {graph.edges[i].src for i in graph.in_edges(node)} for node in decoder_stages(graph)}


# -- the shipped graphs --------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_the_specification(run: Run, name: str) -> None:
    status, out, err = run("show", name, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert (found["decoder_params"], found["learnable_edges"]) == COUNTS[name]
    assert found["params"] - found["decoder_params"] == ENCODERS[name.split("-")[1]]
    assert found["task"] == "segmentation"
    assert found["data"] == name.split("-")[2]


def test_counts_by_hand() -> None:
    def decoder(channels: tuple[int, ...], edges: dict[int, int], stages: int, classes: int = 21) -> int:
        """Convolutions to 64 channels from each feature so many times, scale and shift of the stages, head."""
        convolutions = sum(64 * channels[i] * count for i, count in edges.items())
        return convolutions + stages * 2 * 64 + 65 * classes

    def dense(channels: tuple[int, ...]) -> int:
        """Feature l goes to l stages, the global one to all, stage l to the l - 1 before it."""
        levels = len(channels)
        wide = (*channels, channels[-1], 64)
        uses = {i: i + 1 for i in range(levels)} | {levels: levels, levels + 1: levels * (levels - 1) // 2}
        return decoder(wide, uses, levels)

    assert dense(CHANNELS) == COUNTS["fdn-mobilenetv2-voc"][0]
    assert dense((16, 24, 40, 112, 320)) - 10 * 65 == COUNTS["fdn-efficientnetlite0-camvid"][0]
    assert dense((64, 256, 512, 1024, 2048)) == COUNTS["fdn-resnet50-voc"][0]
    unet = dict.fromkeys(range(9), 1) | {9: 8}
    assert decoder((*CHANNELS, 64), unet, 9) == COUNTS["unet-mobilenetv2-voc"][0]
    sparse = {8: 2, 6: 2, 5: 2, 7: 1, 0: 1, 9: 4, 10: 3}
    assert sum(sparse.values()) == 15
    wide = (*CHANNELS, 1280, 64)
    assert decoder(wide, sparse, 4) == COUNTS["sparsemask-mobilenetv2-voc"][0]
    assert decoder(wide, sparse, 4, classes=1) == 559_681


def test_the_gates_of_the_search() -> None:
    graph = topolearn.load_graph("fdn-mobilenetv2-voc")
    gates = sum(p.numel() for p in SparseMask(graph).parameters())
    assert facts(graph)["decoder_params"] + gates == 1_934_383
    assert facts(FinaliseDecoder()(graph))["decoder_params"] == 1_934_293  # scale and shift move, and are as many


def test_a_head_of_one_class() -> None:
    graph = topolearn.load_graph("sparsemask-mobilenetv2-voc", {"nodes.head.classes": "1"})
    assert facts(graph)["decoder_params"] == 559_681


@pytest.mark.parametrize("name", MACS)
def test_multiply_accumulates_at_512(name: str) -> None:
    graph = topolearn.load_graph(name, {"inputs.image": "[3, 512, 512]"})
    assert round(facts(graph)["decoder_macs"] / 1e9, 3) == MACS[name]


def test_only_what_has_a_backbone_has_a_decoder_to_count() -> None:
    assert "decoder_params" not in facts(topolearn.load_graph("digits"))


def test_the_features_of_mobilenetv2_are_those_of_the_paper() -> None:
    graph = topolearn.load_graph("fdn-mobilenetv2-voc")
    for level, (channels, stride) in enumerate(zip(CHANNELS, STRIDES, strict=True), 1):
        assert graph.shapes[f"e{level}"] == Shape(channels, stride)
        assert graph.shapes[f"d{level}"] == Shape(64, stride)
    assert [edge.src for edge in graph.edges if edge.dst == "g"] == ["e9"]


@pytest.mark.parametrize(
    ("name", "prefix"), [("fdn-mobilenetv2-voc", "e"), ("fdn-mobilenetv2-camvid", "e"), ("fdn-resnet50-voc", "c")]
)
def test_the_fully_dense_networks(name: str, prefix: str) -> None:
    graph = topolearn.load_graph(name)
    levels = len(decoder_stages(graph))
    wiring = wiring_of(graph)
    for level in range(1, levels + 1):
        deep = range(level, levels + 1)
        assert wiring[f"d{level}"] == {f"{prefix}{i}" for i in deep} | {f"d{i}" for i in deep[1:]} | {"g"}
        assert graph.shapes[f"d{level}"].stride == graph.shapes[f"{prefix}{level}"].stride  # type: ignore[union-attr]
    searched = [edge for edge in graph.edges if edge.learnable]
    assert len(searched) == levels * (levels + 1)
    # BN without scale and shift on the edges; the rest as the op has it: relu6, bilinear, corners aligned.
    assert {(edge.op, edge.params) for edge in searched} == {("conv_resize", FrozenMap())}
    assert make_learner("sparsemask", graph).phases()[0].freeze_affine


def test_resnets_differ_in_their_third_stage_alone() -> None:
    change = {"name": "fdn-resnet50-voc", "nodes.backbone.model": "resnet50"}
    change["nodes.backbone.features.c4"] = "layer3.5.add"
    assert topolearn.load_graph("fdn-resnet101-voc", change) == topolearn.load_graph("fdn-resnet50-voc")


def test_camvid_differs_in_size_and_classes_alone() -> None:
    change = {"name": "fdn-mobilenetv2-voc", "data": "voc", "inputs.image": "[3, 513, 513]", "nodes.head.classes": "21"}
    assert topolearn.load_graph("fdn-mobilenetv2-camvid", change) == topolearn.load_graph("fdn-mobilenetv2-voc")


def test_the_published_network_is_what_pruning_and_finalising_leave() -> None:
    published = topolearn.load_graph("sparsemask-mobilenetv2-voc")
    wanted = {node: set(sources.split()) for node, sources in PUBLISHED.items()}
    assert wiring_of(published) == wanted
    merging = FixPoint((MergeDuplicateNodes(), DropSubsetNodes()))
    for change in (*merging.passes, merging, FinaliseDecoder()):
        assert change(published) == published
    full = topolearn.load_graph("fdn-mobilenetv2-voc")
    keep = [not edge.learnable or edge.src in wanted.get(edge.dst, ()) for edge in full.edges]
    gates = [1.7 if edge.learnable else 1.0 for edge in full.edges]
    pruned = KeepEdges(Topology.of(full, keep, gates))(full)
    final = apply_passes(pruned, merging, FinaliseDecoder())
    assert wiring_of(final) == wanted
    assert facts(final)["decoder_params"] == 560_981
    assert {(e.op, e.params, e.weight) for e in final.edges if e.dst in wanted} == {
        (e.op, e.params, e.weight) for e in published.edges if e.dst in wanted
    }
    assert all(final.nodes[node] == published.nodes[node] for node in wanted)


def test_the_wirings_to_compare_with() -> None:
    unet = wiring_of(topolearn.load_graph("unet-mobilenetv2-voc"))
    assert unet == {f"d{i}": {f"e{i}"} | ({f"d{i + 1}"} if i < 9 else set()) for i in range(1, 10)}
    fcn = topolearn.load_graph("fcn-mobilenetv2-voc")
    assert [(edge.src, edge.dst) for edge in fcn.edges][-1] == ("e9", "head")
    assert fcn.shapes["head"] == Shape(21, 32)


@pytest.mark.parametrize("name", ["fdn-mobilenetv2-voc", "fdn-resnet50-voc"])
def test_features_are_taken_before_their_activation(name: str) -> None:
    graph = topolearn.load_graph(name)
    backbone = build_node(graph.nodes["backbone"].rule, Shape(3, 1)).eval()
    with torch.no_grad():
        bundle = backbone(torch.randn(1, 3, 64, 64))
    assert len(bundle) == len(decoder_stages(graph))
    assert all(bool((feature < 0).any()) for feature in bundle.values())


# -- a small one ---------------------------------------------------------------------------------

SMALL = """
topolearn: 1
name: small
task: segmentation
inputs: {image: [3, 16, 16]}
nodes:
  e[1..3]: {op: conv_bn_relu6, out_channels: [4, 6, 8], stride: 2}
  g: {op: global_avg_pool}
  d1: {op: batch_norm, input: {channels: 5, stride: 2}}
  d2: {op: batch_norm, input: {channels: 5, stride: 4}}
  d3: {op: batch_norm, input: {channels: 5, stride: 8}}
  head: {op: segmentation_head, classes: 3}
edges:
  - {connect: chain, nodes: [image, "e[1..3]", g]}
  - connect: fully_dense_decoder
    features: "e[1..3]"
    global: g
    stages: "d[1..3]"
    op: conv_resize
    learnable: true
  - {from: d1, to: head}
outputs: [head]
"""


@pytest.mark.parametrize(
    ("learner", "options"), [("sparsemask", {}), ("maskconnect", {"fan_in": 2}), ("continuous", {})]
)
def test_every_learner_searches_it(learner: str, options: dict[str, Any]) -> None:
    graph = loads(SMALL)
    assert len([edge for edge in graph.edges if edge.learnable]) == 3 * 4
    net = network(graph, make_learner(learner, graph, options))
    assert net.learner is not None
    before = [p.clone() for p in net.learner.parameters()]
    chosen = optimizers(net, lr=0.05)
    for number in range(2):
        step(net, chosen, number)
    assert any(not torch.equal(old, new) for old, new in zip(before, net.learner.parameters(), strict=True))
    small = prune(net.eval())
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(small(image), net(image), rtol=1e-4, atol=1e-5)


ON_A_BACKBONE = """
topolearn: 1
name: on-a-backbone
task: segmentation
inputs: {image: [3, 32, 32]}
nodes:
  net: {op: torchvision.backbone, model: resnet18, weights: IMAGENET1K_V1, features: {a: bn1, b: layer1}}
  e[1..2]: {op: feature, name: [a, b]}
  g: {op: global_avg_pool}
  d[1..2]: {op: batch_norm, input: [{channels: 5, stride: 2}, {channels: 5, stride: 4}]}
  head: {op: segmentation_head, classes: 3}
edges:
  - {from: image, to: net}
  - {from: net, to: "e[1..2]"}
  - {from: e2, to: g}
  - connect: fully_dense_decoder
    features: "e[1..2]"
    global: g
    stages: "d[1..2]"
    op: conv_resize
    learnable: true
  - {from: d1, to: head}
outputs: [head]
"""


def gated(graph: Graph, wiring: dict[str, str], **options: Any) -> Network:
    """A network in search whose gates are open for these edges alone."""
    learner = SparseMask(graph, **options)
    net = network(graph, learner)
    with torch.no_grad():
        for gate, i in enumerate(learner.candidates.index.tolist()):
            edge = graph.edges[i]
            learner.gate[gate] = 1.6 * float(edge.src in wiring.get(edge.dst, "").split())
    return net


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("drop", [True, False])
def test_the_retraining_starts_from_the_final_form(merge: bool, drop: bool) -> None:
    # d3 and d2 read the same; nobody reads e2.
    wiring = {"d3": "e3 g", "d2": "e3 g", "d1": "e1 d2 d3"}
    net = gated(loads(SMALL), wiring, merge_duplicates=merge, drop_subsets=drop)
    search, retrain = net.learner.phases()  # type: ignore[union-attr]
    assert (search.search, search.passes) == (True, ())
    pruned = prune(net.eval())  # which preserves the function, and so merges nothing
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(pruned(image), net(image), rtol=1e-4, atol=1e-5)
    assert wiring_of(pruned.graph) == {node: set(sources.split()) for node, sources in wiring.items()}
    begun = begin_phase(pruned, retrain, seed=0)
    left = {"d3"} if merge else {"d2"} if drop else {"d2", "d3"}
    assert wiring_of(begun.graph) == {node: {"e3", "g"} for node in left} | {"d1": {"e1"} | left}
    assert {e.weight for e in begun.graph.edges} == {1.0}
    assert not {e.rule.batch_norm for e in begun.graph.edges if e.op == "conv_resize"} - {False}  # type: ignore[attr-defined]
    assert sum(p.numel() for p in begun.parameters()) == begun.graph.cost.params
    assert begun.state_dict()["nodes.d1.weight"].tolist() == [1.0] * 5
    assert begun.train()(image).shape == (2, 3, 8, 8)


def test_the_retraining_starts_the_backbone_from_its_pretrained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    asked = []
    get_model = models.get_model

    def without_download(name: str, weights: str | None) -> torch.nn.Module:
        asked.append(weights)
        model = get_model(name, weights=None)
        if weights is not None:
            torch.nn.init.constant_(model.conv1.weight, 0.25)
        return model

    monkeypatch.setattr(models, "get_model", without_download)
    graph = loads(ON_A_BACKBONE)
    net = gated(graph, {"d1": "e1 e2"})
    with torch.no_grad():
        net.nodes["net"].conv1.weight.fill_(0.5)  # as if it had been trained
    pruned = prune(net)
    assert float(pruned.nodes["net"].conv1.weight.detach().mean()) == 0.5
    asked.clear()
    begun = begin_phase(pruned, net.learner.phases()[1], seed=0)  # type: ignore[union-attr]
    assert "IMAGENET1K_V1" in asked
    assert float(begun.nodes["net"].conv1.weight.detach().mean()) == 0.25
    asked.clear()
    start = {"nodes.net.conv1.weight": torch.full((64, 3, 7, 7), 0.125)}
    begun = begin_phase(pruned, net.learner.phases()[1], seed=0, start=start)  # type: ignore[union-attr]
    assert set(asked) <= {None}, "what the run was given takes the place of pretrained weights"
    assert float(begun.nodes["net"].conv1.weight.detach().mean()) == 0.125
