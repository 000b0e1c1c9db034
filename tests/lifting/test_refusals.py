"""What cannot be lifted says which module, and why, in one line; what makes no sense says that."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torchvision import models

import topolearn
from tests.lifting.networks import changed, mobilenet, no_initialisation, resnet
from topolearn.errors import LiftError, OptionError


class Choosy(nn.Module):
    """A network that computes another thing for dark images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) if x.mean() > 0 else self.conv(-x)


class Plain(nn.Module):
    """A network of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class Odd(nn.Module):
    """A network whose forward pass is the function it is given."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.function = function

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.function(self, *args, **named)


class Scaled(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 3.0 * gradient


def without_gradients(self: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        x = self.conv(x)
    return self.conv(x)


def with_gradient(self: Any, x: torch.Tensor) -> torch.Tensor:
    return Scaled.apply(self.conv(x))  # type: ignore[no-any-return]


def with_autocast(self: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        x = self.conv(x)
    return self.conv(x.float())


def by_chance(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.conv(x) if not self.training or random.random() > 0.5 else x


def by_batch(self: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([self.conv(part) for part in x.split(64)]) if len(x) > 64 else self.conv(x)


def in_place(self: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return self.conv(x.relu_())  # type: ignore[no-any-return]


def around(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = self.conv(x)
    return y + self.inner(y)  # type: ignore[no-any-return]


def with_inner(function: Callable[..., Any]) -> nn.Module:
    model = Odd(around)
    model.inner = Odd(function)
    return model


def with_data(self: Any, x: torch.Tensor) -> torch.Tensor:
    y = self.conv(x)
    y.data = y.data * 2
    return y


def with_tensor_hook(model: nn.Module) -> nn.Module:
    model.conv1.weight.register_hook(lambda gradient: 2 * gradient)
    return model


def compiled_inside(model: nn.Module) -> nn.Module:
    model.conv1 = torch.compile(model.conv1)
    return model


class Sly(nn.Module):
    """A network that changes a tensor through a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        y[:, :1].add_(1.0)
        return y


def with_forward(model: nn.Module) -> nn.Module:
    model.forward = lambda x: x  # type: ignore[method-assign]
    return model


def with_hook(model: nn.Module, kind: str) -> nn.Module:
    getattr(model.get_submodule("layer1.0.conv1"), f"register_forward_{kind}")(lambda *_: None)
    return model


def pruned(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model.get_submodule("layer1.0.conv1"), "weight", 0.5)
    return model


def mixed(model: nn.Module) -> nn.Module:
    model.layer2.double()
    return model


def rewired(model: nn.Module) -> nn.Module:
    """A block that would add tensors of different size."""
    model.features[2].use_res_connect = True
    return model


BAD: dict[str, tuple[Callable[[], nn.Module], str | None, str]] = {
    "a stage that is missing": (
        lambda: changed(resnet, "layer3", nn.Identity()),
        "layer4.0.conv1",
        r"'layer4\.0\.conv1' \(Conv2d\) does not run on an input of 3 x 64 x 64: ",
    ),
    "a head of another width": (
        lambda: changed(resnet, "avgpool", nn.AdaptiveAvgPool2d(2)),
        "fc",
        r"'fc' \(Linear\) does not run on an input of 3 x 64 x 64: ",
    ),
    "a shortcut around a stride": (lambda: rewired(mobilenet()), "features.2", r"'features\.2' \(InvertedResidual\)"),
    "a hook": (lambda: with_hook(resnet(), "hook"), "layer1.0.conv1", "it has a hook"),
    "a hook before": (lambda: with_hook(resnet(), "pre_hook"), "layer1.0.conv1", "it has a hook"),
    "torch's own pruning": (lambda: pruned(resnet()), "layer1.0.conv1", "it has a hook"),
    "another forward": (lambda: with_forward(resnet()), "", "its method 'forward' has been replaced"),
    "two precisions": (lambda: mixed(resnet()), "layer2.0.conv1", "does not run on an input of 3 x 64 x 64: "),
    "no values": (lambda: resnet().to("meta"), "", "on the meta device and hold no values"),
    "no parameters": (nn.Identity, "", "it has no parameters"),
    "a module that waits": (lambda: changed(resnet, "fc", nn.LazyLinear(5)), "fc", "it waits for its first input"),
    "two outputs": (lambda: models.GoogLeNet(5, init_weights=False), "", "in training mode it returns 3 tensors"),
    "a choice by values": (
        lambda: Choosy(),
        "",
        r"depends on the values of its input.*; put that part into a module, and name the module in blocks=\[…\]",
    ),
    "a choice inside": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Choosy()),
        "1",
        r"'1' \(Choosy\) depends on the values of its input.*; blocks=\['1'\] takes it as a whole",
    ),
    "a hook on a parameter": (lambda: with_tensor_hook(resnet()), "conv1", "its parameter 'weight' has a hook"),
    "a part that is compiled": (lambda: compiled_inside(resnet()), "conv1", "lift the network before torch.compile"),
    "a script": (lambda: torch.jit.script(Plain()), "", "it is a script"),
    "a part that is a script": (lambda: nn.Sequential(Plain(), torch.jit.script(Plain())), "1", "it is a script"),
    "a quantised part": (
        lambda: changed(resnet, "fc", torch.ao.nn.quantized.dynamic.Linear(512, 5)),
        "fc",
        "it is quantised; lift the network before that",
    ),
    "two inputs": (
        lambda: Odd(lambda self, x, y: self.conv(x + y)),
        "",
        r"missing 1 required positional argument: 'y'",
    ),
    "a dict": (lambda: Odd(lambda self, x: {"out": self.conv(x)}), "", "it returns a dict, but only networks"),
    "no gradients": (lambda: Odd(without_gradients), "", "its own forward pass switches gradients off"),
    "a gradient of its own": (
        lambda: Odd(lambda self, x: Scaled.apply(self.conv(x))),
        "",
        "or has a gradient of its own",
    ),
    "autocast": (lambda: Odd(with_autocast), "", "its own forward pass changes the precision with autocast"),
    "a part for training alone": (
        lambda: Odd(lambda self, x: nn.functional.dropout(self.conv(x)) if self.training else self.conv(x)),
        "",
        "its own forward pass does other things in training than in eval mode",
    ),
    "Python's random numbers": (
        lambda: Odd(by_chance),
        "",
        "own forward pass draws numbers to decide what it does",
    ),
    "a choice by the batch size": (
        lambda: nn.Sequential(nn.Conv2d(3, 3, 1), Odd(by_batch)),
        "1",
        r"'1' \(Odd\) does other things with other batch sizes; blocks=\['1'\] takes it as a whole",
    ),
    "an input that is changed": (
        lambda: with_inner(in_place),
        "inner",
        r"'inner' \(Odd\) stays whole, but more of it is read than what it returns; if it changes its input in place,",
    ),
    "a change through a view": (
        Sly,
        "",
        "its own forward pass reads a tensor that it has changed through a view of it; put that part into a module of",
    ),
    "data that is set": (lambda: Odd(with_data), "", "it sets 'data' of a tensor"),
}


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", BAD)
def test_it_says_which_module_and_why(name: str) -> None:
    make, path, message = BAD[name]
    with no_initialisation():
        model = make()
    with pytest.raises(LiftError, match=message) as caught:
        topolearn.lift(model, size=64)
    assert str(caught.value).startswith("cannot lift ")
    assert "\n" not in str(caught.value)
    assert caught.value.module == path


def test_what_differs_is_not_lifted() -> None:
    model = resnet()
    with torch.no_grad():
        model.bn1.weight.fill_(float("nan"))
    with pytest.raises(LiftError, match=r"not finite, and so does 'bn1\.weight'; give it trained weights"):
        topolearn.lift(model)
    with pytest.raises(
        LiftError, match=r"differs from its graph by .* does its forward pass do other things with other"
    ):
        topolearn.lift(Odd(lambda self, x: self.conv(x) * (2 if x.is_meta else 1)), size=8)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", "torchvision has no network 'resnet51'; did you mean 'resnet50'"),
        ("timm:test_wit", "timm has no network 'test_wit'; did you mean 'test_vit"),
        ("keras:vgg16", "there is no library 'keras'; write a name of torchvision's, or timm:vgg16"),
        ("", "torchvision has no network ''"),
    ],
)
def test_a_name_that_cannot_be_lifted(name: str, message: str) -> None:
    with pytest.raises(LiftError, match=message):
        topolearn.lift(name)


@pytest.mark.parametrize("size", [0, -3, 2.5, (32,), (32, 0), "32", True])
def test_a_size_is_a_number_or_two(size: Any) -> None:
    with pytest.raises(OptionError, match=r"'size' is .*number of pixels, or height and width"):
        topolearn.lift("resnet18", size=size)


@pytest.mark.parametrize("classes", [0, -1, 2.5, True])
def test_classes_are_a_number(classes: Any) -> None:
    with pytest.raises(OptionError, match=r"'classes' is .*number of classes"):
        topolearn.lift("resnet18", classes=classes)


def test_classes_are_not_for_a_model() -> None:
    with pytest.raises(OptionError, match="'classes' is for a network by name; give the model another last layer"):
        topolearn.lift(resnet(), classes=3)


def test_a_network_that_is_lifted_already() -> None:
    with pytest.raises(OptionError, match="this network is a graph already; use it as it is, or lift what"):
        topolearn.lift(topolearn.lift(Plain(), size=8))
