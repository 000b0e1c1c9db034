"""Modules of transformer blocks and their branches."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from topolearn.compiler.modules.base import builds_node
from topolearn.compiler.modules.tokens import STD, make_linear, make_norm
from topolearn.ops import Shape, transformer


def rotated(x: Tensor) -> Tensor:
    """Apply rotary positions (Su et al. 2021) to (N, heads, T, D): rotate channels i and i + D/2 as a pair.

    The angle at position t is t · 10000^(-2 i / D), so the product of a query and a key depends only on their distance.
    """
    length, half = x.shape[-2], x.shape[-1] // 2
    rates = 10000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(length, device=x.device, dtype=torch.float32)[:, None] * rates
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


class Attention(nn.Module):
    """Normalisation, multi-head self-attention, projection."""

    def __init__(self, channels: int, rule: transformer.Attention | transformer.TransformerBlock) -> None:
        super().__init__()
        self.norm = make_norm(channels, rule.norm, bias=rule.bias)
        self.qkv = make_linear(channels, 3 * channels, bias=rule.bias)
        self.out = make_linear(channels, channels, bias=rule.bias, std=STD / math.sqrt(2 * rule.layers))
        self.heads = rule.heads
        self.causal = rule.causal
        self.rotary = rule.positions == "rotary"
        self.dropout = rule.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, C) to the same shape."""
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        if self.rotary:
            q, k = rotated(q), rotated(k)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, dropout_p=dropout)
        return F.dropout(self.out(y.transpose(1, 2).flatten(2)), self.dropout, self.training)


class Mlp(nn.Module):
    """Normalisation, linear layer, GELU, linear layer."""

    def __init__(self, x: Shape, rule: transformer.Mlp | transformer.TransformerBlock) -> None:
        super().__init__()
        hidden = rule.hidden(x)
        self.norm = make_norm(x.channels, rule.norm, bias=rule.bias)
        self.up = make_linear(x.channels, hidden, bias=rule.bias)
        self.down = make_linear(hidden, x.channels, bias=rule.bias, std=STD / math.sqrt(2 * rule.layers))
        self.dropout = rule.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, C) to the same shape."""
        return F.dropout(self.down(F.gelu(self.up(self.norm(x)))), self.dropout, self.training)


class TransformerBlock(nn.Module):
    """``u + mlp(u)`` with ``u = x + attention(x)``."""

    def __init__(self, x: Shape, rule: transformer.TransformerBlock) -> None:
        super().__init__()
        self.attention = Attention(x.channels, rule)
        self.mlp = Mlp(x, rule)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, C) to the same shape."""
        u = x + self.attention(x)
        y: Tensor = u + self.mlp(u)
        return y


@builds_node(transformer.Attention)
def build_attention(rule: transformer.Attention, x: Shape) -> nn.Module:
    """Build the attention branch."""
    return Attention(x.channels, rule)


@builds_node(transformer.Mlp)
def build_mlp(rule: transformer.Mlp, x: Shape) -> nn.Module:
    """Build the MLP branch."""
    return Mlp(x, rule)


@builds_node(transformer.TransformerBlock)
def build_block(rule: transformer.TransformerBlock, x: Shape) -> nn.Module:
    """Build a transformer block."""
    return TransformerBlock(x, rule)
