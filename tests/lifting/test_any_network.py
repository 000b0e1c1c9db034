"""Any network can be lifted: torchvision's, changed ones, timm's, and your own; it computes the same, and trains so."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

import topolearn
from tests.lifting.networks import Windows, changed, mobilenet, randomise, regnet, resnet, torchvision_names
from tests.lifting.timm_names import TIMM
from topolearn.compiler import Network
from topolearn.errors import GraphError, LiftError
from topolearn.format import dumps, loads

TOLERANCE = 1e-5
"""Largest difference of outputs, gradients and statistics, divided by the largest value."""


class Subclass(models.ResNet):
    """A class of your own."""


def parametrised(model: nn.Module) -> nn.Module:
    torch.nn.utils.parametrizations.weight_norm(model.get_submodule("layer1.0.conv1"))
    return model


def with_parameter(model: nn.Module) -> nn.Module:
    model.get_submodule("layer1.0").gamma = nn.Parameter(torch.ones(1))
    return model


def shared(model: nn.Module) -> nn.Module:
    model.layer2[1].relu = model.layer2[0].relu
    return model


CHANGED: dict[str, Callable[[], nn.Module]] = {
    "a subclass": lambda: Subclass(models.resnet.BasicBlock, [1, 1, 1, 1]),
    "another norm": lambda: resnet(norm_layer=partial(nn.GroupNorm, 4)),
    "another epsilon": lambda: resnet(norm_layer=partial(nn.BatchNorm2d, eps=1e-3)),
    "another momentum": lambda: resnet(norm_layer=partial(nn.BatchNorm2d, momentum=0.01)),
    "no affine": lambda: changed(resnet, "layer1.0.bn2", nn.BatchNorm2d(64, affine=False)),
    "no statistics": lambda: changed(resnet, "layer2.1.bn2", nn.BatchNorm2d(128, track_running_stats=False)),
    "another activation": lambda: changed(resnet, "layer2.1.relu", nn.SiLU()),
    "another block": lambda: changed(resnet, "layer3.0", nn.Conv2d(128, 256, 1)),
    "another padding": lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, 7, 2, 2, bias=False)),
    "a mode of padding": lambda: changed(
        resnet, "conv1", nn.Conv2d(3, 64, 7, 2, 3, bias=False, padding_mode="reflect")
    ),
    "an even kernel": lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, 4, 2, 1, bias=False)),
    "a kernel that is not square": lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, (7, 5), 2, (3, 2), bias=False)),
    "two strides": lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, 7, (2, 1), 3, bias=False)),
    "another pool": lambda: changed(resnet, "maxpool", nn.AvgPool2d(3, 2, 1)),
    "another window": lambda: changed(resnet, "maxpool", nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "a longer head": lambda: changed(resnet, "fc", nn.Sequential(nn.Linear(512, 8), nn.Linear(8, 2))),
    "a head without a bias": lambda: changed(resnet, "fc", nn.Linear(512, 3, bias=False)),
    "a part too many": lambda: changed(resnet, "layer1.0.attention", nn.Conv2d(1, 1, 1)),
    "a parameter too many": lambda: with_parameter(resnet()),
    "a parametrisation": lambda: parametrised(resnet()),
    "a module in two places": lambda: shared(resnet()),
    "a shortcut of another kind": lambda: changed(resnet, "layer2.0.downsample", nn.Conv2d(64, 128, 1, 2)),
    "a shortcut that pools": lambda: changed(
        resnet,
        "layer2.0.downsample",
        nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128)),
    ),
    "another squeeze": lambda: changed(regnet, "trunk_output.block1.block1-0.f.se.scale_activation", nn.Hardsigmoid()),
    "another order in a RegNet": lambda: changed(regnet, "trunk_output.block1.block1-0.f.d", nn.Identity()),
    "another activation in a RegNet": lambda: changed(regnet, "trunk_output.block2.block2-0.activation", nn.GELU()),
    "another activation in a MobileNetV2": lambda: changed(mobilenet, "features.3.conv.0.2", nn.ReLU()),
    "a MobileNetV2 without dropout": lambda: changed(mobilenet, "classifier", nn.Sequential(nn.Linear(1280, 5))),
    "a MobileNetV2 that drops everything": lambda: changed(mobilenet, "classifier.0", nn.Dropout(1.0)),
    "a MobileNetV2 of uneven width": lambda: models.MobileNetV2(inverted_residual_setting=[[5.55, 16, 1, 1]]),
    "a frozen norm": lambda: resnet(norm_layer=FrozenBatchNorm2d),
    "a bias": lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, 7, 2, 3)),
    "no head": lambda: changed(resnet, "fc", nn.Identity()),
}
"""torchvision's networks with something changed."""


