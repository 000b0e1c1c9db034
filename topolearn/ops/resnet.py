"""Node ops for ResNet blocks, post- and pre-activation (He et al. 2016), and for their branches without shortcut."""

from __future__ import annotations

from typing import ClassVar, Literal

from topolearn.ops.base import NodeOp, PositiveInt, ShapeError, need_map, register_node_op
from topolearn.ops.shape import Cost, Shape, Size, batch_norm_cost, conv_cost


class ShortcutBlock(NodeOp):
    """Base of blocks that add a branch F to a shortcut."""

    channels: PositiveInt
    """Channels of the output."""
    stride: PositiveInt = 1
    """Stride of the block."""
    shortcut: Literal["pad", "projection"] = "pad"
    """Shortcut if the shape changes. ``pad``: takes every stride-th position and adds zero channels (option A, no
    parameters); ``projection``: 1 x 1 convolution and batch normalisation (option B), which ``share`` can name.
    """
    affine: bool = True
    """Whether batch normalisations scale and shift."""

    def projects(self, x: Shape) -> bool:
        """Whether the shortcut has a convolution for this ``x``."""
        return self.shortcut == "projection" and (self.stride != 1 or x.channels != self.channels)

    def output(self, x: Shape) -> Shape:
        """Return ``channels`` at ``stride`` times the input's stride."""
        need_map(x, f"'{self.op_name}'")
        if self.shortcut == "pad" and x.channels > self.channels:
            raise ShapeError(
                f"the shortcut cannot pad {x.channels} channels to {self.channels}; use 'shortcut: projection'"
            )
        return Shape(self.channels, x.strided(self.stride))


class ResidualBlock(ShortcutBlock):
    """Base of post-activation blocks: ``y = relu(F(x) + shortcut(x))``."""

    parts: ClassVar[frozenset[str]] = frozenset({"projection"})

    def part_cost(self, part: str, x: Shape, image: Size) -> Cost:
        """Return the cost of the projection; zero if there is none."""
        if not self.projects(x):
            return Cost()
        return conv_cost(x.channels, self.output(x), image) + batch_norm_cost(self.channels, affine=self.affine)

    def non_negative(self, x: bool) -> bool:
        """Always True: a relu comes last."""
        return True


@register_node_op("resnet.basic")
class Basic(ResidualBlock):
    """ResNet's basic block: relu(F(x) + shortcut(x)), F = 3x3 conv (takes the stride), BN, relu, 3x3 conv, BN."""

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of two convolutions, two batch normalisations and the shortcut."""
        return _basic_cost(x, self.output(x), image, self.affine) + self.part_cost("projection", x, image)


@register_node_op("resnet.bottleneck")
class Bottleneck(ResidualBlock):
    """ResNet's bottleneck block: relu(F(x) + shortcut(x)), F = 1x1, 3x3, 1x1 convolutions with BN, relu between.

    The 3x3 convolution takes the stride, as in torchvision.
    """

    shortcut: Literal["pad", "projection"] = "projection"
    width: PositiveInt | None = None
    """Channels of the 3x3 convolution; default: a quarter of ``channels``."""
    groups: PositiveInt = 1
    """Groups of the 3x3 convolution."""

    @property
    def inner(self) -> int:
        """Channels of the 3x3 convolution."""
        return self.width if self.width is not None else max(1, self.channels // 4)

    def output(self, x: Shape) -> Shape:
        """Return ``channels`` at ``stride`` times the input's stride."""
        _need_groups(self.groups, self.inner)
        return super().output(x)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of three convolutions, three batch normalisations and the shortcut."""
        branch = _bottleneck_cost(x, self.inner, self.output(x), image, self.groups, self.affine)
        return branch + self.part_cost("projection", x, image)


@register_node_op("resnet.preact")
class Preact(ShortcutBlock):
    """Pre-activation block: F(x) + shortcut(x), F = BN, relu, 3x3 conv (takes the stride), BN, relu, 3x3 conv.

    From He et al. 2016, "Identity Mappings in Deep Residual Networks". Nothing follows the addition, so end the
    network with a batch normalisation and a relu.
    """

    shortcut: Literal["pad", "projection"] = "pad"
    """Shortcut if the shape changes. ``pad``: takes every stride-th position and adds zero channels (option A, no
    parameters); ``projection``: 1 x 1 convolution of relu(BN(x)), the input of F's first convolution.
    """

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of two convolutions, two batch normalisations and the shortcut."""
        out = self.output(x)
        norms = batch_norm_cost(x.channels + out.channels, affine=self.affine)
        shortcut = conv_cost(x.channels, out, image) if self.projects(x) else Cost()
        return _two_convs_cost(x, out, image) + norms + shortcut


