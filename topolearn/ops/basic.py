"""Node ops for inputs, identity, concatenation, activation, normalisation and backbone features."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator, model_validator

from topolearn.ops.base import NodeOp, PositiveInt, ShapeError, need_map, register_node_op
from topolearn.ops.shape import Bundle, Cost, Shape, Size, batch_norm_cost


@register_node_op("input")
class Input(NodeOp):
    """An input of the network: an image, a vector, token ids, or a sequence of vectors."""

    size: tuple[PositiveInt, ...] | None = None
    """``(channels, height, width)`` of an image, or ``(features,)`` of a vector. Verification and costs use this height
    and width; the network takes other sizes too.
    """
    length: PositiveInt | None = None
    """Number of tokens T of a sequence. Costs use it; with learned positions it is also the maximum."""
    vocabulary: PositiveInt | None = None
    """For a sequence of token ids, (N, T) int64: each id is below this number."""
    channels: PositiveInt | None = None
    """For a sequence of vectors, (N, T, channels): number of channels."""

    @field_validator("size")
    @classmethod
    def _image_or_vector(cls, size: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if size is not None and len(size) not in (1, 3):
            raise ValueError("must be [channels, height, width] or [features]")
        return size

    @model_validator(mode="after")
    def _one_kind(self) -> Input:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if given not in (["size"], ["length", "vocabulary"], ["length", "channels"]):
            raise ValueError(
                "should be [channels, height, width], [features], {length: 128, vocabulary: 256} or {length: 128,"
                " channels: 8}"
            )
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the input tensor without the batch axis."""
        if self.size is not None:
            return self.size
        assert self.length is not None
        return (self.length,) if self.channels is None else (self.length, self.channels)

    @property
    def spec(self) -> tuple[int, ...] | dict[str, int]:
        """The input as written in a graph file."""
        return self.size or self.model_dump(exclude_none=True)

    def output(self, x: Shape) -> Shape:
        """Return the input's shape; ``x`` holds the stride that the graph found for it."""
        if self.length is not None:
            return Shape(self.channels or 1, None, self.length, self.vocabulary)
        assert self.size is not None
        return Shape(self.size[0], x.stride)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return zero."""
        return Cost()


@register_node_op("identity")
class Identity(NodeOp):
    """Only aggregates: ``y = x``."""

    def output(self, x: Shape) -> Shape:
        """Return the same shape."""
        return x

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return zero."""
        return Cost()

    def non_negative(self, x: bool) -> bool:
        """Whether the input has no negative values."""
        return x


@register_node_op("concat")
class Concat(Identity):
    """Concatenates its in-edges along the channels."""

    aggregate: ClassVar[str] = "concat"


@register_node_op("relu")
class Relu(Identity):
    """Rectified linear unit: ``y = max(x, 0)``."""

    def non_negative(self, x: bool) -> bool:
        """Always True."""
        return True


@register_node_op("batch_norm")
class BatchNorm(NodeOp):
    """Batch normalisation of what the node aggregates; the node keeps the running statistics."""

    affine: bool = True
    """Whether it scales and shifts."""

    def output(self, x: Shape) -> Shape:
        """Return the same shape."""
        need_map(x, "'batch_norm'")
        return x

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of scale and shift per channel."""
        return batch_norm_cost(x.channels, affine=self.affine)


@register_node_op("feature")
class Feature(NodeOp):
    """One named output of a backbone."""

    takes_bundle: ClassVar[bool] = True
    name: str
    """Name of one of the backbone's ``features``."""

    def output(self, x: Bundle) -> Shape:
        """Return the shape of the feature."""
        if not isinstance(x, Bundle):
            raise ShapeError("a feature node reads a backbone, but its source is an ordinary node")
        if self.name not in x:
            raise ShapeError(f"the backbone has no feature '{self.name}'; it has {', '.join(x)}")
        return x[self.name]

    def cost(self, x: Bundle, image: Size) -> Cost:
        """Return zero: the backbone computes the feature."""
        return Cost()
