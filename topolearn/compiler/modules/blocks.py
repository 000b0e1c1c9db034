"""Modules of the block families: ResNet, ResNeXt branch, MobileNetV2."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from topolearn.compiler.modules.base import ConvUnit, builds_node, stackable
from topolearn.compiler.modules.edges import pad_and_subsample
from topolearn.ops import Shape, mobilenet, resnet, resnext


@stackable
class ResidualBlock(nn.Module):
    """``relu(F(x) + shortcut(x))``; ``projection`` is None where the shortcut has no parameters."""

    def __init__(self, rule: resnet.ResidualBlock, x: Shape, residual: nn.Sequential) -> None:
        super().__init__()
        self.residual = residual
        self.stride = rule.stride
        self.channels = rule.channels
        self.pads = not rule.projects(x) and (rule.stride != 1 or x.channels != rule.channels)
        self.projection = (
            ConvUnit(("conv", "bn"), x.channels, rule.channels, stride=rule.stride, affine=rule.affine)
            if rule.projects(x)
            else None
        )

    def part_input(self, part: str, x: Tensor) -> Tensor:
        """What the shared part ``part`` is applied to."""
        return x

    def forward(self, x: Tensor, projection: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        if projection is not None:
            shortcut = projection
        elif self.projection is not None:
            shortcut = self.projection(x)
        else:
            shortcut = pad_and_subsample(x, self.channels, self.stride) if self.pads else x
        return F.relu(self.residual(x) + shortcut)


@builds_node(resnet.Basic)
def build_basic(rule: resnet.Basic, x: Shape) -> nn.Module:
    """Two 3 x 3 convolutions."""
    first = ConvUnit(
        ("conv", "bn", "relu"), x.channels, rule.channels, kernel=3, stride=rule.stride, affine=rule.affine
    )
    second = ConvUnit(("conv", "bn"), rule.channels, rule.channels, kernel=3, affine=rule.affine)
    return ResidualBlock(rule, x, nn.Sequential(first, second))


@builds_node(resnet.Bottleneck)
def build_bottleneck(rule: resnet.Bottleneck, x: Shape) -> nn.Module:
    """1 x 1, 3 x 3 (takes the stride), 1 x 1."""
    residual = _bottleneck(x.channels, rule.inner, rule.channels, rule.stride, rule.groups, rule.affine)
    return ResidualBlock(rule, x, residual)


def _bottleneck(
    in_channels: int, inner: int, out_channels: int, stride: int, groups: int, affine: bool
) -> nn.Sequential:
    return nn.Sequential(
        ConvUnit(("conv", "bn", "relu"), in_channels, inner, affine=affine),
        ConvUnit(("conv", "bn", "relu"), inner, inner, kernel=3, stride=stride, groups=groups, affine=affine),
        ConvUnit(("conv", "bn"), inner, out_channels, affine=affine),
    )


@stackable
class Branch(nn.Module):
    """``u = relu(x)``, ``shortcut(u) + scale * F(u)``."""

    def __init__(self, rule: resnext.Branch, x: Shape) -> None:
        super().__init__()
        assert rule.residual_scale != resnext.FAN_IN, "bind_fan_in runs before a graph is compiled"
        self.scale = float(rule.residual_scale)
        self.residual = _bottleneck(x.channels, rule.width, rule.out_channels, rule.stride, 1, rule.affine)
        self.projection = (
            ConvUnit(("conv", "bn"), x.channels, rule.out_channels, stride=rule.stride, affine=rule.affine)
            if rule.projects(x)
            else None
        )

    def part_input(self, part: str, x: Tensor) -> Tensor:
        """What the shared part ``part`` is applied to."""
        return F.relu(x)

    def forward(self, x: Tensor, projection: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        u = F.relu(x)
        if projection is None:
            projection = u if self.projection is None else self.projection(u)
        return projection.add(self.residual(u), alpha=self.scale)


@builds_node(resnext.Branch)
def build_branch(rule: resnext.Branch, x: Shape) -> nn.Module:
    """One branch of a ResNeXt module."""
    return Branch(rule, x)


@stackable
class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution, projection, and the input where shapes agree."""

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
        """(N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.layers(x)
        return x + y if self.adds else y

    def scale_input(self, factor: float) -> bool:
        """Make ``f(x)`` into ``f(factor * x)`` where that is exact; returns whether it was."""
        first = self.layers[0]
        assert isinstance(first, ConvUnit)
        return not self.adds and first.scale_input(factor)


@builds_node(mobilenet.InvertedBottleneck)
def build_inverted_bottleneck(rule: mobilenet.InvertedBottleneck, x: Shape) -> nn.Module:
    """An inverted bottleneck."""
    return InvertedBottleneck(rule, x)
