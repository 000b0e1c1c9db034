"""Modules of the small node ops: convolutions, normalisation, pools, identity, linear layers, heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from topolearn.compiler.modules.base import BatchNorm, ConvUnit, activate, builds_node, init_he
from topolearn.ops import Shape, basic, conv, head, pool


@builds_node(conv.ConvUnit)
def build_conv(rule: conv.ConvUnit, x: Shape) -> nn.Module:
    """Build any layout of ``topolearn.ops.conv``."""
    return ConvUnit(
        rule.layout,
        x.channels,
        rule.out_channels,
        kernel=rule.kernel,
        stride=rule.stride,
        groups=rule.groups,
        dilation=rule.dilation,
        bias=rule.bias,
        affine=rule.affine,
    )


@builds_node(basic.Identity, basic.Feature)
def build_identity(rule: Any, x: Any) -> nn.Module:
    """Build an identity or a relu; for a feature, the interpreter selects the tensor."""
    return nn.ReLU() if isinstance(rule, basic.Relu) else nn.Identity()


@builds_node(basic.BatchNorm)
def build_batch_norm(rule: basic.BatchNorm, x: Shape) -> nn.Module:
    """Build a batch normalisation."""
    return BatchNorm(x.channels, affine=rule.affine)


@builds_node(pool.MaxPool, pool.AvgPool)
def build_pool(rule: pool.Pool, x: Shape) -> nn.Module:
    """Build a pooling with ceil(size / stride) positions."""
    padding, ceil = (rule.kernel // 2, False) if rule.kernel % 2 else (0, True)
    if isinstance(rule, pool.MaxPool):
        return nn.MaxPool2d(rule.kernel, rule.step, padding, ceil_mode=ceil)
    return nn.AvgPool2d(rule.kernel, rule.step, padding, ceil_mode=ceil, count_include_pad=False)


@builds_node(pool.GlobalAvgPool)
def build_global_pool(rule: pool.GlobalAvgPool, x: Shape) -> nn.Module:
    """Build the mean over positions."""
    return nn.AdaptiveAvgPool2d(1)


class Linear(nn.Module):
    """A fully connected layer and an activation."""

    def __init__(self, in_features: int, rule: head.Linear) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, rule.out_features, bias=rule.bias)
        self.activation = rule.activation
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="relu" if rule.activation != "none" else "linear")
        if rule.bias:
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_features) to (N, out_features)."""
        return activate(self.linear(x), self.activation)

    def scale_input(self, factor: float) -> bool:
        """Turn ``f(x)`` into ``f(factor * x)``; always exact."""
        with torch.no_grad():
            self.linear.weight.mul_(factor)
        return True


@builds_node(head.Linear)
def build_linear(rule: head.Linear, x: Shape) -> nn.Module:
    """Build a linear layer."""
    return Linear(x.channels, rule)


class Classifier(nn.Module):
    """Activation, global average pooling, dropout, linear layer."""

    def __init__(self, channels: int, rule: head.Classifier) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, rule.classes)
        self.activation = rule.activation
        self.dropout = rule.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) or (N, C) to (N, classes)."""
        x = activate(x, self.activation)
        if x.dim() == 4:
            x = x.mean((2, 3))
        logits: Tensor = self.linear(F.dropout(x, self.dropout, self.training))
        return logits

    def scale_input(self, factor: float) -> bool:
        """Turn ``f(x)`` into ``f(factor * x)`` if that is exact; return whether it was."""
        exact = self.activation == "none" or (self.activation == "relu" and factor > 0)
        if exact:
            with torch.no_grad():
                self.linear.weight.mul_(factor)
        return exact


@builds_node(head.Classifier)
def build_classifier(rule: head.Classifier, x: Shape) -> nn.Module:
    """Build a classifier head."""
    return Classifier(x.channels, rule)


class SegmentationHead(nn.Module):
    """Activation and 1 x 1 convolution."""

    def __init__(self, channels: int, rule: head.SegmentationHead) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, rule.classes, 1)
        self.activation = rule.activation
        init_he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, classes, H, W)."""
        logits: Tensor = self.conv(activate(x, self.activation))
        return logits

    def scale_input(self, factor: float) -> bool:
        """Turn ``f(x)`` into ``f(factor * x)`` if that is exact; return whether it was."""
        exact = self.activation == "none" or (self.activation == "relu" and factor > 0)
        if exact:
            with torch.no_grad():
                self.conv.weight.mul_(factor)
        return exact


@builds_node(head.SegmentationHead)
def build_segmentation_head(rule: head.SegmentationHead, x: Shape) -> nn.Module:
    """Build a segmentation head."""
    return SegmentationHead(x.channels, rule)
