"""Modules that are not looked into: those that are marked by hand, and those that single operations do not show."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import topolearn
from tests.lifting.test_any_network import agree
from topolearn.errors import LiftError, OptionError
from topolearn.format import dumps, loads


class Choosy(nn.Module):
    """A module that computes another thing for dark images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if float(x.sum()) > 0 else self.conv(-x)


class Net(nn.Module):
    """A network with a given module between two branches."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.gate(x + self.one(x))
        return self.head((x + self.two(x)).mean((2, 3)))


def test_a_marked_module_is_a_block_that_can_go(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net(Choosy())
    with pytest.raises(LiftError, match=r"blocks=\['gate'\] takes it as a whole"):
        topolearn.lift(model, size=8)
    net = topolearn.lift(model, size=8, blocks=["gate"])
    agree(model, net, 8)
    bright = torch.rand(2, 3, 8, 8) * 9
    for x in (bright, -bright):
        assert torch.equal(copy.deepcopy(net).eval()(x), copy.deepcopy(model).eval()(x))
    assert [edge.src for edge in net.graph.edges if edge.learnable and edge.weight == 1.0] == ["one", "gate", "two"]
    assert net.graph.nodes["gate"].params["macs"] == 4 * 4 * 9 * 64
    assert "blocks: [gate]" in dumps(net.graph)
    assert loads(dumps(net.graph)) == net.graph
    topolearn.dump_graph(net.graph, tmp_path / "graph.yaml")
    topolearn.HubModel(net.eval()).save_pretrained(tmp_path)
    again = topolearn.load_model(tmp_path, sources={"net": Net(Choosy())})
    assert torch.equal(again(bright), net(bright))
    removed = {("gate", "gate_sum"): 0.0, ("add", "gate_sum"): 1.0}
    net.set_edge_weights([removed.get((edge.src, edge.dst), edge.weight) for edge in net.graph.edges])
    assert "gate" not in topolearn.prune(net).graph.nodes


def test_a_network_of_a_library_can_have_marked_modules() -> None:
    net = topolearn.lift("mobilenet_v3_small", size=32, classes=3, blocks=["features.1.block"])
    text = dumps(net.graph)
    assert "library: torchvision, model: mobilenet_v3_small" in text
    assert "blocks: [features.1.block]" in text
    again = topolearn.compile(loads(text))
    again.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again.eval()(x), net.eval()(x))
    stage = topolearn.lift("resnet18", size=32, blocks=["layer1"]).graph  # otherwise it has ordinary nodes
    assert next(edge.src for edge in stage.edges if edge.learnable and edge.weight == 1.0) == "layer1"


@pytest.mark.parametrize(
    ("blocks", "error", "message"),
    [
        (["gat"], LiftError, "the network has no module 'gat'; did you mean 'gate'"),
        ([""], LiftError, "the network has no module ''"),
        ("gate", OptionError, "'blocks' is 'gate', but it should be a list of module paths"),
        ([3], OptionError, "it should be a list of module paths"),
        (["gate", "gate.conv"], LiftError, "cannot lift 'gate.conv' .Conv2d. as a block: it is inside of 'gate'"),
        (["gate.norm"], LiftError, "cannot lift 'gate.norm' .BatchNorm2d. as a block: it is called 0 times"),
    ],
)
def test_what_cannot_be_a_block(blocks: Any, error: type[Exception], message: str) -> None:
    torch.manual_seed(0)
    model = Net(Choosy())
    with torch.no_grad():
        model.stem.weight.zero_()
        model.stem.bias.fill_(-1.0)  # type: ignore[union-attr]
        model.one.weight.zero_()
        model.one.bias.zero_()  # type: ignore[union-attr]
    with pytest.raises(error, match=message):
        topolearn.lift(model, size=8, blocks=blocks)


class WithoutGradients(nn.Module):
    """A module whose layer gives no gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x + self.conv(x)


class ByChance(WithoutGradients):
    """A module that skips its layer by chance."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if not self.training or torch.rand(1).item() > 0.5 else x


class ByPythonsChance(WithoutGradients):
    """A module that skips its layer by Python's random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if not self.training or random.random() > 0.5 else x


