"""Modules of the token ops: embeddings, normalisation, head, pool."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from topolearn.compiler.modules.base import builds_node
from topolearn.errors import DataError
from topolearn.ops import Shape, tokens

STD = 0.02
"""Standard deviation of the initial weights (Radford et al. 2019)."""


def make_norm(channels: int, norm: Literal["layer", "rms", "none"], *, bias: bool) -> nn.Module:
    """Make a normalisation over the last axis, the channels."""
    if norm == "none":
        return nn.Identity()
    return nn.LayerNorm(channels, bias=bias) if norm == "layer" else nn.RMSNorm(channels, eps=1e-5)


def make_linear(in_channels: int, out_channels: int, *, bias: bool, std: float = STD) -> nn.Linear:
    """Make a linear layer; its weights start with standard deviation ``std``, its bias at 0."""
    linear = nn.Linear(in_channels, out_channels, bias=bias)
    nn.init.normal_(linear.weight, std=std)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _table(rows: int, channels: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(rows, channels) * STD)


class Embedding(nn.Module):
    """A vector per id plus, if positions are learned, a vector per position."""

    def __init__(self, vocabulary: int, length: int, rule: tokens.Embedding) -> None:
        super().__init__()
        self.ids = nn.Embedding(vocabulary, rule.channels)
        nn.init.normal_(self.ids.weight, std=STD)
        self.places = _table(length, rule.channels) if rule.positions == "learned" else None
        self.dropout = rule.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map ids (N, T) int64 to (N, T, channels).

        Raises:
            DataError: There are more tokens than learned positions.
        """
        y: Tensor = self.ids(x)
        if self.places is not None:
            _check_length(x.shape[1], len(self.places), "tokens")
            y = y + self.places[: x.shape[1]]
        return F.dropout(y, self.dropout, self.training)


def _check_length(given: int, learned: int, what: str) -> None:
    if not torch.compiler.is_compiling() and given > learned:
        raise DataError(f"the network is given {given} {what}, but has learned positions for {learned}; give fewer")


@builds_node(tokens.Embedding)
def build_embedding(rule: tokens.Embedding, x: Shape) -> nn.Module:
    """Build an embedding of ids."""
    assert x.vocabulary is not None
    assert x.length is not None
    return Embedding(x.vocabulary, x.length, rule)


class PatchEmbedding(nn.Module):
    """Patches by a strided convolution, with an optional class token in front and a vector per position."""

    def __init__(self, channels: int, rule: tokens.PatchEmbedding) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, rule.channels, rule.patch, rule.patch, bias=rule.bias)
        nn.init.normal_(self.conv.weight, std=(channels * rule.patch**2) ** -0.5)  # outputs as large as the inputs
        if rule.bias:
            assert self.conv.bias is not None
            nn.init.zeros_(self.conv.bias)
        self.rows, self.columns = rule.rows_and_columns
        self.class_token = nn.Parameter(torch.zeros(1, rule.channels)) if rule.class_token else None
        places = self.rows * self.columns + rule.class_token
        self.places = _table(places, rule.channels) if rule.positions == "learned" else None
        self.dropout = rule.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, T, channels).

        Raises:
            DataError: There are more patches, down or across, than learned positions.
        """
        maps: Tensor = self.conv(x)
        y = maps.flatten(2).transpose(1, 2)
        if self.class_token is not None:
            y = torch.cat([self.class_token.to(y.dtype).expand(len(y), 1, -1), y], 1)
        if self.places is not None:
            y = y + self._places(maps.shape[2], maps.shape[3])
        return F.dropout(y, self.dropout, self.training)

    def _places(self, rows: int, columns: int) -> Tensor:
        """Return the (T, channels) position vectors of the first rows and columns."""
        assert self.places is not None
        if (rows, columns) == (self.rows, self.columns):
            return self.places
        _check_length(rows, self.rows, "rows of patches")
        _check_length(columns, self.columns, "columns of patches")
        front = len(self.places) - self.rows * self.columns
        grid = self.places[front:].view(self.rows, self.columns, -1)[:rows, :columns].flatten(0, 1)
        return torch.cat([self.places[:front], grid])


@builds_node(tokens.PatchEmbedding)
def build_patch_embedding(rule: tokens.PatchEmbedding, x: Shape) -> nn.Module:
    """Build an embedding of patches."""
    return PatchEmbedding(x.channels, rule)


@builds_node(tokens.LayerNorm)
def build_layer_norm(rule: tokens.LayerNorm, x: Shape) -> nn.Module:
    """Build a normalisation over channels."""
    return make_norm(x.channels, rule.norm, bias=rule.bias)


class TokenHead(nn.Module):
    """Normalisation and linear layer at each token."""

    def __init__(self, channels: int, rule: tokens.TokenHead) -> None:
        super().__init__()
        self.norm = make_norm(channels, rule.norm, bias=rule.bias)
        self.linear = make_linear(channels, rule.classes, bias=rule.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, C) to (N, T, classes)."""
        logits: Tensor = self.linear(self.norm(x))
        return logits


@builds_node(tokens.TokenHead)
def build_token_head(rule: tokens.TokenHead, x: Shape) -> nn.Module:
    """Build a head for every token."""
    return TokenHead(x.channels, rule)


class TokenPool(nn.Module):
    """The mean of all tokens, or the first one."""

    def __init__(self, rule: tokens.TokenPool) -> None:
        super().__init__()
        self.mode = rule.mode

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, C) to (N, C)."""
        return x.mean(1) if self.mode == "mean" else x[:, 0]


@builds_node(tokens.TokenPool)
def build_token_pool(rule: tokens.TokenPool, x: Shape) -> nn.Module:
    """Build a pool over tokens."""
    return TokenPool(rule)
