"""Node ops for pooling."""

from __future__ import annotations

from pydantic import model_validator

from topolearn.ops.base import NodeOp, PositiveInt, need_map, register_node_op
from topolearn.ops.shape import Cost, Shape, Size


class Pool(NodeOp):
    """Pooling over k x k windows; the output has ceil(size / stride) positions on each axis."""

    kernel: PositiveInt = 2
    """Window size: odd (padded by ``kernel // 2``), or equal to ``stride`` (the last window may be cut)."""
    stride: PositiveInt | None = None
    """Stride; default: ``kernel``."""

    @model_validator(mode="after")
    def _fits(self) -> Pool:
        if self.kernel % 2 == 0 and self.step != self.kernel:
            raise ValueError(f"an even kernel ({self.kernel}) needs a stride equal to it, not {self.step}")
        return self

    @property
    def step(self) -> int:
        """Stride, with the default filled in."""
        return self.kernel if self.stride is None else self.stride

    def output(self, x: Shape) -> Shape:
        """Return the same channels at a larger stride."""
        need_map(x, f"'{self.op_name}'")
        return Shape(x.channels, x.strided(self.step))

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return zero: pooling multiplies nothing."""
        return Cost()

    def non_negative(self, x: bool) -> bool:
        """Whether the input has no negative values."""
        return x


@register_node_op("max_pool")
class MaxPool(Pool):
    """Maximum of each window."""


@register_node_op("avg_pool")
class AvgPool(Pool):
    """Mean of each window, over the positions inside the image."""


@register_node_op("global_avg_pool")
class GlobalAvgPool(NodeOp):
    """Mean over all positions: (N, C, H, W) -> (N, C, 1, 1)."""

    def output(self, x: Shape) -> Shape:
        """Return the same channels at 1 x 1."""
        need_map(x, "'global_avg_pool'")
        return Shape(x.channels, "global")

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return zero: pooling multiplies nothing."""
        return Cost()

    def non_negative(self, x: bool) -> bool:
        """Whether the input has no negative values."""
        return x