class Tripled(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3.0 * gradient


class OwnGradient(WithoutGradients):
    """A module with a gradient of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x + Tripled.apply(self.conv(x))


class OtherPrecision(WithoutGradients):
    """A module that computes in bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return x + self.conv(x.float()).to(x.dtype)


@pytest.mark.parametrize("make", [WithoutGradients, ByChance, ByPythonsChance, OwnGradient, OtherPrecision])
def test_what_operations_do_not_show_stays_whole(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = Net(make())
    random.seed(1)
    state, pythons = torch.random.get_rng_state(), random.getstate()
    net = topolearn.lift(model, size=8)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert random.getstate() == pythons
    assert type(net.get_submodule("nodes.gate.gate")) is make
    for seed in range(4):
        outputs = []
        for each in (model, net):
            torch.manual_seed(seed)
            random.seed(seed)
            each.zero_grad()
            out = each(torch.linspace(-1, 1, 384).view(2, 3, 8, 8))
            out.square().sum().backward()
            outputs.append((out, {name.rpartition(".")[0]: p.grad for name, p in each.named_parameters()}))
        (wanted, theirs), (found, ours) = outputs
        assert torch.equal(wanted, found)
        assert set(theirs) == {name.split(".", 2)[2] for name in ours}
        for name, gradient in theirs.items():
            own = next(value for key, value in ours.items() if key.split(".", 2)[2] == name)
            assert (gradient is None or not gradient.any()) == (own is None or not own.any())
            assert gradient is None or own is None or torch.allclose(gradient, own, rtol=1e-5, atol=1e-7)


class Unsaid(nn.Module):
    """A network that makes tensors without saying on which device."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * torch.arange(4).view(4, 1, 1) + torch.zeros(1)


def test_tensors_that_are_made_on_the_way() -> None:
    model = Unsaid()
    agree(model, topolearn.lift(model, size=8), 8)


def test_a_network_by_name_is_built_for_the_size_of_its_images() -> None:
    graph = topolearn.lift("vit_b_16", size=32, classes=3).graph
    assert graph.input_size("image") == (3, 32, 32)
    assert graph.sources["net"].options.thaw() == {"image_size": 32, "num_classes": 3}
    with pytest.raises(OptionError, match="takes only images that are as high as wide; give one number for 'size'"):
        topolearn.lift("vit_b_16", size=(32, 64))
    pytest.importorskip("timm", reason="timm is not installed")
    assert topolearn.lift("timm:test_vit").graph.input_size("image") == (3, 160, 160)
    net = topolearn.lift("timm:test_vit", size=(64, 96))
    assert net.graph.input_size("image") == (3, 64, 96)
    again = topolearn.compile(loads(dumps(net.graph)))
    again.load_state_dict(net.state_dict())
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(again.eval()(x), net.eval()(x))


class Minus(WithoutGradients):
    """A block that subtracts its branch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - self.conv(x)


class Half(WithoutGradients):
    """A block that adds half of its branch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.conv(x), alpha=0.5)


class TwoLayers(WithoutGradients):
    """A block of two layers without an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.last(torch.relu(self.norm(self.conv(x)))))


def layer() -> nn.Module:
    """A layer with its normalisation and activation."""
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))


@pytest.mark.parametrize("make", [layer, ByChance, Minus, Half, TwoLayers])
def test_each_block_of_a_stack_can_go(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    stack = nn.Sequential(make(), make(), make())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), stack, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    net = topolearn.lift(model, size=8)
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(net(x), model(x), atol=1e-6)
    branches = [edge for edge in net.graph.edges if edge.learnable and edge.weight == 1.0]
    assert [edge.src for edge in branches] == ["n1_0", "n1_1", "n1_2"]
    stack[1] = nn.Identity()
    into = branches[1].dst
    net.set_edge_weights(
        [float(e.src == "n1_0_sum") if e.learnable and e.dst == into else e.weight for e in net.graph.edges]
    )
    assert torch.allclose(topolearn.prune(net)(x), model(x), atol=1e-6)
    back = topolearn.unlift(net)
    assert str(back) == str(model)
    assert torch.allclose(back(x), model(x), atol=1e-6)
