"""The backbone module: a torchvision model without its head that returns named features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from topolearn.compiler.modules.base import BatchNorm, Conv2d, builds_node
from topolearn.errors import TrainingError, suggest
from topolearn.ops import Shape, ShapeError
from topolearn.ops.backbone import TorchvisionBackbone


def _extractor(model: str, features: Mapping[str, str], *, pretrained: bool = False) -> fx.GraphModule:
    """Make the feature extractor, with random weights.

    Args:
        model: Name in torchvision.
        features: Name -> place in the model.
        pretrained: Whether pretrained weights will be loaded. GoogLeNet's and Inception's were trained on images with
            another normalisation, so these networks then convert their input first.

    Raises:
        ShapeError: Torchvision does not have the model, or the model not these features.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if model not in known:
        raise ShapeError(f"torchvision has no classifier '{model}'{suggest(model, known)}")
    try:
        return make_backbone(model, features, pretrained=pretrained)
    except ValueError as error:
        missing = [place for place in features.values() if f"'{place}'" in str(error)] or list(features.values())
        raise ShapeError(f"'{model}' has no place '{missing[0]}' to take a feature from") from None


def make_backbone(
    model: str,
    features: Mapping[str, str],
    *,
    pretrained: bool = False,
    multiple: int = 1,
    strides: Mapping[str, int | None] | None = None,
    bn_momentum: float | None = None,
) -> fx.GraphModule:
    """Make the feature extractor of a torchvision model, with random weights.

    Args:
        model: Name in torchvision.
        features: Name -> place in the model.
        pretrained: Whether pretrained weights will be loaded; some models then convert their input first.
        multiple: What the height and width of images are padded to a multiple of, inside.
        strides: Name -> stride of the feature, if images are padded.
        bn_momentum: Momentum of all batch normalisations; None: torchvision's.
    """
    from torchvision import models, ops
    from torchvision.models.feature_extraction import create_feature_extractor

    network = models.get_model(model, weights=None)
    if hasattr(network, "transform_input"):
        network.transform_input = pretrained
    for module in network.modules():
        if isinstance(module, ops.Conv2dNormActivation):  # the tracer would not look into this Sequential
            module.__class__ = nn.Sequential  # a feature may be its normalisation, before the activation
    places = {place: name for name, place in features.items()}
    # Nobody takes a feature at a name that only the training graph has, so torchvision's warning is useless.
    extractor: fx.GraphModule = create_feature_extractor(network, return_nodes=places, suppress_diff_warning=True)
    _never_in_place(extractor)
    with_our_layers(extractor)
    if bn_momentum is not None:
        for module in extractor.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum
    if multiple > 1 and strides is not None:
        _take_any_size(extractor, multiple, strides)
    return extractor


