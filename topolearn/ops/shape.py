"""Shapes of tensors, relative to the size of the graph's input, and costs of layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Stride = int | Literal["global"] | None
"""Stride relative to the graph's first image; ``"global"``: 1 x 1 for any image; None: no height and width."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of one tensor: channels on a grid. The grid is an image's, a sequence of tokens, or one position.

    A tensor inside a lifted network can also have any other axes (``dims``). Ops can add and pass on such a tensor.

    Attributes:
        channels: Number of channels; 1 for token ids.
        stride: An integer s: (N, channels, ceil(H/s), ceil(W/s)) for an image of H x W pixels; ``"global"``:
            (N, channels, 1, 1); None: (N, channels), or tokens if ``length`` is given.
        length: Number of tokens T: (N, T, channels); sets ``stride`` to None.
        vocabulary: The tensor holds token ids, (N, T) int64, each below this number.
        dims: Any other tensor: its dimensions behind the batch, for the declared size of the graph's input. Then
            ``channels`` is the last of them, and ``stride`` is None.
    """

    channels: int
    stride: Stride = 1
    length: int | None = None
    vocabulary: int | None = None
    dims: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.length is not None or self.dims is not None:
            object.__setattr__(self, "stride", None)

    @classmethod
    def of_dims(cls, dims: tuple[int, ...], image: Size) -> Shape:
        """Return the shape of a tensor with these dimensions behind the batch, for an input of ``image`` pixels."""
        if len(dims) == 1:
            return cls(dims[0], None)
        if len(dims) == 2:
            return cls(dims[1], length=dims[0])
        if len(dims) == 3 and dims[1:] == (1, 1):
            return cls(dims[0], "global")
        if len(dims) == 3 and dims[1] > 0:
            on_grid = cls(dims[0], max(1, round(image[0] / dims[1])))
            if on_grid.size(image) == dims[1:]:
                return on_grid
        return cls(dims[-1] if dims else 1, dims=dims)

    @property
    def is_map(self) -> bool:
        """Whether the tensor has height and width."""
        return self.stride is not None

    @property
    def is_tokens(self) -> bool:
        """Whether the tensor is a sequence, of vectors or of ids."""
        return self.length is not None

    @property
    def is_ids(self) -> bool:
        """Whether the tensor holds token ids."""
        return self.vocabulary is not None

    @property
    def is_vector(self) -> bool:
        """Whether the tensor is (N, channels): one position, without axes for it."""
        return not self.is_map and not self.is_tokens and self.dims is None

    @property
    def grid(self) -> tuple[Stride | tuple[int, ...], int | None, int | None]:
        """Everything except the channels: tensors on equal grids can be added if their channels agree."""
        return (self.dims or self.stride, self.length, self.vocabulary)

    @property
    def channel_axis(self) -> int:
        """The axis of the channels."""
        return 2 if self.is_tokens else 1

    def with_channels(self, channels: int) -> Shape:
        """Return a shape with other channels on the same grid."""
        return replace(self, channels=channels)

    def size(self, image: Size) -> Size:
        """Return height and width of this tensor for an input of ``image`` pixels."""
        if not isinstance(self.stride, int):
            return (1, 1)
        return (-(-image[0] // self.stride), -(-image[1] // self.stride))

    def area(self, image: Size) -> int:
        """Return the number of positions of this tensor for an input of ``image`` pixels."""
        if self.length is not None:
            return self.length
        if self.dims is not None:
            return math.prod(self.dims[:-1])
        height, width = self.size(image)
        return height * width

    def strided(self, stride: int) -> Stride:
        """Return the stride after an op that takes every ``stride``-th position."""
        return self.stride * stride if isinstance(self.stride, int) else self.stride

    def __str__(self) -> str:
        if self.vocabulary is not None:
            return f"{self.length} ids of a vocabulary of {self.vocabulary}"
        if self.length is not None:
            return f"{self.length} tokens of {self.channels} channels"
        if self.dims is not None:
            return f"a tensor of {' x '.join(map(str, self.dims))}"
        if self.stride is None:
            return f"a vector of {self.channels}"
        where = "1 x 1" if self.stride == "global" else f"stride {self.stride}"
        return f"{self.channels} channels at {where}"


@dataclass(frozen=True)
class Bundle(Mapping[str, Shape]):
    """The named outputs of a backbone; only ``feature`` nodes read them."""

    features: tuple[tuple[str, Shape], ...]

    def __getitem__(self, name: str) -> Shape:
        for key, shape in self.features:
            if key == name:
                return shape
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.features)

    def __len__(self) -> int:
        return len(self.features)

    def __str__(self) -> str:
        return f"a bundle of features ({', '.join(self)})"


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of an op for one input.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates of convolutions, linear layers and the two products of attention.
    """

    params: int = 0
    macs: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)


def conv_cost(channels: int, out: Shape, image: Size, *, kernel: int = 1, groups: int = 1, bias: bool = False) -> Cost:
    """Return the cost of a 2-d convolution from ``channels`` to ``out``."""
    weights = kernel * kernel * (channels // groups) * out.channels
    return Cost(weights + (out.channels if bias else 0), weights * out.area(image))


def linear_cost(channels: int, out: int, positions: int = 1, *, bias: bool = False) -> Cost:
    """Return the cost of a linear layer from ``channels`` to ``out`` at each of ``positions``."""
    weights = channels * out
    return Cost(weights + (out if bias else 0), weights * positions)


def batch_norm_cost(channels: int, *, affine: bool = True) -> Cost:
    """Return the cost of batch normalisation: scale and shift per channel; it counts no multiply-accumulates."""
    return Cost(2 * channels if affine else 0)
