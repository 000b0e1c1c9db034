"""Node ops for tokens: embed ids or an image as a sequence of vectors, and turn a sequence into scores or a vector."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topolearn.ops.base import NodeOp, PositiveInt, ShapeError, Sight, need_map, need_tokens, register_node_op
from topolearn.ops.shape import Cost, Shape, Size, conv_cost, linear_cost

Norm = Literal["layer", "rms"]
"""Normalisation over the channels of each token: ``layer`` (mean and variance, Ba et al. 2016) or ``rms``
(Zhang & Sennrich 2019)."""
Positions = Literal["learned", "rotary"]
"""How tokens know their position. ``learned``: the embedding adds a learned vector per position. ``rotary``: attention
turns queries and keys by an angle that grows with the position (Su et al. 2021)."""
Dropout = Annotated[float, Field(ge=0, lt=1)]


def norm_cost(channels: int, norm: Norm, *, bias: bool) -> Cost:
    """Return the cost of a normalisation: a scale per channel, and with ``layer`` and ``bias`` a shift."""
    return Cost(2 * channels if bias and norm == "layer" else channels)


@register_node_op("embedding")
class Embedding(NodeOp):
    """A learned vector per token id, plus one per position: (N, T) -> (N, T, channels)."""

    takes_ids = True

    channels: PositiveInt
    """Channels of the output."""
    positions: Positions = "learned"
    """``learned``: adds a vector per position, for as many positions as the input declares; ``rotary``: adds nothing,
    because attention handles positions.
    """
    dropout: Dropout = 0.0
    """Probability of dropping a value while training."""

    def output(self, x: Shape) -> Shape:
        """Return one token per id."""
        if not x.is_ids:
            raise ShapeError(
                f"'embedding' needs ids of tokens, but its input is {x}; declare the graph's input as"
                " {length: 128, vocabulary: 256}"
            )
        return Shape(self.channels, length=x.length)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the parameters of the tables; looking up multiplies nothing."""
        rows = (x.vocabulary or 0) + (x.area(image) if self.positions == "learned" else 0)
        return Cost(rows * self.channels)


@register_node_op("patch_embedding")
class PatchEmbedding(NodeOp):
    """One token per patch of an image: (N, C, H, W) -> (N, T, channels), by a convolution of stride ``patch``.

    T is the number of patches, plus 1 with a class token, which comes first (Dosovitskiy et al. 2021).
    """

    channels: PositiveInt
    """Channels of the output."""
    patch: PositiveInt
    """Height and width of a patch."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) of the image that positions are learned for; the network also takes smaller images. Default: the
    graph's image.
    """
    class_token: bool = False
    """Whether a learned token comes first, which can stand for the whole image."""
    positions: Positions = "learned"
    """``learned``: adds a vector per position; ``rotary``: adds nothing, because attention handles positions."""
    bias: bool = True
    """Whether the convolution has a bias."""
    dropout: Dropout = 0.0
    """Probability of dropping a value while training."""

    def sized(self, x: Shape, image: Size) -> PatchEmbedding:
        """Return the op with ``size`` filled in."""
        need_map(x, "'patch_embedding'")
        size = x.size(image)
        if self.size is not None and self.size != size:
            raise ShapeError(
                f"'size' is {self.size[0]} x {self.size[1]}, but the image is {size[0]} x {size[1]}; leave 'size' out"
            )
        if size[0] % self.patch or size[1] % self.patch:
            raise ShapeError(f"patches of {self.patch} x {self.patch} do not divide an image of {size[0]} x {size[1]}")
        return self if self.size == size else self.model_copy(update={"size": size})

    @property
    def rows_and_columns(self) -> Size:
        """Number of rows and columns of patches."""
        if self.size is None:
            raise ShapeError("'patch_embedding' has no 'size' yet; call declare_inputs() first")
        return (self.size[0] // self.patch, self.size[1] // self.patch)

    def output(self, x: Shape) -> Shape:
        """Return one token per patch, plus the class token."""
        need_map(x, "'patch_embedding'")
        rows, columns = self.rows_and_columns
        return Shape(self.channels, length=rows * columns + self.class_token)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of the convolution, the positions and the class token."""
        length = self.output(x).area(image)
        cost = conv_cost(x.channels, Shape(self.channels, x.strided(self.patch)), image, kernel=self.patch)
        learned = (length if self.positions == "learned" else 0) + self.class_token + self.bias
        return cost + Cost(learned * self.channels)

    @property
    def adds_class_token(self) -> bool:
        """Whether ``class_token`` is set."""
        return self.class_token


@register_node_op("layer_norm")
class LayerNorm(NodeOp):
    """Normalisation over the channels of each token, with a learned scale."""

    norm: Norm = "layer"
    """``layer`` or ``rms``."""
    bias: bool = True
    """Whether ``layer`` has a shift."""

    def output(self, x: Shape) -> Shape:
        """Return the same shape."""
        need_tokens(x, "'layer_norm'")
        return x

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of scale and shift."""
        return norm_cost(x.channels, self.norm, bias=self.bias)


@register_node_op("token_head")
class TokenHead(NodeOp):
    """Normalisation and linear layer on each token: (N, T, C) -> (N, T, classes) logits."""

    classes: PositiveInt
    """Number of classes; to predict the next token, the size of the vocabulary."""
    norm: Norm | Literal["none"] = "layer"
    """``layer``, ``rms`` or ``none``."""
    bias: bool = True
    """Whether the normalisation and the linear layer have a bias."""

    def output(self, x: Shape) -> Shape:
        """Return logits for every token."""
        need_tokens(x, "'token_head'")
        return x.with_channels(self.classes)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of normalisation and linear layer."""
        cost = linear_cost(x.channels, self.classes, x.area(image), bias=self.bias)
        return cost if self.norm == "none" else cost + norm_cost(x.channels, self.norm, bias=self.bias)


@register_node_op("token_pool")
class TokenPool(NodeOp):
    """One vector for a sequence: (N, T, C) -> (N, C)."""

    mode: Literal["mean", "class"] = "mean"
    """``mean`` of all tokens, or ``class`` for the class token."""

    def output(self, x: Shape) -> Shape:
        """Return a vector."""
        need_tokens(x, "'token_pool'")
        return Shape(x.channels, None)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return zero: pooling multiplies nothing."""
        return Cost()

    @property
    def sight(self) -> Sight:
        """All tokens."""
        return "all"

    @property
    def reads_class_token(self) -> bool:
        """Whether ``mode`` is ``class``."""
        return self.mode == "class"

    def non_negative(self, x: bool) -> bool:
        """Whether the input has no negative values."""
        return x
