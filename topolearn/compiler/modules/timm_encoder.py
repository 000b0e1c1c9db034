"""Encoders from timm: a model without its head, whose forward pass returns named features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topolearn.compiler.modules.backbone import cut, padded, with_our_layers
from topolearn.compiler.modules.base import builds_node
from topolearn.errors import LiftError, TrainingError, suggest, tell
from topolearn.ops import Shape, ShapeError
from topolearn.ops.backbone import Measured, TimmBackbone
from topolearn.ops.shape import Size
from topolearn.tracing.builders import outline_of, timm_library
from topolearn.tracing.record import META, CountMacs, meta_copy, never_in_place

_CHANNELS_LAST = "NHWC"


class TimmEncoder(nn.Module):
    """Runs timm's feature extractor on padded images, and returns its features by name.

    Attributes:
        network: timm's module; it returns a list of features.
        places: Name of a feature -> its place in that list.
        multiple: Height and width are padded to multiples of this number.
        strides: Name -> stride of a feature, to crop it; None for a feature of 1 x 1.
    """

    def __init__(
        self, network: nn.Module, features: Mapping[str, int], multiple: int, strides: Mapping[str, int | None]
    ) -> None:
        super().__init__()
        self.network = network
        self.places = _places(features)
        self.multiple = multiple
        self.strides = dict(strides)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the features of (N, 3, H, W) images."""
        found = self.network(padded(image, self.multiple) if self.multiple > 1 else image)
        maps = {name: _channels_first(self.network, found[place]) for name, place in self.places.items()}
        if self.multiple == 1:
            return maps
        return {
            name: value if (stride := self.strides[name]) is None else cut(value, image, stride)
            for name, value in maps.items()
        }


def _places(features: Mapping[str, int]) -> dict[str, int]:
    """Return the place of each feature among those that timm returns, which are in the model's order."""
    levels = sorted(set(features.values()))
    return {name: levels.index(level) for name, level in features.items()}


def _channels_first(network: nn.Module, feature: Any) -> Any:
    last = str(getattr(getattr(network, "output_fmt", None), "value", "")) == _CHANNELS_LAST
    return feature.permute(0, 3, 1, 2) if last and isinstance(feature, Tensor) and feature.dim() == 4 else feature


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _timm() -> Any:
    try:
        return timm_library()
    except LiftError as error:
        raise ShapeError(error.message) from None


def _network(
    model: str,
    features: Mapping[str, int],
    img_size: Size | None,
    weights: str | None = None,
    bn_momentum: float | None = None,
) -> nn.Module:
    """Make timm's feature extractor.

    Args:
        model: Name in timm.
        features: Name -> number in timm's ``feature_info``.
        img_size: Size of the images, for a model that takes only one.
        weights: Tag of pretrained weights; None: random ones.
        bn_momentum: Momentum of all batch normalisations; None: timm's.

    Raises:
        ShapeError: timm is not installed, does not have the model, or the model not these features.
    """
    timm = _timm()
    known = timm.list_models()
    if model not in known:
        raise ShapeError(f"timm has no model '{model}'{suggest(model, known)}")
    levels = sorted(set(features.values()))
    name = model if weights is None else f"{model}.{weights}"
    try:
        return make_encoder(name, levels, img_size=img_size, pretrained=weights is not None, bn_momentum=bn_momentum)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as error:
        with torch.device("meta"):
            count = len(getattr(timm.create_model(model), "feature_info", ()))
        if count <= levels[-1]:
            raise ShapeError(f"'{model}' has no feature {levels[-1]}; it has {count}, and the first is 0") from None
        raise ShapeError(f"timm makes no features of '{model}': {_first_line(error)}") from None


def make_encoder(
    model: str,
    levels: Sequence[int],
    *,
    img_size: Size | None = None,
    pretrained: bool = False,
    bn_momentum: float | None = None,
) -> nn.Module:
    """Make timm's feature extractor, which returns a list of features.

    Args:
        model: Name in timm; for pretrained weights with their tag.
        levels: Numbers of the features in timm's ``feature_info``, sorted.
        img_size: Size of the images, for a model that takes only one.
        pretrained: Whether timm loads the weights.
        bn_momentum: Momentum of all batch normalisations; None: timm's.
    """
    import timm

    options: dict[str, Any] = {} if img_size is None else {"img_size": tuple(img_size)}
    network: nn.Module = timm.create_model(
        model, pretrained=pretrained, features_only=True, out_indices=list(levels), **options
    )
    never_in_place(network)
    with_our_layers(network)
    if bn_momentum is not None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum
    return network


def _outline(model: str, features: Mapping[str, int], img_size: Size | None) -> nn.Module:
    network = outline_of(lambda: _network(model, features, img_size))
    return meta_copy(network, torch.float32)[0].eval()


