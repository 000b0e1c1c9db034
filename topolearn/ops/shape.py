"""Shapes of the tensors that flow along edges, relative to the size of the graph's input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Stride = int | Literal["global"] | None
"""Stride relative to the graph's first input; ``"global"``: 1 x 1 whatever the input; None: no spatial axes."""

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of one tensor.

    ``stride`` an integer s: (N, channels, ceil(H/s), ceil(W/s)) for an input of H x W pixels;
    ``"global"``: (N, channels, 1, 1); None: (N, channels).
    """

    channels: int
    stride: Stride = 1

    @property
    def is_map(self) -> bool:
        """Whether the tensor has height and width."""
        return self.stride is not None

    def size(self, image: Size) -> Size:
        """Height and width of this tensor for an input of ``image`` pixels."""
        if not isinstance(self.stride, int):
            return (1, 1)
        return (-(-image[0] // self.stride), -(-image[1] // self.stride))

    def area(self, image: Size) -> int:
        """Number of positions of this tensor for an input of ``image`` pixels."""
        height, width = self.size(image)
        return height * width

    def strided(self, stride: int) -> Stride:
        """The stride after an op that takes every ``stride``-th position."""
        return self.stride * stride if isinstance(self.stride, int) else self.stride

    def __str__(self) -> str:
        if self.stride is None:
            return f"a vector of {self.channels}"
        where = "1 x 1" if self.stride == "global" else f"stride {self.stride}"
        return f"{self.channels} channels at {where}"


@dataclass(frozen=True)
class Bundle(Mapping[str, Shape]):
    """The named outputs of a backbone, which only ``feature`` nodes read."""

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
    """What an op costs for one input.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates of convolutions and linear layers.
    """

    params: int = 0
    macs: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.params + other.params, self.macs + other.macs)


def conv_cost(channels: int, out: Shape, image: Size, *, kernel: int = 1, groups: int = 1, bias: bool = False) -> Cost:
    """Cost of a 2-d convolution from ``channels`` to ``out``."""
    weights = kernel * kernel * (channels // groups) * out.channels
    return Cost(weights + (out.channels if bias else 0), weights * out.area(image))


def batch_norm_cost(channels: int, *, affine: bool = True) -> Cost:
    """Cost of batch normalisation: scale and shift per channel, no multiply-accumulates counted."""
    return Cost(2 * channels if affine else 0)