def with_our_layers(network: nn.Module) -> None:
    """Make plain convolutions and batch normalisations those of other nodes, which compute the same."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            module.__class__ = Conv2d


def _never_in_place(extractor: Any) -> None:
    """Make activations work out of place, so that they do not overwrite a feature before them."""
    for module in extractor.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False
    for graph in (extractor.train_graph, extractor.eval_graph):
        for node in graph.nodes:
            if node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}
    extractor.recompile()


def padded(image: Tensor, multiple: int) -> Tensor:
    """Pad (N, 3, H, W) images with zeros right and below, so that H and W are multiples of ``multiple``."""
    height, width = image.shape[-2:]
    return F.pad(
        image, (0, _steps(width, multiple) * multiple - width, 0, _steps(height, multiple) * multiple - height)
    )


def cut(feature: Tensor, image: Tensor, stride: int) -> Tensor:
    """Cut a feature of padded images to the ceil(H / stride) x ceil(W / stride) positions of the images themselves.

    Args:
        feature: (N, C, h, w) feature of the padded images.
        image: (N, 3, H, W) images before padding.
        stride: Stride of the feature.
    """
    return feature[..., : _steps(image.shape[-2], stride), : _steps(image.shape[-1], stride)]


def _steps(size: int, stride: int) -> int:
    # Not -(-size // stride): an exported file rounds negative quotients towards 0.
    return (size + stride - 1) // stride


def _take_any_size(extractor: Any, multiple: int, strides: Mapping[str, int | None]) -> None:
    """Change a network that rounds sizes down so that the sizes of its features are rounded up, as in a graph."""
    for graph in (extractor.train_graph, extractor.eval_graph):
        (image,) = (node for node in graph.nodes if node.op == "placeholder")
        (end,) = (node for node in graph.nodes if node.op == "output")
        with graph.inserting_after(image):
            whole = graph.call_function(padded, (image, multiple))
        image.replace_all_uses_with(whole, delete_user_cb=lambda user, whole=whole: user is not whole)
        with graph.inserting_before(end):
            features = {
                name: feature if strides[name] is None else graph.call_function(cut, (feature, image, strides[name]))
                for name, feature in end.args[0].items()
            }
        end.args = (features,)
    extractor.recompile()


def measure(
    model: str, features: Mapping[str, str], side: int
) -> tuple[tuple[tuple[str, int, int | None], ...], int, tuple[tuple[int, int | None], ...], int]:
    """Measure a backbone's features and costs on fake images with sides ``side`` and ``side + 1``.

    Returns:
        (name, channels, stride) per feature; the number of parameters; (multiply-accumulates of one
        output position, stride) per convolution and linear layer; the number that an image's height and
        width must be multiples of, so that each feature has ceil(size / stride) positions (1 if all sizes work).
        A stride of None means 1 x 1.

    Raises:
        ShapeError: The model cannot run on these images, or a feature is not a map of a whole stride.
    """
    layers: list[tuple[int, int | None]] = []
    hooks = []

    def stride(positions: int) -> int | None:
        return None if positions == 1 else round(side / positions)

    def record(module: nn.Module, _: Any, out: Tensor) -> None:
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        assert module.weight is not None
        rows = out.shape[-2] if isinstance(module, nn.Conv2d) else out.shape[1] if out.dim() == 4 else 1
        layers.append((module.weight.numel(), stride(rows)))

    with torch.device("meta"), torch.no_grad():
        network = _extractor(model, features).eval()
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                hooks.append(module.register_forward_hook(record))
        outputs = _run(model, network, side)
        for hook in hooks:
            hook.remove()
        # A power of 2 plus one is odd at every halving.
        odd = _run(model, network, side + 1)
    shapes: list[tuple[str, int, int | None]] = []
    for name in features:
        out = outputs[name]
        if not isinstance(out, Tensor) or out.dim() != 4:
            what = f"of shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise ShapeError(f"feature '{name}' of '{model}' is not a feature map but {what}")
        height, width = out.shape[-2:]
        step = stride(height)
        if not height == width == (1 if step is None else -(-side // step)):
            raise ShapeError(
                f"feature '{name}' of '{model}' has {height} x {width} positions for an image of {side} x {side},"
                " which is not a whole stride"
            )
        shapes.append((name, out.shape[1], step))
    rounds_up = all(
        step is None or tuple(odd[name].shape[-2:]) == (-(-(side + 1) // step),) * 2 for name, _, step in shapes
    )
    multiple = 1 if rounds_up else math.lcm(*(step for _, _, step in shapes if step is not None))
    return tuple(shapes), sum(p.numel() for p in network.parameters()), tuple(layers), multiple


def _run(model: str, network: Any, side: int) -> Mapping[str, Any]:
    try:
        # Not network(…), which prints the place of the failure.
        outputs: Mapping[str, Any] = network.forward(torch.empty(1, 3, side, side))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ShapeError(f"'{model}' cannot be run on an image of {side} x {side}: {error}") from None
    return outputs


def hub_file(model: str, weights: str) -> Path | None:
    """Return the file where torch looks for these weights before a download; None if there are no such weights."""
    from torchvision import models

    try:
        url = models.get_model_weights(model)[weights].url
    except (KeyError, ValueError):
        return None
    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlsplit(url).path).name)


@builds_node(TorchvisionBackbone)
def build_backbone(rule: TorchvisionBackbone, x: Shape) -> nn.Module:
    """Build the feature extractor, with random weights; see :func:`load_pretrained`."""
    return make_backbone(rule.model, rule.features, **backbone_options(rule))


def backbone_options(rule: TorchvisionBackbone) -> dict[str, Any]:
    """Return what :func:`make_backbone` takes for an op; what is at its default is left out."""
    options: dict[str, Any] = {}
    if rule.weights is not None:
        options["pretrained"] = True
    if rule.multiple > 1:
        options |= {"multiple": rule.multiple, "strides": dict(rule.strides)}
    if rule.bn_momentum is not None:
        options["bn_momentum"] = rule.bn_momentum
    return options


def load_pretrained(rule: TorchvisionBackbone, network: nn.Module) -> None:
    """Load the pretrained weights that a graph names into a backbone.

    Torchvision downloads them if they are not in its folder yet.

    Args:
        rule: The op, with the name of the weights.
        network: The feature extractor that :func:`build_backbone` made, on any device.

    Raises:
        TrainingError: The weights cannot be loaded.
    """
    from torchvision import models

    assert rule.weights is not None
    try:
        with torch.random.fork_rng(devices=[]):  # torchvision draws random weights before it loads
            donor = models.get_model(rule.model, weights=rule.weights).state_dict()
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        file = hub_file(rule.model, rule.weights)
        mend = "give another name" if file is None else f"save the file as '{file}', give another name"
        raise TrainingError(
            f"cannot load the weights '{rule.weights}' of '{rule.model}': {error}; {mend}, or set 'weights: null'"
        ) from None
    network.load_state_dict({name: donor[name] for name in network.state_dict()})
