"""Tokens: from ids or an image to a sequence of vectors, and from that to scores or one vector."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from topolearn.ops.base import NodeOp, PositiveInt, ShapeError, Sight, need_map, need_tokens, register_node_op
from topolearn.ops.shape import Cost, Shape, Size, conv_cost, linear_cost

Norm = Literal["layer", "rms"]
"""Over the channels of each token: ``layer`` (mean and variance, Ba et al. 2016) or ``rms`` (Zhang & Sennrich 2019)."""
Positions = Literal["learned", "rotary"]
"""How tokens know their place: ``learned``, a vector per place that is added where the sequence begins; ``rotary``,
attention turns queries and keys by an angle that grows with the place (Su et al. 2021)."""
Dropout = Annotated[float, Field(ge=0, lt=1)]


def norm_cost(channels: int, norm: Norm, *, bias: bool) -> Cost:
    """Cost of a normalisation over channels: a scale per channel, with ``layer`` and ``bias`` a shift too."""
    return Cost(2 * channels if bias and norm == "layer" else channels)


@register_node_op("embedding")
class Embedding(NodeOp):
    """A learned vector per token id, and one per place: (N, T) -> (N, T, channels)."""

    takes_ids = True

    channels: PositiveInt
    """Channels of the output."""
    positions: Positions = "learned"
    """``learned``: a vector per place is added, for as many places as the input declares; ``rotary``: none, attention
    knows the places.
    """
    dropout: Dropout = 0.0
    """Probability of dropping a value while training."""

    def output(self, x: Shape) -> Shape:
        """As many tokens as ids."""
        if not x.is_ids:
            raise ShapeError(
                f"'embedding' needs ids of tokens, but its input is {x}; declare the graph's input as"
                " {length: 128, vocabulary: 256}"
            )
        return Shape(self.channels, length=x.length)

    def cost(self, x: Shape, image: Size) -> Cost:
        """The tables; looking up multiplies nothing."""
        rows = (x.vocabulary or 0) + (x.area(image) if self.positions == "learned" else 0)
        return Cost(rows * self.channels)


@register_node_op("patch_embedding")
class PatchEmbedding(NodeOp):
    """An image cut into patches, each a token: (N, C, H, W) -> (N, T, channels), by a convolution of stride ``patch``.

    T is the number of patches, and one more with a class token, which comes first (Dosovitskiy et al. 2021).
    """

    channels: PositiveInt
    """Channels of the output."""
    patch: PositiveInt
    """Height and width of a patch."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """(height, width) of the image, for which positions are learned; a smaller one is fine afterwards. Where not given:
    as the graph has it.
    """
    class_token: bool = False
    """Whether a learned token comes first, which can stand for the whole image."""
    positions: Positions = "learned"
    """``learned``: a vector per place is added; ``rotary``: none, attention knows the places."""
    bias: bool = True
    """Whether the convolution has a bias."""
    dropout: Dropout = 0.0
    """Probability of dropping a value while training."""

    def sized(self, x: Shape, image: Size) -> PatchEmbedding:
        """With ``size`` filled in."""
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
        """How many patches there are, down and across."""
        if self.size is None:
            raise ShapeError("'patch_embedding' has no 'size' yet; call declare_inputs() first")
        return (self.size[0] // self.patch, self.size[1] // self.patch)

    def output(self, x: Shape) -> Shape:
        """A token per patch, and the class token."""
        need_map(x, "'patch_embedding'")
        rows, columns = self.rows_and_columns
        return Shape(self.channels, length=rows * columns + self.class_token)

    def cost(self, x: Shape, image: Size) -> Cost:
        """The convolution, the positions and the class token."""
        length = self.output(x).area(image)
        cost = conv_cost(x.channels, Shape(self.channels, x.strided(self.patch)), image, kernel=self.patch)
        learned = (length if self.positions == "learned" else 0) + self.class_token + self.bias
        return cost + Cost(learned * self.channels)

    @property
    def adds_class_token(self) -> bool:
        """Where it is asked for one."""
        return self.class_token


@register_node_op("layer_norm")
class LayerNorm(NodeOp):
    """Normalisation over the channels of each token, with a learned scale."""

    norm: Norm = "layer"
    """``layer`` or ``rms``."""
    bias: bool = True
    """Whether ``layer`` has a shift too."""

    def output(self, x: Shape) -> Shape:
        """The same shape."""
        need_tokens(x, "'layer_norm'")
        return x

    def cost(self, x: Shape, image: Size) -> Cost:
        """Scale and shift."""
        return norm_cost(x.channels, self.norm, bias=self.bias)


@register_node_op("token_head")
class TokenHead(NodeOp):
    """Normalisation and linear layer at each token: (N, T, C) -> (N, T, classes) logits."""

    classes: PositiveInt
    """Number of classes; to predict the next token, the size of the vocabulary."""
    norm: Norm | Literal["none"] = "layer"
    """``layer``, ``rms`` or ``none``."""
    bias: bool = True
    """Whether the normalisation and the linear layer have a bias."""

    def output(self, x: Shape) -> Shape:
        """Logits at every token."""
        need_tokens(x, "'token_head'")
        return x.with_channels(self.classes)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Normalisation and linear layer."""
        cost = linear_cost(x.channels, self.classes, x.area(image), bias=self.bias)
        return cost if self.norm == "none" else cost + norm_cost(x.channels, self.norm, bias=self.bias)


@register_node_op("token_pool")
class TokenPool(NodeOp):
    """One vector for a sequence: (N, T, C) -> (N, C)."""

    mode: Literal["mean", "class"] = "mean"
    """``mean`` over all tokens, or ``class``: the class token."""

    def output(self, x: Shape) -> Shape:
        """A vector."""
        need_tokens(x, "'token_pool'")
        return Shape(x.channels, None)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Nothing: pooling multiplies nothing."""
        return Cost()

    @property
    def sight(self) -> Sight:
        """All tokens."""
        return "all"

    @property
    def reads_class_token(self) -> bool:
        """Where that is what it takes."""
        return self.mode == "class"

    def non_negative(self, x: bool) -> bool:
        """As the input is."""
        return x
