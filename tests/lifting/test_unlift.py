"""A lifted network's own class comes back, with what was learned and without what was removed."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

import topolearn
from tests.lifting.networks import images, mobilenet, randomise, regnet, relative, resnet
from tests.lifting.test_any_network import PreAct, SmallResNet, Twice
from topolearn.compiler import Network
from topolearn.errors import LiftError
from topolearn.format import dumps, loads
from topolearn.graph import Node
from topolearn.runs.tensor_files import save_tensors

TOLERANCE = 1e-5


def vit() -> nn.Module:
    return models.VisionTransformer(64, 32, 3, 2, 24, 48, num_classes=5)


def swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=5)


def timm_network(name: str) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=5)


class Chain(nn.Module):
    """A network of layers without an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
        self.one, self.two = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.two(self.one(x)))
        return self.head(x.mean((2, 3)))


class Scaled(nn.Module):
    """A network whose branches end in a factor that the block holds itself."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((2, 6, 1, 1), 0.5))
        self.stem, self.convs = nn.Conv2d(3, 6, 3), nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv, gamma in zip(self.convs, self.gamma.unbind(), strict=True):
            x = x + gamma * conv(x).sigmoid()
        return x.mean((2, 3))


class Repeated(nn.Module):
    """A network that repeats a layer, with an activation in its own forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.layer(self.layer(x).sigmoid()).mean((2, 3))


class Nosy(nn.Module):
    """A network that looks into its branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return (x + len(self.branch) * self.branch(x)).mean((2, 3))


# How it is made, and nodes to remove.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Sequence[str]]] = {
    "a ResNet of torchvision's": (resnet, ["layer1_0", "layer2_1"]),
    "a RegNet": (regnet, ["block4_1", "block4_5"]),
    "a MobileNetV2": (mobilenet, ["features_3", "features_9"]),
    "a ResNet of your own": (SmallResNet, ["blocks_1", "blocks_2"]),
    "activations inside of normalisations": (PreAct, ["convs_1"]),
    "attention": (vit, ["encoder_layers_encoder_layer_1_self_attention", "encoder_layers_encoder_layer_2_mlp"]),
    "attention in windows": (swin, ["features_1_1_attn", "features_3_1_mlp"]),
    "layers": (Chain, ["one"]),
    "MLP-Mixer": (lambda: timm_network("mixer_s32_224"), ["blocks_2_mlp_tokens", "blocks_3_mlp_channels"]),
    "EfficientNet-Lite": (lambda: timm_network("efficientnet_lite0"), ["blocks_0_0", "blocks_2_1", "blocks_4_1"]),
}


def without(net: Network, names: Sequence[str]) -> Network:
    """The network without some branches, each with its learnable edges, and without some blocks."""
    weights = [edge.weight for edge in net.graph.edges]
    for name in names:
        found = [i for i, edge in enumerate(net.graph.edges) if edge.src == name and edge.learnable]
        assert found, f"no learnable edge starts at {name}; there are {', '.join(net.graph.nodes)}"
        for i in found:
            weights[i] = 0.0
            around = [j for j in net.graph.in_edges(net.graph.edges[i].dst) if j != i]
            if all(weights[j] == 0.0 for j in around):  # a block without an addition: what goes around it stays
                weights[around[0]] = 1.0
    net.set_edge_weights(weights)
    return topolearn.prune(net)


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A network with random weights, and images for it."""
    torch.manual_seed(0)
    model = randomise(NETWORKS[name][0]()).eval()
    return model, images(2, 224 if name == "MLP-Mixer" else 64)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_class_comes_back(name: str) -> None:
    model, x = made(name)
    net = topolearn.lift(model, example=x)
    back = topolearn.unlift(net)
    assert type(back) is type(model)
    assert back.training is False
    wanted, found = model.state_dict(), back.state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert {p.data_ptr() for p in back.parameters()}.isdisjoint(p.data_ptr() for p in net.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_what_was_removed_is_gone(name: str) -> None:
    model, x = made(name)
    small = without(topolearn.lift(model, example=x), NETWORKS[name][1])
    before = copy.deepcopy(small.state_dict())
    back = topolearn.unlift(small)
    with torch.no_grad():
        wanted = small(x)
        assert relative(back(x), wanted) <= TOLERANCE < relative(model(x), wanted)
    assert sum(p.numel() for p in back.parameters()) == small.graph.cost.params
    assert sum(p.numel() for p in back.parameters()) < sum(p.numel() for p in model.parameters())
    assert set(back.state_dict()) < set(model.state_dict())
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    back.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in back.parameters())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("MLP-Mixer", "EfficientNet-Lite")])
def test_weights_are_multiplied_into_the_branches(name: str) -> None:
    model, x = made(name)
    net = topolearn.lift(model, example=x)
    node = NETWORKS[name][1][0]
    weights = [-0.6 if edge.src == node and edge.learnable else edge.weight for edge in net.graph.edges]
    net.set_edge_weights(weights)
    if name == "layers":  # a relu follows
        with pytest.raises(LiftError, match=r"the weight -0\.6, which cannot be multiplied into a layer of 'one'"):
            topolearn.unlift(net)
        return
    with torch.no_grad():
        assert relative(topolearn.unlift(net)(x), net(x)) <= TOLERANCE < relative(model(x), net(x))
    assert net.frozen_edge_weights == tuple(weights)


