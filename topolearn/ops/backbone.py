"""Node op for a torchvision model without its head; the node has named outputs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated

from pydantic import Field, field_validator

from topolearn.frozen import FrozenMap
from topolearn.ops.base import NodeOp, ShapeError, register_node_op
from topolearn.ops.shape import Bundle, Cost, Shape, Size

_PROBE = 256
"""Side in pixels of the image that measures the strides of the features; a multiple of every usual stride."""

_FACTORY = "topolearn.compiler.modules.backbone"
"""Module that builds the model and measures it. It needs torch and torchvision, so it is imported only if a graph
has a backbone."""

Measured = tuple[tuple[tuple[str, int, int | None], ...], int, tuple[tuple[int, int | None], ...], int]
"""What ``measure`` of :data:`_FACTORY` returns."""


@register_node_op("torchvision.backbone")
class TorchvisionBackbone(NodeOp):
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

    def output(self, x: Shape) -> Bundle:
        """Return the shape of each feature."""
        if x.channels != 3 or not isinstance(x.stride, int):
            raise ShapeError(f"a torchvision backbone needs 3 channels with height and width, but its input is {x}")
        return Bundle(
            tuple(
                (name, Shape(channels, "global" if stride is None else x.stride * stride))
                for name, channels, stride in self._measured()[0]
            )
        )

    def cost(self, x: Shape, image: Size) -> Cost:
        """Return the parameters, and the multiply-accumulates of convolutions and linear layers at this image size."""
        _, params, layers, multiple = self._measured()
        height, width = (-(-side // multiple) * multiple for side in x.size(image))
        macs = sum(
            weights * Shape(1, "global" if stride is None else stride).area((height, width))
            for weights, stride in layers
        )
        return Cost(params, macs)

    @property
    def strides(self) -> dict[str, int | None]:
        """Stride of each feature; None for a feature of 1 x 1."""
        return {name: stride for name, _, stride in self._measured()[0]}

    @property
    def multiple(self) -> int:
        """Height and width are padded to multiples of this number; 1 if the model rounds sizes up by itself."""
        return self._measured()[3]

    def _measured(self) -> Measured:
        return _measure(self.model, tuple(self.features.items()))


@lru_cache(maxsize=64)
def _measure(model: str, features: tuple[tuple[str, str], ...]) -> Measured:
    measured: Measured = importlib.import_module(_FACTORY).measure(model, dict(features), _PROBE)
    return measured
