"""What cannot be lifted says which module, and why, in one line; what makes no sense says that."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

import topolearn
from tests.lifting.networks import no_initialisation
from topolearn.errors import LiftError, OptionError
from topolearn.lifting.source import LIFTED


class Subclass(models.ResNet):
    """Whose forward could be anything."""


def resnet(**options: Any) -> nn.Module:
    return models.ResNet(models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5, **options)


def regnet() -> nn.Module:
    return models.regnet_y_400mf(num_classes=5)


def mobilenet() -> nn.Module:
    return models.mobilenet_v2(width_mult=0.25, num_classes=5)


def changed(make: Callable[[], nn.Module], path: str, part: Any) -> nn.Module:
    """A network with the module at ``path`` replaced."""
    model = make()
    model.set_submodule(path, part)
    return model


def with_forward(model: nn.Module) -> nn.Module:
    model.forward = lambda x: x  # type: ignore[method-assign]
    return model


def with_hook(model: nn.Module, kind: str) -> nn.Module:
    getattr(model.get_submodule("layer1.0.conv1"), f"register_forward_{kind}")(lambda *_: None)
    return model


def parametrised(model: nn.Module) -> nn.Module:
    torch.nn.utils.parametrizations.weight_norm(model.get_submodule("layer1.0.conv1"))
    return model


def pruned(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model.get_submodule("layer1.0.conv1"), "weight", 0.5)
    return model


def with_parameter(model: nn.Module) -> nn.Module:
    model.get_submodule("layer1.0").gamma = nn.Parameter(torch.ones(1))
    return model


def shared(model: nn.Module) -> nn.Module:
    model.layer2[1].relu = model.layer2[0].relu
    return model


def mixed(model: nn.Module) -> nn.Module:
    model.layer2.double()
    return model


def rewired(model: nn.Module) -> nn.Module:
    """A block that would add tensors of different size."""
    model.features[2].use_res_connect = True
    return model


BAD: dict[str, tuple[Callable[[], nn.Module], str | None, str]] = {
    "another network": (
        lambda: models.vgg11(num_classes=2),
        "",
        "this VGG: there is no graph for networks of this class",
    ),
    "no network": (lambda: nn.Linear(3, 3), "", "this Linear: it is not one"),
    "a subclass": (lambda: Subclass(models.resnet.BasicBlock, [1, 1, 1, 1]), "", "this Subclass: it is not one"),
    "another norm": (
        lambda: resnet(norm_layer=partial(nn.GroupNorm, 4)),
        "bn1",
        r"'bn1' \(GroupNorm\): it should be a BatchNorm2d",
    ),
    "a frozen norm": (lambda: resnet(norm_layer=FrozenBatchNorm2d), "bn1", r"'bn1' \(FrozenBatchNorm2d\)"),
    "another epsilon": (
        lambda: resnet(norm_layer=partial(nn.BatchNorm2d, eps=1e-3)),
        "bn1",
        "its eps is 0.001, but only 1e-05 can be lifted",
    ),
    "another momentum": (
        lambda: resnet(norm_layer=partial(nn.BatchNorm2d, momentum=0.01)),
        "bn1",
        "its momentum is 0.01, but only 0.1 can be lifted",
    ),
    "no affine": (
        lambda: changed(resnet, "layer1.0.bn2", nn.BatchNorm2d(64, affine=False)),
        "layer1.0.bn2",
        "its affine is False",
    ),
    "no statistics": (
        lambda: changed(resnet, "layer2.1.bn2", nn.BatchNorm2d(128, track_running_stats=False)),
        "layer2.1.bn2",
        "its track_running_stats is False",
    ),
    "another activation": (
        lambda: changed(resnet, "layer2.1.relu", nn.SiLU()),
        "layer2.1.relu",
        r"'layer2\.1\.relu' \(SiLU\): it should be a ReLU",
    ),
    "another block": (
        lambda: changed(resnet, "layer3.0", nn.Conv2d(128, 256, 1)),
        "layer3.0",
        r"'layer3\.0' \(Conv2d\): it should be a BasicBlock or Bottleneck",
    ),
    "another stage": (lambda: changed(resnet, "layer3", nn.Identity()), "layer3", r"'layer3' \(Identity\)"),
    "another padding": (
        lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, 7, 2, 2, bias=False)),
        "conv1",
        r"its padding is \(2, 2\), but only \(3, 3\) can be lifted",
    ),
    "a mode of padding": (
        lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, 7, 2, 3, bias=False, padding_mode="reflect")),
        "conv1",
        "its padding_mode is reflect",
    ),
    "a bias": (lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, 7, 2, 3)), "conv1", "it has a bias"),
    "an even kernel": (
        lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, 4, 2, 1, bias=False)),
        "conv1",
        r"its kernel_size is \(4, 4\), but only odd, square ones can be lifted",
    ),
    "a kernel that is not square": (
        lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, (7, 5), 2, (3, 2), bias=False)),
        "conv1",
        r"its kernel_size is \(7, 5\)",
    ),
    "two strides": (
        lambda: changed(resnet, "conv1", nn.Conv2d(3, 64, 7, (2, 1), 3, bias=False)),
        "conv1",
        r"its stride is \(2, 1\), but only \(2, 2\) can be lifted",
    ),
    "another pool": (
        lambda: changed(resnet, "maxpool", nn.AvgPool2d(3, 2, 1)),
        "maxpool",
        r"'maxpool' \(AvgPool2d\): it should be a MaxPool2d or Identity",
    ),
    "another window": (
        lambda: changed(resnet, "maxpool", nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        "maxpool",
        "its ceil_mode is True",
    ),
    "another size at the end": (
        lambda: changed(resnet, "avgpool", nn.AdaptiveAvgPool2d(2)),
        "avgpool",
        "its output_size is 2, but only 1 can be lifted",
    ),
    "no head": (lambda: changed(resnet, "fc", nn.Identity()), "fc", r"'fc' \(Identity\): it should be a Linear"),
    "a longer head": (
        lambda: changed(resnet, "fc", nn.Sequential(nn.Linear(512, 8), nn.Linear(8, 2))),
        "fc",
        r"'fc' \(Sequential\): it should be a Linear",
    ),
    "a head without a bias": (
        lambda: changed(resnet, "fc", nn.Linear(512, 3, bias=False)),
        "fc",
        r"'fc' \(Linear\): it has no bias",
    ),
    "a part too many": (
        lambda: changed(resnet, "layer1.0.attention", nn.Conv2d(1, 1, 1)),
        "layer1.0.attention",
        r"'layer1\.0\.attention' \(Conv2d\): it is not part of torchvision's ResNet",
    ),
    "a parameter too many": (
        lambda: with_parameter(resnet()),
        "layer1.0",
        r"'layer1\.0' \(BasicBlock\): its tensor 'gamma' has no place in the graph",
    ),
    "a hook": (lambda: with_hook(resnet(), "hook"), "layer1.0.conv1", "it has a hook"),
    "a hook before": (lambda: with_hook(resnet(), "pre_hook"), "layer1.0.conv1", "it has a hook"),
    "a parametrisation": (
        lambda: parametrised(resnet()),
        "layer1.0.conv1",
        r"\(ParametrizedConv2d\): it should be a Conv2d",
    ),
    "torch's own pruning": (lambda: pruned(resnet()), "layer1.0.conv1", "it has a hook"),
    "another forward": (lambda: with_forward(resnet()), "", "its method 'forward' has been replaced"),
    "a compiled model": (lambda: torch.compile(resnet()), "", "this OptimizedModule"),
    "a module in two places": (
        lambda: shared(resnet()),
        "layer2.1.relu",
        r"it is also 'layer2\.0\.relu', but nodes of a graph cannot share such a module",
    ),
    "two precisions": (lambda: mixed(resnet()), "", r"its parameters differ in device or precision.*\.to\("),
    "no values": (lambda: resnet().to("meta"), "", "on the meta device and hold no values"),
    "a shortcut of another kind": (
        lambda: changed(resnet, "layer2.0.downsample", nn.Conv2d(64, 128, 1, 2)),
        "layer2.0.downsample",
        r"'layer2\.0\.downsample' \(Conv2d\): it should be a Sequential",
    ),
    "a shortcut that pools": (
        lambda: changed(
            resnet,
            "layer2.0.downsample",
            nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128)),
        ),
        "layer2.0.downsample",
        "it has 3 parts, not 2",
    ),
    "another squeeze": (
        lambda: changed(regnet, "trunk_output.block1.block1-0.f.se.scale_activation", nn.Hardsigmoid()),
        "trunk_output.block1.block1-0.f.se.scale_activation",
        r"\(Hardsigmoid\): it should be a Sigmoid",
    ),
    "another order in a RegNet": (
        lambda: changed(regnet, "trunk_output.block1.block1-0.f.d", nn.Identity()),
        "trunk_output.block1.block1-0.f",
        "its parts are a, b, se, c, d, not a, b, se",
    ),
    "another activation in a RegNet": (
        lambda: changed(regnet, "trunk_output.block2.block2-0.activation", nn.GELU()),
        "trunk_output.block2.block2-0.activation",
        r"\(GELU\)",
    ),
    "another stage of a RegNet": (
        lambda: changed(regnet, "trunk_output.block2", nn.Sequential()),
        "trunk_output.block2",
        r"\(Sequential\): it should be a AnyStage",
    ),
    "another activation in a MobileNetV2": (
        lambda: changed(mobilenet, "features.3.conv.0.2", nn.ReLU()),
        "features.3.conv.0.2",
        r"\(ReLU\): it should be a ReLU6",
    ),
    "a MobileNetV2 without dropout": (
        lambda: changed(mobilenet, "classifier", nn.Sequential(nn.Linear(1280, 5))),
        "classifier",
        "it has 1 parts, not 2",
    ),
    "a MobileNetV2 that drops everything": (
        lambda: changed(mobilenet, "classifier.0", nn.Dropout(1.0)),
        None,
        "'dropout' of op 'classifier' is 1.0, but it should be less than 1",
    ),
    "a MobileNetV2 of uneven width": (
        lambda: models.MobileNetV2(inverted_residual_setting=[[5.55, 16, 1, 1]]),
        "features.1.conv",
        "it expands 32 channels to 178",
    ),
    "a MobileNetV2 of two parts": (
        lambda: changed(mobilenet, "features", nn.Sequential(*mobilenet().features[:2])),
        "features",
        "it has 2 parts, not 3 or more",
    ),
    "a shortcut around a stride": (lambda: rewired(mobilenet()), None, "this network: its graph is not valid: edge"),
}


@pytest.mark.parametrize("name", BAD)
def test_it_says_which_module_and_why(name: str) -> None:
    make, path, message = BAD[name]
    with no_initialisation():
        model = make()
    with pytest.raises(LiftError, match=message) as caught:
        topolearn.lift(model)
    assert str(caught.value).startswith("cannot lift ")
    assert "\n" not in str(caught.value)
    assert caught.value.module == path
    if path:
        assert str(caught.value).endswith(LIFTED)


def test_what_cannot_be_compared_is_not_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class whose forward pass was changed from outside: everything is as it should be, but for the outputs."""
    model = resnet()
    with torch.no_grad():
        model.bn1.weight.fill_(float("nan"))
    with pytest.raises(LiftError, match=r"not finite, and so does 'bn1\.weight'; give it trained weights"):
        topolearn.lift(model)
    block = models.resnet.BasicBlock
    monkeypatch.setattr(block, "forward", lambda self, x: self.relu(self.conv1(x)))
    model = models.ResNet(block, [1, 1, 1, 1], num_classes=5)
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].downsample = None
    with pytest.raises(LiftError, match="not valid"):
        topolearn.lift(model)
    monkeypatch.setattr(block, "forward", lambda self, x: self.relu(x + self.bn2(self.conv2(self.bn1(self.conv1(x))))))
    model = models.ResNet(block, [1, 1, 1, 1], num_classes=5)
    model.layer2, model.layer3, model.layer4 = nn.Sequential(), nn.Sequential(), nn.Sequential()
    model.fc = nn.Linear(64, 5)
    with pytest.raises(LiftError, match=r"differs from its graph by .* is its forward pass torchvision's own\?"):
        topolearn.lift(model)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", "torchvision has no network 'resnet51'; did you mean 'resnet50'"),
        ("vgg16", r"cannot lift 'vgg16' \(VGG\): there is no graph for networks of this class; what can be lifted: "),
        ("mobilenet_v3_small", r"cannot lift 'mobilenet_v3_small' \(MobileNetV3\): there is no graph"),
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
