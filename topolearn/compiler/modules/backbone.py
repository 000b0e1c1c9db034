"""A torchvision model without its head, giving named features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, fx, nn

from topolearn.compiler.modules.base import BatchNorm, Conv2d, builds_node
from topolearn.errors import TrainingError, suggest
from topolearn.ops import Shape
from topolearn.ops.backbone import TorchvisionBackbone

_load_weights: ContextVar[bool] = ContextVar("load_weights", default=True)


class BackboneError(ValueError):
    """A backbone that torchvision does not have, or not with these features."""


@contextmanager
def without_pretrained_weights() -> Iterator[None]:
    """Build backbones with random weights, because others will be loaded over them."""
    token = _load_weights.set(False)
    try:
        yield
    finally:
        _load_weights.reset(token)


def _extractor(model: str, features: Mapping[str, str], weights: str | None) -> fx.GraphModule:
    from torchvision import models, ops
    from torchvision.models.feature_extraction import create_feature_extractor

    known = models.list_models(module=models)
    if model not in known:
        raise BackboneError(f"torchvision has no classifier '{model}'{suggest(model, known)}")
    network = models.get_model(model, weights=weights)
    for module in network.modules():
        if isinstance(module, ops.Conv2dNormActivation):  # a Sequential that the tracer would not look into
            module.__class__ = nn.Sequential  # a feature may be its normalisation, before the activation
    places = {place: name for name, place in features.items()}
    try:
        # Names that only the training graph has are no places of ours: torchvision's warning would help nobody.
        extractor: fx.GraphModule = create_feature_extractor(network, return_nodes=places, suppress_diff_warning=True)
    except ValueError as error:
        missing = [place for place in features.values() if f"'{place}'" in str(error)] or list(features.values())
        raise BackboneError(f"'{model}' has no place '{missing[0]}' to take a feature from") from None
    _never_in_place(extractor)
    for module in extractor.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            module.__class__ = Conv2d
    return extractor


def _never_in_place(extractor: Any) -> None:
    """A feature taken before an activation must not be overwritten by it."""
    for module in extractor.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False
    for graph in (extractor.train_graph, extractor.eval_graph):
        for node in graph.nodes:
            if node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}
    extractor.recompile()


def measure(
    model: str, features: Mapping[str, str], side: int
) -> tuple[tuple[tuple[str, int, int | None], ...], int, tuple[tuple[int, int | None], ...]]:
    """What a backbone gives and costs, found by running it on a fake image of ``side`` x ``side``.

    Returns:
        (name, channels, stride) per feature; the number of parameters; (multiply-accumulates of one
        output position, stride) per convolution and linear layer. A stride of None means 1 x 1.

    Raises:
        BackboneError: It cannot be run on images of any size, or a feature is no map of a whole stride.
    """
    layers: list[tuple[int, int | None]] = []

    def stride(positions: int) -> int | None:
        return None if positions == 1 else round(side / positions)

    def record(module: nn.Module, _: Any, out: Tensor) -> None:
        assert isinstance(module, (nn.Conv2d, nn.Linear))
        assert module.weight is not None
        rows = out.shape[-2] if isinstance(module, nn.Conv2d) else out.shape[1] if out.dim() == 4 else 1
        layers.append((module.weight.numel(), stride(rows)))

    with torch.device("meta"), torch.no_grad():
        network = _extractor(model, features, None).eval()
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(record)
        try:
            # Not network(…), which prints where it failed.
            outputs = network.forward(torch.empty(1, 3, side, side))
        except (AssertionError, RuntimeError, ValueError) as error:
            raise BackboneError(f"'{model}' cannot be run on an image of {side} x {side}: {error}") from None
    shapes = []
    for name in features:
        out = outputs[name]
        if not isinstance(out, Tensor) or out.dim() != 4:
            what = f"of shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise BackboneError(f"feature '{name}' of '{model}' is no feature map but {what}")
        height, width = out.shape[-2:]
        step = stride(height)
        if not height == width == (1 if step is None else -(-side // step)):
            raise BackboneError(
                f"feature '{name}' of '{model}' has {height} x {width} positions for an image of {side} x {side},"
                " which is not a whole stride"
            )
        shapes.append((name, out.shape[1], step))
    return tuple(shapes), sum(p.numel() for p in network.parameters()), tuple(layers)


def hub_file(model: str, weights: str) -> Path | None:
    """Where torch looks for torchvision's weights of that name before it downloads them; None if there are none."""
    from torchvision import models

    try:
        url = models.get_model_weights(model)[weights].url
    except (KeyError, ValueError):
        return None
    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlsplit(url).path).name)


@builds_node(TorchvisionBackbone)
def build_backbone(rule: TorchvisionBackbone, x: Shape) -> nn.Module:
    """The feature extractor, with pretrained weights where the graph names some.

    Raises:
        TrainingError: The weights could not be loaded.
    """
    weights = rule.weights if _load_weights.get() else None
    try:
        network = _extractor(rule.model, rule.features, weights)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if weights is None:
            raise
        file = hub_file(rule.model, weights)
        mend = "give another name" if file is None else f"put the file there, '{file}', give another name"
        raise TrainingError(
            f"cannot load the weights '{weights}' of '{rule.model}': {error}; {mend}, or 'weights: null'"
        ) from None
    if rule.bn_momentum is not None:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = rule.bn_momentum
    return network
