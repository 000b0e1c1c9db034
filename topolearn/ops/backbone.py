"""Node ops for a torchvision or timm model without its head; the node has named outputs."""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, field_validator

from topolearn.frozen import FrozenMap
from topolearn.ops.base import NodeOp, PositiveInt, ShapeError, register_node_op
from topolearn.ops.shape import Bundle, Cost, Shape, Size

_PROBE = 256
"""Side in pixels of the image that measures the strides of the features; a multiple of every usual stride."""

_FACTORY = "topolearn.compiler.modules.backbone"
"""Module that builds the model and measures it. It needs torch and torchvision, so it is imported only if a graph
has a backbone."""
_TIMM_FACTORY = "topolearn.compiler.modules.timm_encoder"
"""The same for timm's models."""

Measured = tuple[tuple[tuple[str, int, int | None], ...], int, tuple[tuple[int, int | None], ...], int]
"""What ``measure`` of :data:`_FACTORY` returns."""


class Backbone(NodeOp):
    """A model without its head; ``feature`` nodes read its named outputs.

    A feature of stride s has ceil(height / s) x ceil(width / s) positions. If a model rounds down (VGG, DenseNet,
    ConvNeXt), the image is first padded with zeros to multiples of the largest stride, and the features are cropped.
    """

    def output(self, x: Shape) -> Bundle:
        """Return the shape of each feature."""
        if x.channels != 3 or not isinstance(x.stride, int):
            library = self.op_name.partition(".")[0]
            raise ShapeError(f"a {library} backbone needs 3 channels with height and width, but its input is {x}")
        return Bundle(
            tuple(
                (name, Shape(channels, "global" if stride is None else x.stride * stride))
                for name, channels, stride in self.measured[0]
            )
        )

    @property
    @abstractmethod
    def measured(self) -> Measured:
        """What is measured of the model, without weights: its features, its parameters, its layers, its rounding."""

    @property
    def strides(self) -> dict[str, int | None]:
        """Stride of each feature; None for a feature of 1 x 1."""
        return {name: stride for name, _, stride in self.measured[0]}

    @property
    def multiple(self) -> int:
        """Height and width are padded to multiples of this number; 1 if the model rounds sizes up by itself."""
        return self.measured[3]

    def padded(self, size: Size) -> Size:
        """Return the height and width that the model computes on."""
        height, width = (-(-side // self.multiple) * self.multiple for side in size)
        return height, width


@register_node_op("torchvision.backbone")
class TorchvisionBackbone(Backbone):
    """A torchvision model without its head; ``feature`` nodes read its named outputs.

    A feature of stride s has ceil(height / s) x ceil(width / s) positions. If a model rounds down (VGG, DenseNet,
    ConvNeXt), the image is first padded with zeros to multiples of the largest stride, and the features are cropped.
    """

    model: str
    """Name in ``torchvision.models`` (``mobilenet_v2``, ``resnet50`` …)."""
    features: Annotated[Mapping[str, str], Field(min_length=1)]
    """Name of each feature -> where it is taken from: a module's dotted path, or a node name of
    ``torchvision.models.feature_extraction`` (``layer1.2.add``).
    """
    weights: str | None = None
    """Name of pretrained weights (``IMAGENET1K_V1``); None: random weights. They are loaded when training starts,
    never when a network is built or read back.
    """
    bn_momentum: Annotated[float, Field(gt=0, le=1)] | None = None
    """Momentum of every batch normalisation; None: torchvision's."""

    @field_validator("features")
    @classmethod
    def _frozen(cls, features: Mapping[str, str]) -> Mapping[str, str]:
        return FrozenMap(features)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the parameters, and the multiply-accumulates of convolutions and linear layers at this image size."""
        _, params, layers, _ = self.measured
        size = self.padded(x.size(image))
        macs = sum(weights * Shape(1, "global" if stride is None else stride).area(size) for weights, stride in layers)
        return Cost(params, macs)

    @property
    def measured(self) -> Measured:
        """What is measured of the model on an image of 256 x 256."""
        return _measure(self.model, tuple(self.features.items()))


@register_node_op("timm.backbone")
class TimmBackbone(Backbone):
    """A timm model without its head; ``feature`` nodes read its named outputs. It needs the extra ``[timm]``.

    A feature of stride s has ceil(height / s) x ceil(width / s) positions. If a model rounds down, the image is first
    padded with zeros to multiples of the largest stride, and the features are cropped.
    """

    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,120}$")]
    """Name in ``timm.list_models()`` (``convnext_tiny``, ``mobilenetv3_small_050`` …)."""
    features: Annotated[Mapping[str, NonNegativeInt], Field(min_length=1)]
    """Name of each feature -> its number in timm's ``feature_info`` of the model; 0 is the first one."""
    weights: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,120}$")] | None = None
    """Tag of timm's pretrained weights (``in1k``); None: random weights. They are loaded when training starts, never
    when a network is built or read back.
    """
    img_size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width for a model that takes only one size, such as a vision transformer; None: timm's default."""
    bn_momentum: Annotated[float, Field(gt=0, le=1)] | None = None
    """Momentum of every batch normalisation; None: timm's."""

    @field_validator("features")
    @classmethod
    def _frozen(cls, features: Mapping[str, int]) -> Mapping[str, int]:
        return FrozenMap(features)

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the parameters, and the multiply-accumulates at this image size."""
        levels = tuple(self.features.items())
        return Cost(self.measured[1], _timm_macs(self.model, levels, self.img_size, self.padded(x.size(image))))

    @property
    def measured(self) -> Measured:
        """What is measured of the model on an image of 256 x 256, or of the only size that it takes."""
        return _measure_timm(self.model, tuple(self.features.items()), self.img_size)


@lru_cache(maxsize=64)
def _measure(model: str, features: tuple[tuple[str, str], ...]) -> Measured:
    measured: Measured = importlib.import_module(_FACTORY).measure(model, dict(features), _PROBE)
    return measured


@lru_cache(maxsize=64)
def _measure_timm(model: str, features: tuple[tuple[str, int], ...], img_size: Size | None) -> Measured:
    factory: Any = importlib.import_module(_TIMM_FACTORY)
    measured: Measured = factory.measure_encoder(model, dict(features), img_size, _PROBE)
    return measured


@lru_cache(maxsize=64)
def _timm_macs(model: str, features: tuple[tuple[str, int], ...], img_size: Size | None, size: Size) -> int:
    macs: int = importlib.import_module(_TIMM_FACTORY).count_macs(model, dict(features), img_size, size)
    return macs