def test_a_factor_of_the_block_itself() -> None:
    torch.manual_seed(0)
    model, x = Scaled().eval(), images(2, 16)
    net = topolearn.lift(model, example=x)
    net.set_edge_weights([0.7 if edge.weight == 1 and edge.learnable else edge.weight for edge in net.graph.edges])
    with pytest.raises(LiftError, match=r"^cannot give back the Scaled: .*export it as ONNX, .pt2 or PyTorch source"):
        topolearn.unlift(net)


def test_a_block_is_replaced_by_an_identity() -> None:
    model, x = made("a ResNet of torchvision's")
    back = topolearn.unlift(without(topolearn.lift(model, example=x), ["layer2_1"]))
    assert type(back.get_submodule("layer2.1")) is nn.Identity
    assert {type(module) for module in back.modules()} <= {type(module) for module in model.modules()} | {nn.Identity}


def test_a_network_that_learned_a_longer_edge_is_refused() -> None:
    net = topolearn.lift(SmallResNet(), size=16)
    weights = [0.5 if edge.weight == 0.0 else edge.weight for edge in net.graph.edges]
    net.set_edge_weights(weights)
    with pytest.raises(
        LiftError, match="give back the SmallResNet: it has no edge conv -> blocks_1_add, which was lea"
    ):
        topolearn.unlift(net)


def test_other_networks_that_a_class_cannot_be() -> None:
    net = topolearn.lift(mobilenet(), size=64)
    edges = net.graph.edges
    only = [0.0 if (edge.src, edge.dst) == ("features_5", "features_6") else edge.weight for edge in edges]
    net.set_edge_weights(only)
    with pytest.raises(LiftError, match="cannot do without the edge features_5 -> features_6, unless 'features_5' is"):
        topolearn.unlift(net)
    graph = topolearn.load_graph("digits")
    with pytest.raises(LiftError, match="does not say which network it was lifted from"):
        topolearn.unlift(topolearn.compile(graph))
    with pytest.raises(LiftError, match="the Repeated: without what was removed, what it computes differs by"):
        topolearn.unlift(without(topolearn.lift(Repeated(), size=8), ["layer"]))
    with pytest.raises(LiftError, match=r"it does not run on an input of 3 x 8 x 8: .* has no len"):
        topolearn.unlift(without(topolearn.lift(Nosy(), size=8), ["branch"]))


