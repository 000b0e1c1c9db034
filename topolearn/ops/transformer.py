"""Node ops for pre-norm transformer blocks (Vaswani et al. 2017; Xiong et al. 2020), and for their two branches.

    block:  B(x) = u + mlp(u) ,  u = x + attention(x)

The branches ``attention`` and ``mlp`` begin with a normalisation and have no residual connection: in a graph of
branches, the edges are the residual connections.
"""

from __future__ import annotations

from topolearn.ops.base import NodeOp, PositiveInt, ShapeError, Sight, need_tokens, register_node_op
from topolearn.ops.shape import Cost, Shape, Size, linear_cost
from topolearn.ops.tokens import Dropout, Norm, Positions, norm_cost


class TransformerOp(NodeOp):
    """Base of blocks and branches; the output has the input's shape."""

    layers: PositiveInt = 1
    """Number of blocks in the network, for the initial weights only; a node cannot count them. Output projections start
    with a standard deviation of 0.02 / sqrt(2 layers), so that the sum over all branches starts at the same scale at
    any depth (Radford et al. 2019); other weights: 0.02.
    """
    norm: Norm = "layer"
    """``layer`` or ``rms``."""
    bias: bool = True
    """Whether linear layers and ``layer`` have a bias."""
    dropout: Dropout = 0.0
    """Probability of dropping a value of a branch's output, or a weight of attention, while training."""

    def output(self, x: Shape) -> Shape:
        """Return the same shape."""
        need_tokens(x, f"'{self.op_name}'")
        return x


class _Attention(TransformerOp):
    heads: PositiveInt
    """Number of attention heads; must divide the channels."""
    causal: bool = False
    """Whether each token sees only itself and earlier tokens."""
    positions: Positions = "learned"
    """``learned``: the embedding has added positions; ``rotary``: attention turns queries and keys."""

    def output(self, x: Shape) -> Shape:
        """Return the same shape."""
        super().output(x)
        if x.channels % self.heads:
            raise ShapeError(f"{self.heads} heads do not divide {x.channels} channels; choose 'heads' that do")
        if self.positions == "rotary" and x.channels // self.heads % 2:
            raise ShapeError(
                f"'positions: rotary' turns pairs of channels, but a head has {x.channels // self.heads}; choose"
                " 'heads' so that this is even"
            )
        return x

    @property
    def sight(self) -> Sight:
        """``earlier`` if causal, else ``all``."""
        return "earlier" if self.causal else "all"

    def _attention_cost(self, x: Shape, image: Size) -> Cost:
        length = x.area(image)
        cost = norm_cost(x.channels, self.norm, bias=self.bias)
        cost += linear_cost(x.channels, 3 * x.channels, length, bias=self.bias)
        cost += linear_cost(x.channels, x.channels, length, bias=self.bias)
        return cost + Cost(0, 2 * length * length * x.channels)


class _Mlp(TransformerOp):
    width: PositiveInt | None = None
    """Channels between the two linear layers; default: four times the input's."""

    def hidden(self, x: Shape) -> int:
        """Return the channels between the two linear layers, with the default filled in."""
        return 4 * x.channels if self.width is None else self.width

    def _mlp_cost(self, x: Shape, image: Size) -> Cost:
        length, hidden = x.area(image), self.hidden(x)
        cost = norm_cost(x.channels, self.norm, bias=self.bias)
        cost += linear_cost(x.channels, hidden, length, bias=self.bias)
        return cost + linear_cost(hidden, x.channels, length, bias=self.bias)


@register_node_op("transformer.attention")
class Attention(_Attention):
    """Normalisation and multi-head self-attention, no residual: (N, T, C) -> (N, T, C)."""

    is_branch = True

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of normalisation, four projections, and the two products of attention, 2 T² C."""
        return self._attention_cost(x, image)


@register_node_op("transformer.mlp")
class Mlp(_Mlp):
    """Normalisation, linear layer, GELU, linear layer, no residual: (N, T, C) -> (N, T, C)."""

    is_branch = True

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of normalisation and two linear layers."""
        return self._mlp_cost(x, image)


@register_node_op("transformer.block")
class TransformerBlock(_Attention, _Mlp):
    """Self-attention, then an MLP, each with a normalisation first and a residual: (N, T, C) -> (N, T, C)."""

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the cost of both branches; additions count nothing."""
        return self._attention_cost(x, image) + self._mlp_cost(x, image)
