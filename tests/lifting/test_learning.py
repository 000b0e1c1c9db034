"""A lifted network is a network like any other: searched, pruned (whole blocks disappear), trained and exported."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

import topolearn
from tests.lifting.networks import images, network, no_initialisation, randomise, relative
from topolearn.compiler import Network
from topolearn.format import loads
from topolearn.graph import Graph, Topology
from topolearn.learners import make_learner
from topolearn.training.phases import freeze_affine


def small(depths: list[int] | None = None, classes: int = 5) -> nn.Module:
    """A ResNet of basic blocks."""
    with no_initialisation():
        model = models.ResNet(models.resnet.BasicBlock, depths or [2, 3, 1, 1], num_classes=classes)
        return randomise(model).eval()


def lifted(depths: list[int] | None = None, size: int = 32) -> Network:
    return topolearn.lift(small(depths), size=size)


def without(net: Network, *gone: tuple[str, str], longer: float = 0.0) -> Topology:
    """The topology that drops these edges, and sets all longer ones to a weight."""
    weights = [0.0 if (edge.src, edge.dst) in gone else edge.weight or longer for edge in net.graph.edges]
    return Topology(tuple(weight != 0 for weight in weights), tuple(weights))


def check(net: Network, topology: Topology) -> Network:
    """Pruned is masked, in float64 to 1e-12 of the largest output."""
    with no_initialisation():
        net = topolearn.compile(net).double()
        pruned = topolearn.prune(net, topology)
    net.set_edge_weights(topology.edge_weights())
    x = images(2, 32).double()
    with torch.no_grad():
        assert relative(pruned(x), net(x)) <= 1e-12
    assert loads(pruned.graph.to_yaml()) == pruned.graph
    assert sum(p.numel() for p in pruned.parameters()) == pruned.graph.cost.params
    return pruned


def block(name: str) -> tuple[str, str]:
    return (name, f"{name}_add")


def nodes_of(graph: Graph, stage: str) -> list[str]:
    return [name for name in graph.nodes if name.startswith(stage)]


def test_a_block_that_is_dropped_disappears_wholly() -> None:
    net = lifted()
    pruned = check(net, without(net, block("layer2_1")))
    assert nodes_of(pruned.graph, "layer2") == ["layer2_0", "layer2_0_add", "layer2_2", "layer2_2_add", "layer2"]
    assert not any("layer2_1" in name for name in pruned.state_dict())
    into = {(e.src, e.weight) for e in pruned.graph.edges if e.dst == "layer2_2_add"}
    assert into == {("layer2_0_add", 1.0), ("layer2_2", 1.0)}
    # As the same network without that block, built by torchvision.
    model = small()
    model.layer2 = nn.Sequential(model.layer2[0], model.layer2[2])
    with torch.no_grad():
        assert relative(topolearn.prune(net, without(net, block("layer2_1")))(images()), model(images())) <= 1e-5


def test_only_what_ends_a_learnable_branch_keeps_its_scale_during_the_search() -> None:
    net = lifted()
    freeze_affine(net, make_learner("continuous", net.graph).phases()[0].freeze_affine)
    frozen = {name for name, parameter in net.named_parameters() if not parameter.requires_grad}
    blocks = ("layer1_0", "layer1_1", "layer2_1", "layer2_2")  # the other ones change the shape, and are fixed
    assert frozen == {f"nodes.{block}.layers.1.bn.{part}" for block in blocks for part in ("weight", "bias")}


def test_a_stage_can_disappear_down_to_its_name() -> None:
    net = lifted()
    pruned = check(net, without(net, block("layer1_0"), block("layer1_1")))
    assert nodes_of(pruned.graph, "layer1") == ["layer1"]
    assert [(e.src, e.weight) for e in pruned.graph.edges if e.dst == "layer1"] == [("maxpool", 1.0)]
    pruned = check(net, without(net, block("layer2_1"), block("layer2_2")))
    assert nodes_of(pruned.graph, "layer2") == ["layer2_0", "layer2_0_add", "layer2"]


def test_without_longer_edges_pruning_gives_torchvisions_network_back() -> None:
    net = lifted()
    pruned = check(net, net.topology())
    assert pruned.graph.nodes == net.graph.nodes
    assert len(pruned.graph.edges) == sum(edge.weight != 0 for edge in net.graph.edges)
    assert not pruned.graph.candidates


@pytest.mark.parametrize("longer", [0.5, -0.5])
def test_every_choice_of_blocks_beside_longer_edges(longer: float) -> None:
    net = lifted([3, 1, 1, 1])
    learnable = ["layer1_0", "layer1_1", "layer1_2"]
    for count in range(len(learnable) + 1):
        for gone in itertools.combinations(learnable, count):
            pruned = check(net, without(net, *map(block, gone), longer=longer))
            assert not set(gone) & set(pruned.graph.nodes)
            assert set(learnable) - set(gone) <= set(pruned.graph.nodes)


def test_a_sum_that_only_adds_up_what_is_not_negative_goes_too() -> None:
    net = lifted([3, 1, 1, 1])
    gone = [block(f"layer1_{i}") for i in range(3)]
    # layer1_1_add = maxpool + 0.5 maxpool, layer1_2_add = layer1_1_add + 0.5 maxpool + 0.5 layer1_0_add
    pruned = check(net, without(net, *gone, longer=0.5))
    assert nodes_of(pruned.graph, "layer1") == ["layer1"]
    assert [(e.src, e.weight) for e in pruned.graph.edges if e.dst == "layer1"] == [("maxpool", 2.5)]


@pytest.mark.parametrize("name", ["mobilenet_v2", "regnet_y_400mf"])
def test_the_other_families_lose_blocks_too(name: str) -> None:
    net = topolearn.lift(network(name, num_classes=5).eval(), size=32)
    graph = net.graph
    if name == "mobilenet_v2":  # a residual branch reads the stage before it over learnable edges
        learnable = {e.dst for e in graph.edges if e.learnable and not e.dst.startswith("stage")}
    else:
        learnable = {e.src for e in graph.edges if e.learnable and e.weight}
    gone = sorted(learnable)[::2]
    assert len(gone) > 3
    pruned = check(net, without(net, *[(e.src, e.dst) for e in graph.edges if e.src in gone]))
    assert not set(gone) & set(pruned.graph.nodes)
    assert pruned.graph.cost.params < graph.cost.params
    stages = [node for node in graph.nodes if graph.nodes[node].op == "identity"]
    assert set(stages) <= set(pruned.graph.nodes)
    assert {node: pruned.graph.shapes[node] for node in stages} == {node: graph.shapes[node] for node in stages}


@pytest.mark.parametrize("name", ["continuous", "maskconnect", "sparsemask"])
def test_learners_train_it(name: str) -> None:
    start = lifted()
    learner = make_learner(name, start.graph)
    net = topolearn.compile(start, learner).train()
    optimizers = topolearn.optimizers(net, lr=0.01, momentum=0.9)
    for _ in range(2):
        loss = nn.functional.cross_entropy(net(images(4, 32)), torch.tensor([0, 1, 2, 3])) + learner.penalty()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        learner.after_step()
    assert torch.isfinite(loss)
    pruned = topolearn.prune(net.eval())
    net.set_edge_weights(net.topology().edge_weights())
    with torch.no_grad():
        assert relative(pruned(images(2, 32)), net(images(2, 32))) <= 1e-5


def test_alphas_start_as_torchvision_has_it_and_longer_edges_get_gradients() -> None:
    start = lifted()
    learner = topolearn.learners.Continuous(start.graph, penalty_strength=0.0)
    net = topolearn.compile(start, learner)
    with torch.no_grad():
        assert relative(net.eval()(images()), small()(images())) <= 1e-5
    nn.functional.cross_entropy(net.train()(images(4, 32)), torch.tensor([0, 1, 2, 3])).backward()
    assert learner.alpha.grad is not None
    values = dict(zip([e for e in start.graph.edges if e.learnable], learner.alpha.grad.tolist(), strict=True))
    longer = [value for edge, value in values.items() if edge.weight == 0.0]
    assert len(longer) == 2
    assert all(value != 0 for value in values.values())


def test_it_is_exported_after_it_has_lost_blocks(tmp_path: Path) -> None:
    net = lifted([3, 2, 1, 1])
    pruned = topolearn.prune(net, without(net, block("layer1_1"), block("layer2_1"), longer=0.25))
    report = topolearn.export_onnx(pruned, tmp_path / "small.onnx", dynamic=("batch", "height", "width"))
    assert len(report.errors) == 2
    assert max(report.errors.values()) < 1e-4


def test_it_is_fitted_pruned_and_read_back(tmp_path: Path) -> None:
    numbers = torch.Generator().manual_seed(0)
    pictures = torch.randn(12, 3, 32, 32, generator=numbers)
    data = torch.utils.data.TensorDataset(pictures, torch.arange(12) % 5)
    options: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 6,
        "lr": 0.01,
        "device": "cpu",
        "quiet": True,
        "out": tmp_path / "run",
    }
    options["training"] = {"judge_given": False}  # its weights are random
    start = lifted([2, 1, 1, 1])
    result = topolearn.fit(start, "continuous", (data, data), penalty_strength=0.0, threshold=0.3, **options)  # type: ignore[arg-type]
    assert result.searched == start.graph
    assert not result.graph.candidates
    read = topolearn.load_model(tmp_path / "run")
    with torch.no_grad():
        assert torch.equal(read(pictures), result.model.eval()(pictures))