def _run(model: str, network: nn.Module, size: Size) -> list[Tensor]:
    try:
        with torch.no_grad():
            found: list[Tensor] = network(torch.empty(1, 3, *size, device=META))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ShapeError(
            f"'{model}' cannot be run on an image of {size[0]} x {size[1]}: {_first_line(error)}; if it takes only one"
            " size, give 'img_size'"
        ) from None
    return [_channels_first(network, each) for each in found]


def measure_encoder(model: str, features: Mapping[str, int], img_size: Size | None, side: int) -> Measured:
    """Measure an encoder's features without computing values.

    Args:
        model: Name in timm.
        features: Name -> number in timm's ``feature_info``.
        img_size: The only size that the model takes; None: any size, or timm's default.
        side: Side of the image for a model that takes any size.

    Returns:
        (name, channels, stride) per feature, where a stride of None means 1 x 1; the number of parameters; nothing;
        the number that an image's height and width must be multiples of, so that each feature has ceil(size / stride)
        positions (1 if all sizes work).

    Raises:
        ShapeError: The model cannot be made or run, or a feature is not a map of a whole stride.
    """
    network = _outline(model, features, img_size)
    default: Mapping[str, Any] = getattr(network, "default_cfg", {})
    only = img_size or (tuple(default["input_size"][1:]) if default.get("fixed_input_size") else None)
    size: Size = only or (side, side)
    found, shapes = _run(model, network, size), []
    for name, place in _places(features).items():
        out = found[place]
        if out.dim() != 4:
            raise ShapeError(f"feature '{name}' of '{model}' is not a feature map but of shape {tuple(out.shape)}")
        step = None if out.shape[2] == out.shape[3] == 1 else round(size[0] / out.shape[2])
        if step is not None and tuple(out.shape[2:]) != tuple(-(-each // step) for each in size):
            raise ShapeError(
                f"feature '{name}' of '{model}' has {out.shape[2]} x {out.shape[3]} positions for an image of"
                f" {size[0]} x {size[1]}, which is not a whole stride"
            )
        shapes.append((name, out.shape[1], step))
    params = sum(parameter.numel() for parameter in network.parameters())
    steps = {name: step for name, _, step in shapes if step is not None}
    multiple = 1
    if only is None and not _rounds_up(model, network, features, steps, size[0] + 1):
        multiple = math.lcm(*steps.values())
    return tuple(shapes), params, (), multiple


def _rounds_up(
    model: str, network: nn.Module, features: Mapping[str, int], steps: Mapping[str, int], side: int
) -> bool:
    """Whether each feature of an image of ``side`` x ``side`` has side / stride positions, rounded up."""
    try:
        odd = _run(model, network, (side, side))
    except ShapeError:  # it takes only multiples
        return False
    places = _places(features)
    return all(tuple(odd[places[name]].shape[2:]) == (-(-side // step),) * 2 for name, step in steps.items())


def count_macs(model: str, features: Mapping[str, int], img_size: Size | None, size: Size) -> int:
    """Return the multiply-accumulates for one image of a size, without computing values.

    Raises:
        ShapeError: The model cannot be run on it.
    """
    network = _outline(model, features, img_size)
    with CountMacs() as counter:
        _run(model, network, size)
    return int(counter.total)


@builds_node(TimmBackbone)
def build_encoder(rule: TimmBackbone, x: Shape) -> nn.Module:
    """Build the feature extractor, with random weights; see :func:`load_encoder`."""
    network = _network(rule.model, rule.features, rule.img_size, bn_momentum=rule.bn_momentum)
    return TimmEncoder(network, rule.features, rule.multiple, rule.strides)


def load_encoder(rule: TimmBackbone, encoder: nn.Module) -> None:
    """Load the pretrained weights that a graph names into an encoder.

    timm downloads them if they are not in its cache yet.

    Args:
        rule: The op, with the tag of the weights.
        encoder: What :func:`build_encoder` made, on any device.

    Raises:
        TrainingError: The weights cannot be loaded.
    """
    timm = _timm()
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{rule.model}.*")]
    if rule.weights not in tags:
        known = f" ({', '.join(tags)})" if tags else ""
        raise TrainingError(
            f"timm has no weights '{rule.weights}' of '{rule.model}'{known}; give another tag, or set 'weights: null'"
        )
    tell(f"loading timm's weights '{rule.weights}' of '{rule.model}', which are downloaded once")
    try:
        with torch.random.fork_rng(devices=[]):  # timm draws random weights before it loads
            donor = _network(rule.model, rule.features, rule.img_size, rule.weights)
    except Exception as error:  # whatever a download raises
        raise TrainingError(
            f"cannot load the weights '{rule.weights}' of '{rule.model}': {_first_line(error)}; try again with a"
            " network connection, or set 'weights: null'"
        ) from None
    encoder.get_submodule("network").load_state_dict(donor.state_dict())
