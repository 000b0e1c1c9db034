"""``lift``: turns a torchvision network into a network over a graph that computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models
from torchvision.models import MobileNetV2, RegNet, ResNet, WeightsEnum

from topolearn.compiler import Network
from topolearn.compiler.finite import not_finite
from topolearn.compiler.network import unwrapped
from topolearn.errors import LiftError, OptionError, shown
from topolearn.lifting.draft import IMAGE, Draft
from topolearn.lifting.mobilenets import read_mobilenetv2
from topolearn.lifting.pretrained import by_name, load_file
from topolearn.lifting.regnets import read_regnet
from topolearn.lifting.resnets import read_resnet
from topolearn.lifting.source import NO_GRAPH, Source, refusal
from topolearn.ops.shape import Size

SIZE = 224
"""Default height and width of the graph's input: the size that torchvision's networks were made for."""
TOLERANCE = 1e-5
"""Largest difference between the outputs of the two networks, divided by the largest output."""
_PROBE = 64
"""Largest height and width of the images that the two networks are compared on."""

_READERS: dict[type[nn.Module], Callable[[Draft], None]] = {
    MobileNetV2: read_mobilenetv2,
    RegNet: read_regnet,
    ResNet: read_resnet,
}


def lift(
    model: nn.Module | str,
    weights: str | Path | WeightsEnum | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    classes: int | None = None,
) -> Network:
    """Turn a torchvision network into a network over a graph that computes the same, with its weights.

    ResNet, ResNeXt, Wide-ResNet and RegNet have an activation after each addition. Each of their blocks becomes a node
    for its branch F and a node for its sum ``relu(x + w F(x))``. The edge weight w is learnable and starts at 1; longer
    edges from earlier sums of the stage are learnable and start at 0. MobileNetV2 has nothing after the addition. Its
    stages become complete stages of branches without shortcuts; every edge is learnable and starts at 1.
    Each stage ends in a node with torchvision's name of the stage (MobileNetV2: ``stage1`` …). So
    :func:`topolearn.features` finds the feature map even in a pruned network.

    Args:
        model: A torchvision network, which is not changed, or the name of one (``resnet50``).
        weights: None: the weights that ``model`` holds, or random ones for a name. For a name: the name of
            torchvision's pretrained weights (``DEFAULT``, ``IMAGENET1K_V2``). Or a file in torchvision's layout:
            .safetensors, or a state dict that torch.save wrote.
        size: Height and width of the graph's input, the reference for costs; default 224. The network takes other
            sizes too.
        classes: Number of classes of a network by name; default 1000. If the weights have another number of classes,
            the last layer starts from random weights.

    Returns:
        A network in the mode (training or eval), precision and device of ``model``; its ``graph`` can be
        searched, pruned, trained (all of its parameters) and exported.

    Raises:
        LiftError: A module has no place in a graph (the error says which and why), or the outputs differ.
        CheckpointError: A file of weights cannot be read or does not fit.
        OptionError: An option makes no sense.
    """
    image = _image(size)
    about: dict[str, Any] = {}
    if isinstance(model, str):
        source, about = by_name(model, weights, classes)
        name = model
    else:
        if classes is not None:
            raise OptionError("'classes' is for a network by name; give the model another last layer instead")
        source, name = model, type(model).__name__.lower()
        if weights is not None:
            outline(source, name, image)  # before what cannot be lifted is copied
            source = copy.deepcopy(source)
            load_file(source, weights)
    draft = outline(source, name, image)
    net = build(draft)
    net.about = about
    return net


def outline(model: nn.Module, name: str, image: Size) -> Draft:
    """Read the graph of a torchvision network, and where its tensors go.

    Raises:
        LiftError: The network cannot be lifted.
    """
    source = Source(model)
    read = _READERS.get(type(model))
    if read is None:
        own = type(model).__module__.startswith(f"{models.__name__}.")
        inner = unwrapped(model)
        if type(inner) in _READERS:
            raise refusal("", model, f"it wraps a {type(inner).__name__}; give that network itself")
        raise refusal("", model, NO_GRAPH if own else "it is not one of torchvision's own networks")
    draft = Draft(source, name, image)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise refusal("", model, "it has no convolution")
    draft.node(IMAGE, "input", {"size": (first.in_channels, *image)})
    read(draft)
    source.finish()
    return draft


def build(draft: Draft) -> Network:
    """Build the network of an outline with its source's weights, and compare the two.

    Raises:
        LiftError: The two networks differ.
    """
    source = draft.source
    device, dtype = source.common()
    with torch.random.fork_rng(devices=[]):  # all random weights are overwritten
        net = Network(draft.graph())
    check_settings(draft, net)
    net.to(device=device, dtype=dtype)
    draft.transfer(net)
    _compare(source.model, net, draft.image)
    return net.train(source.model.training)


def check_settings(draft: Draft, net: Network) -> None:
    """Raise a LiftError unless every module of ours has the settings of its counterpart."""
    for theirs, ours in draft.places.items():
        draft.source.check_settings(theirs, net.get_submodule(ours))


def _compare(model: nn.Module, net: Network, image: Size) -> None:
    """Raise a LiftError unless both compute the same in eval mode, on random images of at most 64 x 64."""
    first = next(net.parameters())
    channels = net.graph.input_size(IMAGE)[0]
    numbers = torch.Generator().manual_seed(0)
    images = torch.randn(2, channels, *(min(side, _PROBE) for side in image), generator=numbers)
    images = images.to(device=first.device, dtype=first.dtype)
    with torch.no_grad(), _evaluating(model), _evaluating(net):
        theirs, ours = model(images).double(), net(images).double()
    largest, difference = float(theirs.abs().max()), float((ours - theirs).abs().max())
    if not largest < float("inf"):
        name = not_finite(model)
        if name is None:
            raise LiftError(
                "cannot lift this network: its weights are finite, but its outputs for random images are not; train it"
                " first"
            )
        raise LiftError(
            f"cannot lift this network: its outputs hold values that are not finite, and so does '{name}'; give it"
            " trained weights"
        )
    tolerance = max(TOLERANCE, 4 * torch.finfo(first.dtype).eps)
    if not difference <= tolerance * largest:
        raise LiftError(
            f"cannot lift this network: what it computes differs from its graph by {difference / (largest or 1.0):.2g}"
            " of the largest output; is its forward pass torchvision's own?",
            module="",
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode while entered, then restore every module's mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _image(size: Any) -> Size:
    """Check ``size`` and return height and width."""
    if size is None:
        return (SIZE, SIZE)
    pair = (size, size) if type(size) is int else size
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
        raise OptionError(f"'size' is {shown(size)}, but it should be a number of pixels, or height and width")
    return (pair[0], pair[1])
