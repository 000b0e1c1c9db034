"""Node ops for linear layers and heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topolearn.ops.base import NodeOp, PositiveInt, ShapeError, need_map, need_vector_or_map, register_node_op
from topolearn.ops.shape import Cost, Shape, Size, conv_cost, linear_cost

Activation = Literal["none", "relu", "relu6"]


@register_node_op("linear")
class Linear(NodeOp):
    """A fully connected layer on a vector: (N, C) -> (N, out_features)."""

    out_features: PositiveInt
    """Length of the output."""
    bias: bool = True
    """Whether the layer has a bias."""
    activation: Activation = "none"
    """Activation after the layer."""

    def output(self, x: Shape) -> Shape:
        """Return a vector."""
        if not x.is_vector:
            instead = "use 'classifier' on a feature map" if x.is_map else "use 'token_head' on tokens"
            raise ShapeError(f"'linear' needs a vector, but its input is {x}; {instead}")
        return Shape(self.out_features, None)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of weights and bias."""
        return linear_cost(x.channels, self.out_features, bias=self.bias)

    def non_negative(self, x: bool) -> bool:
        """Whether it has an activation."""
        return self.activation != "none"


@register_node_op("classifier")
class Classifier(NodeOp):
    """Activation, global average pooling, dropout, linear layer: (N, C, H, W) or (N, C) -> (N, classes) logits."""

    classes: PositiveInt
    """Number of classes."""
    activation: Activation = "none"
    """Activation before pooling."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping a channel's mean while training."""

    def output(self, x: Shape) -> Shape:
        """Return a vector of logits."""
        need_vector_or_map(x, "'classifier'")
        return Shape(self.classes, None)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of the linear layer."""
        return linear_cost(x.channels, self.classes, bias=True)


@register_node_op("segmentation_head")
class SegmentationHead(NodeOp):
    """Activation and 1 x 1 convolution with a bias: logits at the input's stride.

    The loss and the metrics resize the logits to the size of the labels.
    """

    classes: PositiveInt
    """Number of classes."""
    activation: Activation = "relu6"
    """Activation before the convolution."""

    def output(self, x: Shape) -> Shape:
        """Return one channel per class."""
        need_map(x, "'segmentation_head'")
        return Shape(self.classes, x.stride)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of the convolution."""
        return conv_cost(x.channels, self.output(x), image, bias=True)
