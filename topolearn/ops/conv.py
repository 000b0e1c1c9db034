"""Node ops for a convolution with batch normalisation and activation, in the usual orders."""

from __future__ import annotations

from typing import ClassVar, Literal

from topolearn.ops.base import NodeOp, OddInt, PositiveInt, ShapeError, need_map, register_node_op
from topolearn.ops.shape import Cost, Shape, Size, batch_norm_cost, conv_cost

Step = Literal["conv", "sepconv", "bn", "relu", "relu6"]


class ConvUnit(NodeOp):
    """A padded k x k convolution, with normalisation and activation; the output has ceil(size / stride) positions.

    Class attributes:
        layout: The steps in order. The convolution has a bias if the layout has no batch normalisation.
    """

    layout: ClassVar[tuple[Step, ...]] = ()

    out_channels: PositiveInt
    """Channels of the output."""
    kernel: OddInt = 3
    """Odd kernel size."""
    stride: PositiveInt = 1
    """Stride."""
    groups: PositiveInt = 1
    """Groups of the convolution."""
    dilation: PositiveInt = 1
    """Dilation."""
    affine: bool = True
    """Whether the batch normalisation scales and shifts."""

    @property
    def bias(self) -> bool:
        """Whether the convolution has a bias."""
        return "bn" not in self.layout

    def output(self, x: Shape) -> Shape:
        """Return ``out_channels`` at ``stride`` times the input's stride."""
        need_map(x, f"'{self.op_name}'")
        if x.channels % self.groups or self.out_channels % self.groups:
            raise ShapeError(
                f"groups {self.groups} must divide the {x.channels} channels that come in"
                f" and the {self.out_channels} that go out"
            )
        return Shape(self.out_channels, x.strided(self.stride))

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of convolution and batch normalisation."""
        cost = conv_cost(x.channels, self.output(x), image, kernel=self.kernel, groups=self.groups, bias=self.bias)
        return cost + self._norm_cost(x)

    def non_negative(self, x: bool) -> bool:
        """Whether an activation comes last."""
        return self.layout[-1] in ("relu", "relu6")

    def _norm_cost(self, x: Shape) -> Cost:
        if "bn" not in self.layout:
            return Cost()
        first = self.layout.index("bn") < self.layout.index(self._convolution())
        return batch_norm_cost(x.channels if first else self.out_channels, affine=self.affine)

    def _convolution(self) -> Step:
        return "sepconv" if "sepconv" in self.layout else "conv"


class SeparableConvUnit(ConvUnit):
    """A depthwise k x k convolution, which takes the stride, directly followed by a 1 x 1 convolution."""

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of both convolutions and the batch normalisation."""
        out = self.output(x)
        between = Shape(x.channels, out.stride)
        depthwise = conv_cost(x.channels, between, image, kernel=self.kernel, groups=x.channels)
        return depthwise + conv_cost(x.channels, out, image, groups=self.groups, bias=self.bias) + self._norm_cost(x)


@register_node_op("conv")
class Conv(ConvUnit):
    """Convolution with a bias."""

    layout = ("conv",)


@register_node_op("conv_bn")
class ConvBn(ConvUnit):
    """Convolution, batch normalisation."""

    layout = ("conv", "bn")


@register_node_op("conv_relu")
class ConvRelu(ConvUnit):
    """Convolution with a bias, relu."""

    layout = ("conv", "relu")


@register_node_op("conv_bn_relu")
class ConvBnRelu(ConvUnit):
    """Convolution, batch normalisation, relu."""

    layout = ("conv", "bn", "relu")


@register_node_op("conv_bn_relu6")
class ConvBnRelu6(ConvUnit):
    """Convolution, batch normalisation, relu6."""

    layout = ("conv", "bn", "relu6")


@register_node_op("relu_conv_bn")
class ReluConvBn(ConvUnit):
    """Relu, convolution, batch normalisation."""

    layout = ("relu", "conv", "bn")


@register_node_op("bn_relu_conv")
class BnReluConv(ConvUnit):
    """Batch normalisation, relu, convolution (pre-activation)."""

    layout = ("bn", "relu", "conv")

    @property
    def bias(self) -> bool:
        """Always False: the next block's batch normalisation would remove a bias."""
        return False


@register_node_op("sepconv_bn_relu")
class SepconvBnRelu(SeparableConvUnit):
    """Separable convolution, batch normalisation, relu."""

    layout = ("sepconv", "bn", "relu")


@register_node_op("relu_sepconv_bn")
class ReluSepconvBn(SeparableConvUnit):
    """Relu, separable convolution, batch normalisation."""

    layout = ("relu", "sepconv", "bn")
