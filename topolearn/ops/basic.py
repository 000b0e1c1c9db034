"""Input, identity, concat, activation, normalisation and feature nodes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator

from topolearn.ops.base import NodeOp, PositiveInt, ShapeError, need_map, register_node_op
from topolearn.ops.shape import Bundle, Cost, Shape, Size, batch_norm_cost


@register_node_op("input")
class Input(NodeOp):
    """A tensor that the caller gives."""

    size: tuple[PositiveInt, ...]
    """``(channels, height, width)`` of an image, or ``(features,)`` of a vector. Height and width are the reference for
    verification and costs; the network takes other sizes too.
    """

    @field_validator("size")
    @classmethod
    def _image_or_vector(cls, size: tuple[int, ...]) -> tuple[int, ...]:
        if len(size) not in (1, 3):
            raise ValueError("must be [channels, height, width] or [features]")
        return size

    def output(self, x: Shape) -> Shape:
        """Its shape; ``x`` holds the stride that the graph found for it."""
        return Shape(self.size[0], x.stride)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Nothing."""
        return Cost()


@register_node_op("identity")
class Identity(NodeOp):
    """``y = x``: a node that only aggregates."""

    def output(self, x: Shape) -> Shape:
        """The same shape."""
        return x

    def cost(self, x: Shape, image: Size) -> Cost:
        """Nothing."""
        return Cost()

    def non_negative(self, x: bool) -> bool:
        """As the input is."""
        return x


@register_node_op("concat")
class Concat(Identity):
    """An identity whose in-edges are concatenated along the channels."""

    aggregate: ClassVar[str] = "concat"


@register_node_op("relu")
class Relu(Identity):
    """``y = max(x, 0)``."""

    def non_negative(self, x: bool) -> bool:
        """Always."""
        return True


@register_node_op("batch_norm")
class BatchNorm(NodeOp):
    """Batch normalisation of what the node aggregates; its running statistics belong to the node."""

    affine: bool = True
    """Whether it scales and shifts."""

    def output(self, x: Shape) -> Shape:
        """The same shape."""
        need_map(x, "'batch_norm'")
        return x

    def cost(self, x: Shape, image: Size) -> Cost:
        """Scale and shift per channel."""
        return batch_norm_cost(x.channels, affine=self.affine)


@register_node_op("feature")
class Feature(NodeOp):
    """One named output of a backbone."""

    takes_bundle: ClassVar[bool] = True
    name: str
    """Which of the backbone's ``features``."""

    def output(self, x: Bundle) -> Shape:
        """The shape of that feature."""
        if not isinstance(x, Bundle):
            raise ShapeError("a feature node reads a backbone, but its source is an ordinary node")
        if self.name not in x:
            raise ShapeError(f"the backbone has no feature '{self.name}'; it has {', '.join(x)}")
        return x[self.name]

    def cost(self, x: Bundle, image: Size) -> Cost:
        """Nothing: the backbone computed it."""
        return Cost()
