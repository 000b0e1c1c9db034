"""Modules of the edge ops; each is called with the source's output and the target's (height, width)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from topolearn.compiler.modules.base import ConvUnit, builds_edge, resize
from topolearn.ops import Shape, edges
from topolearn.ops.conv import Step
from topolearn.ops.shape import Size


def pad_and_subsample(x: Tensor, channels: int, step: int, offset: int = 0) -> Tensor:
    """Take every ``step``-th position of (…, C, H, W), (N, C) or (N, T, C); add zero channels up to ``channels``."""
    if step != 1:
        x = x[..., ::step, ::step]
    behind = 2 if x.dim() > 3 else 0
    after = channels - offset - x.shape[-1 - behind]
    if offset == 0 and after == 0:
        return x
    return F.pad(x, [0, 0] * behind + [offset, after])


class Align(nn.Module):
    """Subsampling and zero-padding of channels."""

    def __init__(self, rule: edges.Align, source: Shape, target: Shape) -> None:
        super().__init__()
        self.channels = target.channels
        self.step = rule.step(source, target)
        self.offset = rule.offset

    def forward(self, y: Tensor, size: Size) -> Tensor:
        """Bring ``y`` to the target's shape."""
        return pad_and_subsample(y, self.channels, self.step, self.offset)


@builds_edge(edges.Align)
def build_align(rule: edges.Align, source: Shape, target: Shape) -> nn.Module:
    """Build an alignment without parameters."""
    return Align(rule, source, target)


class Project(nn.Module):
    """1 x 1 convolution with stride, batch normalisation."""

    def __init__(self, rule: edges.Project, source: Shape, target: Shape) -> None:
        super().__init__()
        stride = rule.step(source, target)
        self.unit = ConvUnit(("conv", "bn"), source.channels, target.channels, stride=stride, affine=rule.affine)

    def forward(self, y: Tensor, size: Size) -> Tensor:
        """Bring ``y`` to the target's shape."""
        projected: Tensor = self.unit(y)
        return projected

    def last_norm(self) -> nn.Module | None:
        """Return the batch normalisation of the convolution, if there is one."""
        return self.unit.last_norm()

    def scale_output(self, factor: float) -> bool:
        """Turn ``f(y)`` into ``factor * f(y)`` if that is exact; return whether it was."""
        return self.unit.scale_output(factor)


@builds_edge(edges.Project)
def build_project(rule: edges.Project, source: Shape, target: Shape) -> nn.Module:
    """Build a projection."""
    return Project(rule, source, target)


class Resize(nn.Module):
    """Interpolation, or broadcast of a global source."""

    def __init__(self, rule: edges.Resize | edges.ConvResize, source: Shape, target: Shape) -> None:
        super().__init__()
        self.mode = rule.mode
        self.align_corners = rule.align_corners
        # Decided by the strides, not by the actual sizes, so that an export with dynamic sizes stays exact.
        self.same = source.stride == target.stride
        self.broadcast = source.stride == "global"

    def forward(self, y: Tensor, size: Size) -> Tensor:
        """Bring ``y`` to the target's height and width."""
        if self.same:
            return y
        return y.expand(-1, -1, *size) if self.broadcast else resize(y, size, self.mode, self.align_corners)


@builds_edge(edges.Resize)
def build_resize(rule: edges.Resize, source: Shape, target: Shape) -> nn.Module:
    """Build a resizing."""
    return Resize(rule, source, target)


class ConvResize(nn.Module):
    """Activation, 1 x 1 convolution, batch normalisation at the source's resolution, then resizing."""

    def __init__(self, rule: edges.ConvResize, source: Shape, target: Shape) -> None:
        super().__init__()
        before: tuple[Step, ...] = () if rule.activation == "none" else (rule.activation,)
        after: tuple[Step, ...] = ("bn",) if rule.batch_norm else ()
        self.unit = ConvUnit((*before, "conv", *after), source.channels, target.channels, affine=rule.affine)
        self.resize = Resize(rule, source, target)

    def forward(self, y: Tensor, size: Size) -> Tensor:
        """Bring ``y`` to the target's shape."""
        resized: Tensor = self.resize(self.unit(y), size)
        return resized

    def last_norm(self) -> nn.Module | None:
        """Return the batch normalisation of the convolution, if there is one."""
        return self.unit.last_norm()

    def scale_output(self, factor: float) -> bool:
        """Turn ``f(y)`` into ``factor * f(y)`` if that is exact; return whether it was."""
        return self.unit.scale_output(factor)


@builds_edge(edges.ConvResize)
def build_conv_resize(rule: edges.ConvResize, source: Shape, target: Shape) -> nn.Module:
    """Build a convolution and a resizing."""
    return ConvResize(rule, source, target)
