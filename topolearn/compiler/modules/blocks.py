"""Modules of the block families: ResNet, ResNeXt branch, MobileNetV2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from topolearn.compiler.modules.base import BatchNorm, ConvUnit, builds_node, init_he, last_norm, stackable
from topolearn.compiler.modules.edges import pad_and_subsample
from topolearn.ops import Shape, mobilenet, resnet, resnext
from topolearn.ops.conv import Step


@stackable
class ResidualBlock(nn.Module):
    """``relu(F(x) + shortcut(x))``; ``projection`` is None if the shortcut has no parameters."""

    def __init__(self, rule: resnet.ResidualBlock, x: Shape, residual: nn.Sequential) -> None:
        super().__init__()
        self.residual = residual
        self.stride = rule.stride
        self.channels = rule.channels
        self.projection = (
            ConvUnit(("conv", "bn"), x.channels, rule.channels, stride=rule.stride, affine=rule.affine)
            if rule.projects(x)
            else None
        )

    def last_norm(self) -> nn.Module | None:
        """Return the batch normalisation that ends F; the shortcut's does not count."""
        return last_norm(self.residual[-1])

    def part_input(self, part: str, x: Tensor) -> Tensor:
        """Return the input of the shared part ``part``."""
        return x

    def forward(self, x: Tensor, projection: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        if projection is not None:
            shortcut = projection
        elif self.projection is not None:
            shortcut = self.projection(x)
        else:
            shortcut = pad_and_subsample(x, self.channels, self.stride)
        return F.relu(self.residual(x) + shortcut)


@builds_node(resnet.Basic)
def build_basic(rule: resnet.Basic, x: Shape) -> nn.Module:
    """Build two 3 x 3 convolutions and the shortcut."""
    return ResidualBlock(rule, x, nn.Sequential(*_basic(x.channels, rule.channels, rule.stride, rule.affine)))


@builds_node(resnet.Bottleneck)
def build_bottleneck(rule: resnet.Bottleneck, x: Shape) -> nn.Module:
    """Build 1 x 1, 3 x 3 (with the stride) and 1 x 1 convolutions, and the shortcut."""
    units = _bottleneck(x.channels, rule.inner, rule.channels, rule.stride, rule.groups, rule.affine)
    return ResidualBlock(rule, x, nn.Sequential(*units))


def _basic(
    in_channels: int, out_channels: int, stride: int, affine: bool, last: tuple[Step, ...] = ("conv", "bn")
) -> list[nn.Module]:
    return [
        ConvUnit(("conv", "bn", "relu"), in_channels, out_channels, kernel=3, stride=stride, affine=affine),
        ConvUnit(last, out_channels, out_channels, kernel=3, affine=affine),
    ]


def _bottleneck(
    in_channels: int, inner: int, out_channels: int, stride: int, groups: int, affine: bool, dilation: int = 1
) -> list[nn.Module]:
    middle: dict[str, Any] = {"kernel": 3, "stride": stride, "groups": groups, "dilation": dilation}
    return [
        ConvUnit(("conv", "bn", "relu"), in_channels, inner, affine=affine),
        ConvUnit(("conv", "bn", "relu"), inner, inner, affine=affine, **middle),
        ConvUnit(("conv", "bn"), inner, out_channels, affine=affine),
    ]


@stackable
class Preact(nn.Module):
    """``F(u) + shortcut(x)``, u = relu(BN(x)); a projection takes u. Nothing follows the addition."""

    def __init__(self, rule: resnet.Preact, x: Shape) -> None:
        super().__init__()
        self.stride = rule.stride
        self.channels = rule.channels
        self.norm = BatchNorm(x.channels, affine=rule.affine)
        units = _basic(x.channels, rule.channels, rule.stride, rule.affine, last=("conv",))
        self.residual = nn.Sequential(*units)
        self.projection = (
            ConvUnit(("conv",), x.channels, rule.channels, stride=rule.stride) if rule.projects(x) else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        u = F.relu(self.norm(x))
        y: Tensor = self.residual(u)
        shortcut: Tensor
        if self.projection is not None:
            shortcut = self.projection(u)
        else:
            shortcut = pad_and_subsample(x, self.channels, self.stride)
        return y + shortcut


@builds_node(resnet.Preact)
def build_preact(rule: resnet.Preact, x: Shape) -> nn.Module:
    """Build batch normalisation and relu before each of two 3 x 3 convolutions, and the shortcut."""
    return Preact(rule, x)


@stackable
class SqueezeExcitation(nn.Module):
    """``x * sigmoid(conv(relu(conv(mean of x over positions))))``, both convolutions 1 x 1 with a bias."""

    def __init__(self, channels: int, squeeze: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeeze, 1)
        self.expand = nn.Conv2d(squeeze, channels, 1)
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        scale: Tensor = self.expand(F.relu(self.reduce(x.mean((-2, -1), keepdim=True))))
        return x * scale.sigmoid()


@stackable
class ResidualBranch(nn.Module):
    """The layers of a residual block without its shortcut."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.layers(x)
        return y

    def last_norm(self) -> nn.Module | None:
        """Return the batch normalisation after the last convolution."""
        return last_norm(self.layers[-1])

    def scale_input(self, factor: float) -> bool:
        """Turn ``f(x)`` into ``f(factor * x)``, which is always exact with a convolution at the start."""
        first = self.layers[0]
        assert isinstance(first, ConvUnit)
        return first.scale_input(factor)


@builds_node(resnet.BasicBranch)
def build_basic_branch(rule: resnet.BasicBranch, x: Shape) -> nn.Module:
    """Build two 3 x 3 convolutions."""
    return ResidualBranch(_basic(x.channels, rule.channels, rule.stride, rule.affine))


@builds_node(resnet.BottleneckBranch)
def build_bottleneck_branch(rule: resnet.BottleneckBranch, x: Shape) -> nn.Module:
    """Build 1 x 1, 3 x 3 (with stride and dilation), squeeze-and-excitation if there is one, 1 x 1."""
    units = _bottleneck(
        x.channels, rule.width, rule.channels, rule.stride, rule.groups, rule.affine, dilation=rule.dilation
    )
    if rule.squeeze is not None:
        units.insert(2, SqueezeExcitation(rule.width, rule.squeeze))
    return ResidualBranch(units)


@stackable
class Branch(nn.Module):
    """``u = relu(x)``, ``shortcut(u) + scale * F(u)``."""

    def __init__(self, rule: resnext.Branch, x: Shape) -> None:
        super().__init__()
        assert rule.residual_scale != resnext.FAN_IN, "bind_fan_in runs before a graph is compiled"
        self.scale = float(rule.residual_scale)
        units = _bottleneck(x.channels, rule.width, rule.out_channels, rule.stride, 1, rule.affine)
        self.residual = nn.Sequential(*units)
        last = self.residual[-1]
        assert isinstance(last, ConvUnit)
        if rule.affine:
            nn.init.constant_(last.bn.weight, self.scale**-0.5)  # see the rule
        self.projection = (
            ConvUnit(("conv", "bn"), x.channels, rule.out_channels, stride=rule.stride, affine=rule.affine)
            if rule.projects(x)
            else None
        )

    def last_norm(self) -> nn.Module | None:
        """Return the batch normalisation that ends F; the shortcut's does not count."""
        return last_norm(self.residual[-1])

    def part_input(self, part: str, x: Tensor) -> Tensor:
        """Return the input of the shared part ``part``."""
        return F.relu(x)

    def forward(self, x: Tensor, projection: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        u = F.relu(x)
        if projection is None:
            projection = u if self.projection is None else self.projection(u)
        return projection.add(self.residual(u), alpha=self.scale)


@builds_node(resnext.Branch)
def build_branch(rule: resnext.Branch, x: Shape) -> nn.Module:
    """Build one branch of a ResNeXt module."""
    return Branch(rule, x)


@stackable
class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution and projection, plus the input if shapes agree."""

    def __init__(self, rule: mobilenet.InvertedBottleneck, x: Shape) -> None:
        super().__init__()
        hidden = x.channels * rule.expansion
        layers = []
        if rule.expansion != 1:
            layers.append(ConvUnit(("conv", "bn", "relu6"), x.channels, hidden, affine=rule.affine))
        layers.append(
            ConvUnit(
                ("conv", "bn", "relu6"),
                hidden,
                hidden,
                kernel=rule.kernel,
                stride=rule.stride,
                groups=hidden,
                affine=rule.affine,
            )
        )
        layers.append(ConvUnit(("conv", "bn"), hidden, rule.out_channels, affine=rule.affine))
        self.layers = nn.Sequential(*layers)
        self.adds = rule.adds(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y

    def last_norm(self) -> nn.Module | None:
        """Return the batch normalisation of the projection."""
        return last_norm(self.layers[-1])

    def scale_input(self, factor: float) -> bool:
        """Turn ``f(x)`` into ``f(factor * x)`` if that is exact; return whether it was."""
        first = self.layers[0]
        assert isinstance(first, ConvUnit)
        return not self.adds and first.scale_input(factor)


@builds_node(mobilenet.InvertedBottleneck)
def build_inverted_bottleneck(rule: mobilenet.InvertedBottleneck, x: Shape) -> nn.Module:
    """Build an inverted bottleneck."""
    return InvertedBottleneck(rule, x)