class Block(nn.Module):
    """A block of a ResNet for small images; its shortcut takes every second position and pads the channels."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.stride, self.more = 2 if out > channels else 1, out - channels
        self.conv1 = nn.Conv2d(channels, out, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))
        y += x
        return nn.functional.relu(y, inplace=True)


class SmallResNet(nn.Module):
    """A hand-written ResNet-14."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8)
        widths = [8, 8, 8, 16, 16, 32, 32]
        self.blocks = nn.ModuleList(Block(*pair) for pair in pairwise(widths))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return self.fc(x.mean(dim=(2, 3)))


class NormAct(nn.BatchNorm2d):
    """A normalisation with an activation in it."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class PreAct(nn.Module):
    """A network with normalisation and activation in front of each branch, and after the last addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norms = nn.ModuleList(NormAct(6) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=False):
            x = x + conv(norm(x))
        return self.norms[3](x).mean((2, 3))


class Twice(nn.Module):
    """A network that calls one block twice, and another one once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + torch.tanh(self.one(x))
        x = x + torch.tanh(self.one(x))
        return x + torch.tanh(self.two(x))


class Tokens(nn.Module):
    """A transformer of PyTorch's own layers, with a class token, functional dropout and the batch size in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.token, self.positions = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 5, 16))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.2, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.embed(x).reshape(batch, 16, -1).permute(0, 2, 1)
        x = torch.cat([self.token.expand(batch, -1, -1), x], 1) + self.positions
        x = nn.functional.dropout(x, 0.3, self.training)
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0])


class InPlace(nn.Module):
    """A network whose branches and shortcuts read what an activation has changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.convs = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.convs[0](self.act(x))
        y = self.convs[1](nn.functional.hardtanh(x, inplace=True))
        y += x
        return (y + self.convs[2](self.act(y))).mean((2, 3))


OWN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a ResNet": (SmallResNet, 16),
    "activations inside of normalisations": (PreAct, 8),
    "a block called twice": (Twice, 8),
    "a transformer": (Tokens, 8),
    "windows": (Windows, 8),
    "activations in place": (InPlace, 8),
    "layers": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(288, 288)), 8),
}
"""Networks that people write, and the size of their images."""


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, under each of its names."""
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}


