"""Node op for a part of another network, which is given by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, field_validator

from topolearn.frozen import FrozenMap
from topolearn.ops.base import MAX_INT, NodeOp, ShapeError, Sight, register_node_op
from topolearn.ops.shape import Cost, Shape, Size


@register_node_op("part")
class NetworkPart(NodeOp):
    """A part of a lifted network: its operations from one tensor to another, with its own modules.

    ``lift`` writes these nodes. The graph's ``sources`` say where the network comes from.
    """

    source: str
    """Name of the network in the graph's ``sources``."""
    after: str = ""
    """The operation whose output the part takes, by the path of its module and its name; "": the network's input."""
    until: Annotated[str, Field(min_length=1)]
    """The operation whose output the part gives."""
    gives: Annotated[Mapping[str, Any], Field(min_length=1)]
    """Shape of the output: {channels, stride}, {channels, length} or {dims: [56, 56, 96]}."""
    params: Annotated[NonNegativeInt, Field(le=10**9)] = 0
    """Number of parameters."""
    macs: Annotated[NonNegativeInt, Field(le=10**15)] = 0
    """Multiply-accumulates for one input of the declared size."""

    @field_validator("gives")
    @classmethod
    def _a_shape(cls, gives: Mapping[str, Any]) -> Mapping[str, Any]:
        shape = _shape(gives)
        if shape is None:
            raise ValueError("must be {channels: 64, stride: 4}, {channels: 64, length: 197} or {dims: [56, 56, 96]}")
        return FrozenMap(gives)

    def output(self, x: Shape) -> Shape:
        """Return the declared shape."""
        shape = _shape(self.gives)
        if shape is None:
            raise ShapeError("'gives' is not a shape")
        return shape

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the declared cost."""
        return Cost(self.params, self.macs)

    @property
    def sight(self) -> Sight:
        """A part may mix tokens in any way."""
        return "all"


def _shape(fields: Mapping[str, Any]) -> Shape | None:
    def is_count(value: Any) -> bool:
        return type(value) is int and 0 < value <= MAX_INT

    channels: Any = fields.get("channels")
    stride: Any = fields.get("stride")
    if set(fields) == {"channels", "stride"} and is_count(channels):
        return Shape(channels, stride) if stride in (None, "global") or is_count(stride) else None
    if set(fields) == {"channels", "length"} and is_count(channels) and is_count(fields["length"]):
        return Shape(channels, length=fields["length"])
    dims = fields.get("dims")
    if set(fields) == {"dims"} and isinstance(dims, tuple | list) and 0 < len(dims) <= 8 and all(map(is_count, dims)):
        return Shape(dims[-1], dims=tuple(dims))
    return None
