"""Node op for the inverted bottleneck of MobileNetV2 (Sandler et al. 2018)."""

from __future__ import annotations

from topolearn.ops.base import NodeOp, OddInt, PositiveInt, need_map, register_node_op
from topolearn.ops.shape import Cost, Shape, Size, batch_norm_cost, conv_cost


@register_node_op("mobilenetv2.inverted_bottleneck")
class InvertedBottleneck(NodeOp):
    """MobileNetV2's block: 1x1 expansion, depthwise k x k, 1x1 projection; BN after each, relu6 after the first two."""

    out_channels: PositiveInt
    """Channels of the output."""
    expansion: PositiveInt = 6
    """Hidden channels per input channel; with 1 there is no expansion convolution."""
    kernel: OddInt = 3
    """Odd kernel size of the depthwise convolution."""
    stride: PositiveInt = 1
    """Stride of the depthwise convolution."""
    shortcut: bool = True
    """Whether to add the input if shapes agree; use false if the graph's edges are the shortcuts."""
    affine: bool = True
    """Whether batch normalisations scale and shift."""

    def output(self, x: Shape) -> Shape:
        """Return ``out_channels`` at ``stride`` times the input's stride."""
        need_map(x, f"'{self.op_name}'")
        return Shape(self.out_channels, x.strided(self.stride))

    def adds(self, x: Shape) -> bool:
        """Whether the block adds its input for this ``x``."""
        return self.shortcut and self.stride == 1 and x.channels == self.out_channels

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of two or three convolutions and their batch normalisations."""
        out = self.output(x)
        hidden = x.channels * self.expansion
        inner = Shape(hidden, out.stride)
        cost = (
            conv_cost(hidden, inner, image, kernel=self.kernel, groups=hidden)
            + conv_cost(hidden, out, image)
            + batch_norm_cost(hidden + self.out_channels, affine=self.affine)
        )
        if self.expansion != 1:
            cost += conv_cost(x.channels, Shape(hidden, x.stride), image) + batch_norm_cost(hidden, affine=self.affine)
        return cost