class ResidualBranch(NodeOp):
    """Base of branches: F of a residual block without shortcut and last relu; the graph's edges are the shortcut."""

    channels: PositiveInt
    """Channels of the output."""
    stride: PositiveInt = 1
    """Stride of the branch."""
    affine: bool = True
    """Whether batch normalisations scale and shift."""

    def output(self, x: Shape) -> Shape:
        """Return ``channels`` at ``stride`` times the input's stride."""
        need_map(x, f"'{self.op_name}'")
        return Shape(self.channels, x.strided(self.stride))


@register_node_op("resnet.basic_branch")
class BasicBranch(ResidualBranch):
    """Branch of ResNet's basic block: 3x3 conv (takes the stride), BN, relu, 3x3 conv, BN."""

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of two convolutions and two batch normalisations."""
        return _basic_cost(x, self.output(x), image, self.affine)


@register_node_op("resnet.bottleneck_branch")
class BottleneckBranch(ResidualBranch):
    """Branch of the bottleneck of ResNet, ResNeXt and RegNet: 1x1, 3x3, 1x1 convolutions with BN, relu between."""

    width: PositiveInt
    """Channels of the 3x3 convolution."""
    groups: PositiveInt = 1
    """Groups of the 3x3 convolution."""
    dilation: PositiveInt = 1
    """Dilation of the 3x3 convolution, which takes the stride."""
    squeeze: PositiveInt | None = None
    """Channels of a squeeze-and-excitation (Hu et al. 2018) before the last convolution, as in RegNet Y; None: no
    squeeze-and-excitation.
    """

    def output(self, x: Shape) -> Shape:
        """Return ``channels`` at ``stride`` times the input's stride."""
        _need_groups(self.groups, self.width)
        return super().output(x)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of three convolutions, three batch normalisations and the squeeze-and-excitation."""
        cost = _bottleneck_cost(x, self.width, self.output(x), image, self.groups, self.affine)
        if self.squeeze is not None:
            cost += conv_cost(self.width, Shape(self.squeeze, "global"), image, bias=True)
            cost += conv_cost(self.squeeze, Shape(self.width, "global"), image, bias=True)
        return cost


def _need_groups(groups: int, width: int) -> None:
    if width % groups:
        raise ShapeError(f"groups {groups} must divide the width {width}")


def _two_convs_cost(x: Shape, out: Shape, image: Size) -> Cost:
    return conv_cost(x.channels, out, image, kernel=3) + conv_cost(out.channels, out, image, kernel=3)


def _basic_cost(x: Shape, out: Shape, image: Size, affine: bool) -> Cost:
    return _two_convs_cost(x, out, image) + batch_norm_cost(2 * out.channels, affine=affine)


def _bottleneck_cost(x: Shape, width: int, out: Shape, image: Size, groups: int, affine: bool) -> Cost:
    return (
        conv_cost(x.channels, Shape(width, x.stride), image)
        + conv_cost(width, Shape(width, out.stride), image, kernel=3, groups=groups)
        + conv_cost(width, out, image)
        + batch_norm_cost(2 * width + out.channels, affine=affine)
    )