def encoder(*, norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_any_branches_of_pytorchs_own_transformer_can_be_removed(norm_first: bool, count: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 16)
    net = topolearn.lift(encoder(norm_first=norm_first).eval(), example=x)
    branches = [i for i, edge in enumerate(net.graph.edges) if edge.learnable and edge.weight == 1.0]
    assert len(branches) == 4
    for gone in itertools.combinations(branches, count):
        small = copy.deepcopy(net)
        small.set_edge_weights([0.0 if i in gone else edge.weight for i, edge in enumerate(net.graph.edges)])
        back = topolearn.unlift(small)
        for gradients in (False, True):  # without them, the layers of PyTorch take another path
            with torch.set_grad_enabled(gradients):
                assert torch.allclose(back(x), small(x), atol=1e-6)
        assert sum(p.numel() for p in back.parameters()) == topolearn.prune(small).graph.cost.params
        again = copy.deepcopy(back).train()(x)
        assert again.shape == x.shape


def test_branches_that_share_their_module_are_removed_together() -> None:
    torch.manual_seed(0)
    model, x = Twice().eval(), images(2, 8)
    small = without(topolearn.lift(model, example=x), ["one"])
    back = topolearn.unlift(small)
    assert torch.allclose(back(x), small(x), atol=1e-6)
    assert type(back.one).__name__ == "Zeros"


def test_a_changed_node_is_refused() -> None:
    net = topolearn.lift(mobilenet(), size=64)
    nodes = dict(net.graph.nodes)
    nodes["classifier"] = Node("classifier", "classifier", {"classes": 7}, input=nodes["classifier"].input)
    with pytest.raises(LiftError, match="node 'classifier' has been changed in the graph"):
        topolearn.unlift(Network(net.graph.replace(nodes=nodes)))


def test_a_graph_of_ordinary_nodes_may_have_another_size() -> None:
    model, x = made("a ResNet of torchvision's")
    net = topolearn.lift(model, size=48)
    text = dumps(net.graph).replace("[3, 48, 48]", "[3, 96, 32]")
    other = Network(loads(text)).eval()
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert relative(topolearn.unlift(other)(x), model(x)) <= TOLERANCE


def test_half_precision_and_a_learner() -> None:
    net = topolearn.lift(randomise(SmallResNet()).bfloat16(), size=16)
    back = topolearn.unlift(net)
    assert {parameter.dtype for parameter in back.parameters()} == {torch.bfloat16}
    learner = topolearn.learners.Continuous(net.graph)
    searching = topolearn.compile(topolearn.lift(SmallResNet(), size=16), learner)
    assert isinstance(topolearn.unlift(searching), SmallResNet)
    assert searching.learner is learner


def write_run(net: Network, folder: Path) -> None:
    """What load_model reads."""
    folder.mkdir()
    topolearn.dump_graph(net.graph, folder / "graph.yaml")
    save_tensors(folder / "weights.safetensors", net.state_dict(), {})


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_a_run_that_another_process_loads(name: str, tmp_path: Path) -> None:
    net = topolearn.lift(name, size=64, classes=5).eval()
    node = "layer3_1" if name == "resnet18" else "features_5_block"
    write_run(without(net, [node]), tmp_path / "run")
    program = (
        "import sys, torch, topolearn; net = topolearn.load_model(sys.argv[1]); back = topolearn.unlift(net);"
        " x = torch.randn(2, 3, 64, 64); print(type(back).__name__, float((back(x) - net(x)).abs().max()) < 1e-4)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["ResNet" if name == "resnet18" else "MobileNetV3", "True"], done.stderr


def test_a_run_of_your_own_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = randomise(resnet()).eval()
    write_run(without(topolearn.lift(model, size=64), ["layer2_1"]), tmp_path / "run")
    program = (
        "import sys, topolearn; from tests.lifting.networks import resnet\n"
        "for sources in (None, {'net': resnet()}):\n"
        "    net = topolearn.load_model(sys.argv[1], sources=sources)\n"
        "    try: print(type(topolearn.unlift(net)).__name__)\n"
        "    except topolearn.TopolearnError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    refused, given = done.stdout.splitlines()
    assert "comes from 'ResNet', a network of your own; in Python call register_source('ResNet', ResNet)" in refused
    assert given == "ResNet", done.stderr


def test_files_without_a_source_are_as_before() -> None:
    graph = topolearn.lift(resnet(), size=64).graph
    bare = graph.replace(sources={})
    assert loads(dumps(bare)) == bare
    assert dumps(bare) == "".join(
        line
        for line in dumps(graph).splitlines(keepends=True)
        if not line.startswith(("sources:", "  net: {library: own"))
    )
