"""Edge ops: what an edge does to its source's output so that it fits the input that the target declares."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeInt

from topolearn.ops.base import EdgeOp, ShapeError, register_edge_op
from topolearn.ops.shape import Cost, Shape, Size, batch_norm_cost, conv_cost


def _subsampling(source: Shape, target: Shape, what: str) -> int:
    """Return how many positions of ``source`` there are per position of ``target``, on each axis."""
    if source.grid == target.grid:
        return 1
    if isinstance(source.stride, int) and isinstance(target.stride, int) and target.stride % source.stride == 0:
        return target.stride // source.stride
    instead = "use 'resize' or 'conv_resize'" if source.is_map and target.is_map else _between(source, target)
    raise ShapeError(f"'{what}' cannot bring {source} to {target}; {instead}")


def _between(source: Shape, target: Shape) -> str:
    """Return what to do if no edge op leads from one kind of grid to the other."""
    if source.is_ids:
        return "put a node 'embedding' between"
    if source.is_map and target.is_tokens:
        return "put a node 'patch_embedding' between"
    if source.is_tokens and target.is_vector:
        return "put a node 'token_pool' between"
    if source.is_tokens and target.is_tokens and source.length != target.length:
        return "make the lengths agree"
    return "make the shapes agree"


@register_edge_op("identity")
class Identity(EdgeOp):
    """Passes the source on unchanged; source and target must have the same shape."""

    positive_linear: ClassVar[bool] = True

    def output(self, source: Shape, target: Shape) -> Shape:
        """Return the source's shape."""
        if source != target:
            raise ShapeError(f"the source gives {source}, but the target takes {target}; {_mend(source, target)}")
        return source


def _mend(source: Shape, target: Shape) -> str:
    if source.grid == target.grid and source.is_tokens and source.channels < target.channels:
        return "use the edge op 'align' (no parameters)"
    if not source.is_map or not target.is_map:
        return _between(source, target)
    same_channels = source.channels == target.channels
    if _finer_or_equal(source, target):
        return (
            "use the edge op 'project'"
            if source.channels > target.channels
            else "use the edge op 'align' (no parameters) or 'project'"
        )
    return f"use the edge op '{'resize' if same_channels else 'conv_resize'}'"


def _finer_or_equal(source: Shape, target: Shape) -> bool:
    if isinstance(source.stride, int) and isinstance(target.stride, int):
        return target.stride % source.stride == 0
    return source.stride == target.stride


@register_edge_op("align")
class Align(EdgeOp):
    """Takes every s-th position and adds zero channels (He et al. 2016, option A); no parameters."""

    positive_linear: ClassVar[bool] = True

    offset: NonNegativeInt = 0
    """Number of zero channels before the source's channels; the others come after."""

    def step(self, source: Shape, target: Shape) -> int:
        """Return the subsampling factor s."""
        return _subsampling(source, target, "align")

    def output(self, source: Shape, target: Shape) -> Shape:
        """Return the target's shape."""
        self.step(source, target)
        if source.is_ids:
            raise ShapeError(f"'align' needs channels, but the source gives {source}; {_between(source, target)}")
        if self.offset + source.channels > target.channels:
            raise ShapeError(
                f"'align' cannot bring {source.channels} channels"
                f"{f' at offset {self.offset}' if self.offset else ''} to {target.channels}; use 'project'"
            )
        return target


@register_edge_op("project")
class Project(EdgeOp):
    """1x1 convolution without bias, with the stride that is needed, then batch normalisation."""

    has_parameters: ClassVar[bool] = True

    affine: bool = True
    """Whether the batch normalisation scales and shifts."""

    def step(self, source: Shape, target: Shape) -> int:
        """Return the stride of the convolution."""
        return _subsampling(source, target, "project")

    def output(self, source: Shape, target: Shape) -> Shape:
        """Return the target's shape."""
        if not source.is_map:
            raise ShapeError(f"'project' needs a feature map, but the source gives {source}")
        self.step(source, target)
        return target

    def cost(self, source: Shape, target: Shape, image: Size) -> Cost:
        """Return the cost of convolution and batch normalisation."""
        return conv_cost(source.channels, target, image) + batch_norm_cost(target.channels, affine=self.affine)


def _resizable(source: Shape, target: Shape, what: str) -> None:
    if not source.is_map or not target.is_map:
        raise ShapeError(f"'{what}' needs feature maps, but the source gives {source} and the target takes {target}")


@register_edge_op("resize")
class Resize(EdgeOp):
    """Interpolates to the target's height and width; a global source is broadcast."""

    positive_linear: ClassVar[bool] = True
    resizes: ClassVar[bool] = True

    mode: Literal["bilinear", "nearest"] = "bilinear"
    """Interpolation, ``bilinear`` or ``nearest``."""
    align_corners: bool = True
    """Whether the centres of the corner pixels stay in the corners (bilinear only)."""

    def output(self, source: Shape, target: Shape) -> Shape:
        """Return the target's shape."""
        _resizable(source, target, "resize")
        if source.channels != target.channels:
            raise ShapeError(
                f"'resize' keeps the {source.channels} channels, but the target takes {target.channels};"
                " use 'conv_resize'"
            )
        return target


@register_edge_op("conv_resize")
class ConvResize(EdgeOp):
    """Convolves at the source's resolution, then resizes: ``resize(BN(conv1x1(activation(y))))``.

    This is the decoder edge of SparseMask (Wu et al. 2019).
    """

    has_parameters: ClassVar[bool] = True
    resizes: ClassVar[bool] = True

    activation: Literal["none", "relu", "relu6"] = "relu6"
    """Activation before the convolution."""
    batch_norm: bool = True
    """Whether a batch normalisation follows the convolution."""
    affine: bool = False
    """Whether the batch normalisation scales and shifts."""
    mode: Literal["bilinear", "nearest"] = "bilinear"
    """Interpolation, as in ``resize``."""
    align_corners: bool = True
    """As in ``resize``."""

    def output(self, source: Shape, target: Shape) -> Shape:
        """Return the target's shape."""
        _resizable(source, target, "conv_resize")
        return target

    def cost(self, source: Shape, target: Shape, image: Size) -> Cost:
        """Return the cost of the convolution, at the source's resolution, and of the batch normalisation."""
        cost = conv_cost(source.channels, Shape(target.channels, source.stride), image)
        if self.batch_norm:
            cost += batch_norm_cost(target.channels, affine=self.affine)
        return cost
