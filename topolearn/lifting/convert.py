"""``lift``: a torchvision network as a network over a graph, computing the same."""

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
"""Height and width of the graph's input where none is given: what torchvision's networks were made for."""
TOLERANCE = 1e-5
"""Largest difference between the outputs of the two networks, over the largest output."""
_PROBE = 64
"""Largest height and width of the images on which the two are compared."""

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

    ResNet, ResNeXt, Wide-ResNet and RegNet (activation after the addition) become, for each block, a node for
    its branch F and one for its sum ``relu(x + w F(x))``: w is learnable, 1 at the start, and longer edges
    from earlier sums of the stage are learnable, 0 at the start. MobileNetV2 (nothing after the
    addition) becomes complete stages of branches without shortcuts, every edge learnable, 1 at the start.
    Stages end in a node by the name that torchvision gives the stage (MobileNetV2: ``stage1`` …), so that
    :func:`topolearn.features` finds its feature map however much is pruned.

    Args:
        model: A torchvision network, which stays as it is, or the name of one (``resnet50``).
        weights: None: those that ``model`` holds, random ones for a name. The name of torchvision's
            pretrained weights (``DEFAULT``, ``IMAGENET1K_V2``), for a network by name. Or a file in
            torchvision's layout: .safetensors, or a state dict that torch.save wrote.
        size: Height and width of the graph's input, 224 where not given: the reference for costs. The
            network takes other sizes too.
        classes: Of a network by name, 1000 where not given. A last layer that the weights hold for
            another number starts anew.

    Returns:
        A network in the mode (training or eval), precision and device of ``model``; its ``graph`` can be
        searched, pruned, trained (all of its parameters) and exported.

    Raises:
        LiftError: Something that has no place in a graph: which module, and why; or outputs that differ.
        CheckpointError: A file of weights that cannot be read or does not fit.
        OptionError: An option that makes no sense.
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
    """The graph of a torchvision network, and where its tensors go.

    Raises:
        LiftError: It cannot be lifted.
    """
    source = Source(model)
    read = _READERS.get(type(model))
    if read is None:
        own = type(model).__module__.startswith(f"{models.__name__}.")
        inner = unwrapped(model)
        if type(inner) in _READERS:
            raise refusal("", model, f"it wraps a {type(inner).__name__}; give that network itself")
        raise refusal("", model, NO_GRAPH if own else "it is none of torchvision's own networks")
    draft = Draft(source, name, image)
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is None:
        raise refusal("", model, "it has no convolution")
    draft.node(IMAGE, "input", {"size": (first.in_channels, *image)})
    read(draft)
    source.finish()
    return draft


def build(draft: Draft) -> Network:
    """The network of an outline, with the weights of its source; compared with it.

    Raises:
        LiftError: The two are not the same.
    """
    source = draft.source
    device, dtype = source.common()
    with torch.random.fork_rng(devices=[]):  # nothing random stays in it
        net = Network(draft.graph())
    check_settings(draft, net)
    net.to(device=device, dtype=dtype)
    draft.transfer(net)
    _compare(source.model, net, draft.image)
    return net.train(source.model.training)


def check_settings(draft: Draft, net: Network) -> None:
    """Raise a LiftError unless every module of ours is set as the one that it stands for."""
    for theirs, ours in draft.places.items():
        draft.source.check_settings(theirs, net.get_submodule(ours))


def _compare(model: nn.Module, net: Network, image: Size) -> None:
    """Raise a LiftError unless both give the same in eval mode, on random images of at most 64 x 64."""
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
                "cannot lift this network: its weights are finite, but what it gives of random images is not; train it"
                " first"
            )
        raise LiftError(
            "cannot lift this network: it gives values that are not finite; give it trained weights (those of"
            f" '{name}' are not finite)"
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
    """Eval mode while entered; then every module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _image(size: Any) -> Size:
    """Height and width."""
    if size is None:
        return (SIZE, SIZE)
    pair = (size, size) if type(size) is int else size
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(type(n) is int and n > 0 for n in pair):
        raise OptionError(f"'size' is {shown(size)}, but it should be a number of pixels, or height and width")
    return (pair[0], pair[1])