def pairs(model: nn.Module, net: Network) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Each tensor of a network that the lifted one has too: its name, itself, and ours."""
    ours = {name.split(".", 2)[2]: tensor for name, tensor in tensors(net).items() if name.startswith("nodes.")}
    seen: set[int] = set()
    for name, tensor in tensors(model).items():
        if name in ours and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor, ours[name]
    lost = {name for name, tensor in model.named_parameters() if tensor.grad is not None and id(tensor) not in seen}
    assert not lost, "parameters that the lifted network does not have"


NOISE = 1e-10
"""Share of the largest gradient below which one is rounding: that of a bias before a batch normalisation is 0."""


def agree(model: nn.Module, net: Network, size: int) -> None:
    """The same outputs in both modes; in training the same gradients and running statistics, with the same draws."""
    model, net = copy.deepcopy(model).double(), copy.deepcopy(net).double()
    x = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for training in (False, True):
        outputs = []
        for each in (model, net):
            each.train(training)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(7)
                outputs.append(each(x))
        wanted, found = outputs
        assert wanted.std(0).max() > 0  # it depends on the image
        assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max(), "training" if training else "eval"
    wanted.square().sum().backward()
    found.square().sum().backward()
    largest = max(float(tensor.grad.abs().max()) for tensor in model.parameters() if tensor.grad is not None)
    for name, theirs, ours in pairs(model, net):
        if theirs.grad is not None:
            assert ours.grad is not None, name
            allowed = TOLERANCE * theirs.grad.abs().max() + NOISE * largest
            assert (ours.grad - theirs.grad).abs().max() <= allowed, name
        elif not theirs.requires_grad and theirs.numel():
            assert torch.allclose(ours.double(), theirs.double(), rtol=TOLERANCE), name


@pytest.mark.parametrize("name", CHANGED)
def test_networks_with_something_changed(name: str) -> None:
    torch.manual_seed(0)
    model = CHANGED[name]()
    net = topolearn.lift(model, size=64)
    dropped = name == "a MobileNetV2 that drops everything"
    agree(model, net, 64) if not dropped else None
    assert any(edge.learnable for edge in net.graph.edges)


@pytest.mark.parametrize("name", OWN)
def test_networks_that_people_write(name: str) -> None:
    torch.manual_seed(0)
    make, size = OWN[name]
    model = make()
    before = copy.deepcopy(model.state_dict())
    net = topolearn.lift(model, size=size)
    assert net.training is model.training is True
    agree(model, net, size)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    ours = {tensor.data_ptr() for tensor in net.parameters()}
    assert ours.isdisjoint(tensor.data_ptr() for tensor in model.parameters())


TORCHVISION = [
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mobilenet_v3_small",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "vit_b_32",
]
"""Those that are tested each time, one of each kind."""


@pytest.mark.parametrize(
    "name",
    [name if name in TORCHVISION else pytest.param(name, marks=pytest.mark.slow) for name in torchvision_names()],
)
def test_every_network_of_torchvision(name: str) -> None:
    size = 96 if name == "inception_v3" else 64
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    options |= {"image_size": 64} if name.startswith("vit") else {}
    size = 224 if name in ("alexnet", "maxvit_t") else size
    torch.manual_seed(0)
    model = randomise(models.get_model(name, weights=None, num_classes=5, **options))
    net = topolearn.lift(model, size=size)
    params = sum(parameter.numel() for parameter in model.parameters())
    assert net.graph.cost.params == params
    if params < 100_000_000:
        agree(model, net, size)


def test_residual_branches_are_found_at_their_finest() -> None:
    graph = topolearn.lift(Tokens(), size=8).graph
    branches = [edge for edge in graph.edges if edge.learnable and edge.weight == 1.0]
    assert [(edge.src, edge.dst) for edge in branches] == [
        ("layers_0_self_attn", "layers_0_add"),
        ("layers_0_linear1", "layers_0_add_1"),
        ("layers_1_self_attn", "layers_1_add"),
        ("layers_1_linear1", "layers_1_add_1"),
    ]
    longer = [(edge.src, edge.dst) for edge in graph.edges if edge.learnable and edge.weight == 0.0]
    assert ("layers_0_add", "layers_1_add") in longer
    assert str(graph.nodes["layers_0_add"].input) == "5 tokens of 16 channels"


def test_a_block_of_equal_shape_gets_an_edge_around_it() -> None:
    net = topolearn.lift(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Flatten()), size=5)
    edges = {(edge.src, edge.dst): edge.weight for edge in net.graph.edges if edge.learnable}
    assert edges == {("n0", "n1_sum"): 0.0, ("n1", "n1_sum"): 1.0}
    net.set_edge_weights([1.0 - edge.weight if edge.learnable else edge.weight for edge in net.graph.edges])
    small = topolearn.prune(net)
    assert "n1" not in small.graph.nodes
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(small.eval()(x), net.eval()(x))


def test_modules_of_equal_shape_are_blocks() -> None:
    graph = topolearn.lift("squeezenet1_1", size=64).graph
    assert [edge.src for edge in graph.edges if edge.learnable and edge.weight == 1.0] == [
        "features_4", "features_7", "features_10", "features_12"
    ]  # fmt: skip


def test_parts_that_share_parameters_are_one_node() -> None:
    graph = topolearn.lift(Twice(), size=8).graph
    assert [edge.src for edge in graph.edges if edge.learnable and edge.weight == 1.0] == ["one", "two"]
    assert graph.cost.params == sum(parameter.numel() for parameter in Twice().parameters())


FAST = ("test_convnext", "test_efficientnet", "test_byobnet", "test_nfnet")
"""Those of timm that are tested each time."""


@pytest.mark.parametrize(
    "name", ["test_vit", *(name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TIMM)]
)
def test_networks_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    model = timm.create_model(name)
    numbers = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.abs().max() <= 1e-4:  # nothing that would switch a branch off
                parameter.normal_(std=0.1, generator=numbers)
    before = copy.deepcopy(model.state_dict())
    size = model.default_cfg["input_size"][-1]
    net = topolearn.lift(model, size=size)
    assert model.training
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert net.graph.cost.params == sum(parameter.numel() for parameter in model.parameters())
    agree(model, net, size)


def test_a_network_by_name_is_read_back_by_anybody() -> None:
    net = topolearn.lift("mobilenet_v3_small", size=32, classes=4)
    text = dumps(net.graph)
    graph = loads(text)
    assert graph == net.graph
    assert graph.sources["net"].net is None
    again = Network(graph)
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(x), net.eval()(x))
    assert "library: torchvision, model: mobilenet_v3_small, options: {num_classes: 4}" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("model: squeezenet1_1", "model: vgg_9000"), r"node '.*': torchvision has no network 'vgg_9000'"),
        (("num_classes: 4", "num_classes: 5"), "is not the one that the graph was lifted from; lift it again"),
        (('version: "', 'version: "9.'), r"lifted from with torchvision 9\..*, and .* is installed; lift it again"),
        (("until: features.3.cat", "until: nowhere"), "the network has no operation 'nowhere'"),
        (("params: 12432", "params: 17"), "it has 12,432 parameters, but the graph says 17; lift it again"),
        (("source: net", "source: nut"), "the graph has no source 'nut'; did you mean 'net'"),
    ],
)
def test_a_source_that_does_not_fit(change: tuple[str, str], message: str) -> None:
    text = dumps(topolearn.lift("squeezenet1_1", size=64, classes=4).graph).replace(*change)
    if "version" in change[0]:
        text = re.sub("fingerprint: [^}]*", "fingerprint: 0123456789abcdef", text)
    with pytest.raises(GraphError, match=message):
        Network(loads(text))


def test_a_network_of_your_own_is_read_back_with_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SmallResNet()
    net = topolearn.lift(model, size=16)
    graph = loads(dumps(net.graph))
    assert "library: own, model: SmallResNet" in dumps(graph)
    assert Network(graph).graph == net.graph  # the network is still there
    del net
    with pytest.raises(GraphError, match="comes from 'SmallResNet', a network of your own; in Python call register_"):
        Network(loads(dumps(graph)))
    topolearn.register_source("SmallResNet", SmallResNet)
    assert Network(loads(dumps(graph))).graph == graph


def test_a_lifted_network_is_trained_pruned_exported_and_read_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(16, 3, 8, 8), torch.arange(16) % 3)
    model = Tokens()
    net = topolearn.lift(model, size=8)
    result = topolearn.fit(
        net,
        "continuous",
        (data, data),
        epochs=2,
        batch_size=8,
        out=tmp_path / "run",
        device="cpu",
        budget={"macs": 0.7},
        training={"judge_given": False},
    )
    assert result.graph.cost.macs <= 0.7 * net.graph.cost.macs
    x = torch.randn(5, 3, 8, 8)
    wanted = result.model.eval()(x)
    again = topolearn.load_model(tmp_path / "run", sources={"net": Tokens()})
    assert torch.equal(again(x), wanted)
    with pytest.raises(GraphError, match="source 'net' is another SmallResNet than the one"):
        topolearn.load_model(tmp_path / "run", sources={"net": SmallResNet()})
    with pytest.raises(GraphError, match="the graph has no source 'nut'"):
        topolearn.load_model(tmp_path / "run", sources={"nut": Tokens()})
    assert (tmp_path / "run" / "model.onnx").is_file()


def test_an_example_says_what_the_network_takes() -> None:
    model = nn.Sequential(nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 2))
    assert topolearn.lift(model).graph.input_size("image") == (7,)
    sequence = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = topolearn.lift(sequence, example=torch.randn(2, 6, 8))
    x = torch.randn(3, 6, 8)
    assert torch.allclose(net.eval()(x), sequence.eval()(x), atol=1e-6)


@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.Sequential])
def test_wrappers_are_looked_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = SmallResNet()
    assert topolearn.lift(wrap(model), size=16).graph.name == "smallresnet"


def test_half_precision_stays() -> None:
    model = SmallResNet().to(torch.bfloat16)
    net = topolearn.lift(model, size=16)
    assert {tensor.dtype for tensor in net.parameters()} == {torch.bfloat16}
    with pytest.raises(LiftError):
        topolearn.lift(changed(SmallResNet, "fc", nn.Linear(32, 2).double()), size=16)
