"""Input, identity, concat, activation, normalisation and feature nodes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import field_validator, model_validator

from topolearn.ops.base import NodeOp, PositiveInt, ShapeError, need_map, register_node_op
from topolearn.ops.shape import Bundle, Cost, Shape, Size, batch_norm_cost


@register_node_op("input")
class Input(NodeOp):
    """A tensor that the caller gives: an image, a vector, token ids, or a sequence of vectors."""

    size: tuple[PositiveInt, ...] | None = None
    """``(channels, height, width)`` of an image, or ``(features,)`` of a vector. Height and width are the reference for
    verification and costs; the network takes other sizes too.
    """
    length: PositiveInt | None = None
    """Of a sequence: number of tokens T. It is the reference for costs, and the largest where positions are learned."""
    vocabulary: PositiveInt | None = None
    """Of a sequence of token ids, (N, T) int64: each is below this number."""
    channels: PositiveInt | None = None
    """Of a sequence of vectors, (N, T, channels)."""

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
        """The shape of one input's tensor, without the batch."""
        if self.size is not None:
            return self.size
        assert self.length is not None
        return (self.length,) if self.channels is None else (self.length, self.channels)

    @property
    def spec(self) -> tuple[int, ...] | dict[str, int]:
        """What a graph file says of it."""
        return self.size or self.model_dump(exclude_none=True)

    def output(self, x: Shape) -> Shape:
        """Its shape; ``x`` holds the stride that the graph found for it."""
        if self.length is not None:
            return Shape(self.channels or 1, None, self.length, self.vocabulary)
        assert self.size is not None
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
