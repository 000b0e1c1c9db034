"""Stacks the modules of sibling nodes: one grouped computation instead of many small ones.

Siblings' tensors are side by side on a branch axis, (N, B, C, H, W) for B siblings. If all siblings take the same
tensor, it comes as (N, 1, C, H, W) and broadcasts until the first convolution makes their outputs differ.

Parameters and buffers stay in the modules of the single nodes. A stacked module reads them at each pass and writes
batch statistics back. So ``state_dict``, optimisers and the reference interpreter always see the same tensors.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from topolearn.compiler.modules.base import STACKABLE, BatchNorm, Conv2d, ConvUnit, conv2d

_PER_ELEMENT = (nn.Sequential, nn.Identity, nn.ReLU, nn.ReLU6)
WIDENING = 3
"""Ratio of output to input channels from which a 1 x 1 convolution computes its batch statistics from its input."""
WIDENING_TOGETHER = 1 / 16
"""The same limit if all members take one tensor: output channels over squared input channels (the statistics' cost).
"""
_PER_MAP = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


def stack(members: Sequence[nn.Module]) -> nn.Module | None:
    """Make one module that runs all ``members`` on stacked tensors; None if they cannot be stacked.

    Args:
        members: Modules that one op built with the same parameters for inputs of one shape.
    """
    first = members[0]
    kind = type(first)
    if kind in (Conv2d, nn.Conv2d):
        return StackedConv(cast(Sequence[nn.Conv2d], members))
    if kind in (BatchNorm, nn.BatchNorm2d):
        return StackedBatchNorm(members)
    if kind in _PER_MAP and not first._modules:
        return Merged(first)
    if kind not in STACKABLE and kind not in _PER_ELEMENT:
        return None
    children: dict[str, nn.Module | None] = {}
    for name, child in first._modules.items():
        stacked = None if child is None else stack([member._modules[name] for member in members])  # type: ignore[misc]
        if child is not None and stacked is None:
            return None
        children[name] = stacked
    if isinstance(first, ConvUnit) and ("conv", "bn") in itertools.pairwise(first.layout):
        conv, norm = children["conv"], children["bn"]
        if isinstance(norm, StackedBatchNorm) and WideningConvBatchNorm.suits(conv):
            children |= {"conv": WideningConvBatchNorm(conv, norm), "bn": nn.Identity()}
    together = copy.copy(first)
    together.__dict__["_modules"] = children
    return together


class _Stacked(nn.Module):
    """A leaf of a stacked module; it does not own its members."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = tuple(members)  # a tuple, so that they are not submodules

    def tensors(self, name: str) -> list[Tensor]:
        """Return the members' tensors of this name."""
        return [getattr(member, name) for member in self.members]

    def joined(self, name: str) -> Tensor | None:
        """Concatenate the members' tensors of this name along the first axis; None if they have none."""
        tensors = self.tensors(name)
        return None if tensors[0] is None else torch.cat(tensors)


class StackedConv(_Stacked):
    """Convolutions side by side: (N, B or 1, C, H, W) -> (N, B, C', H', W')."""

    def __init__(self, members: Sequence[nn.Conv2d]) -> None:
        super().__init__(members)
        first = members[0]
        self.count = len(members)
        self.channels = (first.out_channels, first.in_channels)
        self.groups = first.groups
        self.spatial: dict[str, Any] = {
            "stride": first.stride,
            "padding": first.padding,
            "dilation": first.dilation,
        }
        self.pointwise = (first.kernel_size, first.stride, first.padding, first.groups) == ((1, 1), (1, 1), (0, 0), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve each member's part of ``x`` with its own filters, or a single part with all filters."""
        weight, bias = self.joined("weight"), self.joined("bias")
        assert weight is not None
        wide = x.shape[1] == 1 and self.groups == 1  # all filters over the same tensor: one convolution
        if self.pointwise and not wide and _suits_matmul(x):
            # Measured on a CPU: a batched matrix product takes half the time of a grouped 1 x 1 convolution.
            y = torch.matmul(weight.view(self.count, *self.channels), x.flatten(3)).view(x.shape[0], -1, *x.shape[3:])
            return with_branches(y if bias is None else y + bias.view(-1, 1, 1), self.count)
        if x.shape[1] == 1 and not wide:
            x = x.expand(-1, self.count, -1, -1, -1)
        groups = 1 if wide else self.groups * self.count
        return with_branches(conv2d(x.flatten(1, 2), weight, bias, groups=groups, **self.spatial), self.count)


def _suits_matmul(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.is_contiguous() and not torch.compiler.is_compiling()


def with_branches(x: Tensor, count: int) -> Tensor:
    """View (N, B * C, H, W) as (N, B, C, H, W)."""
    return x.view(x.shape[0], count, -1, *x.shape[2:])


class StackedBatchNorm(_Stacked):
    """Batch normalisations side by side, each with its own statistics: (N, B or 1, C, H, W) -> (N, B, C, H, W).

    Attributes:
        scale: (B,) factors on the members' outputs, for one call; None for no factors.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__(members)
        self.count = len(members)
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in training, also update the members' running statistics."""
        first = self.first
        x = x.expand(-1, self.count, -1, -1, -1).flatten(1, 2)
        mean, var = self.joined("running_mean"), self.joined("running_var")
        weight, bias = self.affine()
        single = x.shape[0] * x.shape[2] * x.shape[3] == 1  # see BatchNorm
        if not first.training or single:
            return with_branches(F.batch_norm(x, mean, var, weight, bias, False, 0.0, first.eps), self.count)
        assert mean is not None
        assert var is not None
        y = F.batch_norm(x, mean, var, weight, bias, True, self.count_batch(), first.eps)
        self.write_back(mean, var)
        return with_branches(y, self.count)

    def affine(self) -> tuple[Tensor | None, Tensor | None]:
        """Return (B * C,) scale and shift; None for 1 and 0."""
        weight, bias = self.joined("weight"), self.joined("bias")
        if self.scale is None:
            return weight, bias
        scale = self.scale.repeat_interleave(self.first.num_features)
        return scale if weight is None else weight * scale, None if bias is None else bias * scale

    @property
    def first(self) -> nn.BatchNorm2d:
        """The first member, for settings that all members share."""
        first = self.members[0]
        assert isinstance(first, nn.BatchNorm2d)
        return first

    def count_batch(self) -> float:
        """Count a training batch; return the weight of its statistics in the running ones."""
        tracked = self.tensors("num_batches_tracked")
        torch._foreach_add_(tracked, 1)
        momentum = self.first.momentum
        return 1.0 / float(tracked[0]) if momentum is None else momentum  # None: a cumulative mean

    def write_back(self, mean: Tensor, var: Tensor) -> None:
        """Give the members their new running statistics."""
        with torch.no_grad():
            torch._foreach_copy_(self.tensors("running_mean"), mean.chunk(self.count))
            torch._foreach_copy_(self.tensors("running_var"), var.chunk(self.count))


class WideningConvBatchNorm(nn.Module):
    """A 1 x 1 convolution to more channels and its batch normalisation, as one matrix product.

    The mean and variance of ``z = W h`` follow from those of the narrow h: E z = W E h and
    var z = diag(W cov(h) W^T). So z, the widest tensor of a bottleneck, is neither stored nor read again:
    ``gamma (z - E z) / sqrt(var z + eps) + beta`` is a product with a scaled W. Autograd differentiates the same
    formula.
    """

    def __init__(self, conv: StackedConv, norm: StackedBatchNorm) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    @staticmethod
    def suits(conv: nn.Module | None) -> TypeGuard[StackedConv]:
        """Whether ``conv`` works on every position separately."""
        return isinstance(conv, StackedConv) and conv.pointwise

    def widens(self, x: Tensor) -> bool:
        """Whether the convolution widens tensors like ``x`` enough for this to be faster."""
        out, narrow = self.conv.channels
        if x.shape[1] == self.conv.count > 1:
            return out >= WIDENING * narrow
        return out * self.conv.count >= WIDENING_TOGETHER * narrow**2

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, B or 1, C, H, W) to (N, B, C', H, W)."""
        norm, conv = self.norm, self.conv
        batch, count, narrow = x.shape[:3]  # one tensor for all members is one product with all their filters
        values = batch * x.shape[3] * x.shape[4]
        training = norm.first.training and values > 1
        bias = conv.joined("bias")
        suits = bias is None and _suits_matmul(x) and self.widens(x)
        # With fewer values than channels, the covariance has directions without variance, which rounding would fill.
        if not suits or (training and values < 2 * narrow):
            y: Tensor = norm(conv(x))
            return y
        weight, running_mean, running_var = (
            conv.joined("weight"),
            norm.joined("running_mean"),
            norm.joined("running_var"),
        )
        assert weight is not None
        assert running_mean is not None
        assert running_var is not None
        w = weight.view(count, -1, narrow)
        if training:
            with torch.autocast(x.device.type, enabled=False):
                h = x.flatten(3).to(w.dtype)
                center = h.mean((0, 3))
                centred = h - center[:, :, None]
                covariance = torch.matmul(centred, centred.transpose(2, 3)).sum(0) / values
                mean = torch.matmul(w, center[:, :, None]).flatten()
                # In a direction in which h does not vary, rounding may give a negative variance.
                var = (torch.matmul(w, covariance) * w).sum(2).flatten().clamp(min=0)
            momentum = norm.count_batch()
            with torch.no_grad():
                unbiased = var * (values / (values - 1))
                norm.write_back(torch.lerp(running_mean, mean, momentum), torch.lerp(running_var, unbiased, momentum))
        else:
            mean, var = running_mean, running_var
        gamma, beta = norm.affine()
        scale = torch.rsqrt(var + norm.first.eps)
        scale = scale if gamma is None else scale * gamma
        shift = -mean * scale if beta is None else beta - mean * scale
        # The shift is one more column of W, for a channel of ones: it needs no pass over the wide tensor.
        wide = torch.cat([w * scale.view(count, -1, 1), shift.view(count, -1, 1)], 2)
        h = torch.cat([x.flatten(3), x.new_ones(batch, count, 1, x.shape[3] * x.shape[4])], 2)
        return torch.matmul(wide, h).view(batch, conv.count, -1, *x.shape[3:])


class Merged(nn.Module):
    """Runs a module that treats every channel alike on (N, B, C, H, W)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Apply the module to all channels of all members."""
        return with_branches(self.module(x.flatten(1, 2)), x.shape[1])


@contextmanager
def weighted(module: nn.Module, scale: Tensor | None) -> Iterator[None]:
    """Multiply the outputs of a stacked module's members by ``scale`` while entered.

    Args:
        module: A module that :func:`stack` made, with members that end in a batch normalisation.
        scale: (B,) one number per member; None for no factors.
    """
    (norm,) = (m for m in module.modules() if isinstance(m, StackedBatchNorm))
    norm.scale = scale
    try:
        yield
    finally:
        norm.scale = None


def as_if_repeated(module: nn.Module, x: Tensor, copies: int) -> Tensor:
    """Compute ``module(x)`` with the batch statistics of a batch that holds ``copies`` copies of ``x``.

    The outputs of all copies are equal, so only one is computed. Only running variances differ: they use
    n / (n - 1) times the variance of n values.
    """
    norms = [m for m in module.modules() if isinstance(m, BatchNorm)]
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m not in norms for m in module.modules()):
        y: Tensor = module(x.repeat(copies, *[1] * (x.dim() - 1)))
        return y[: x.shape[0]]
    for norm in norms:
        norm.copies = copies
    try:
        once: Tensor = module(x)
    finally:
        for norm in norms:
            norm.copies = 1
    return once
