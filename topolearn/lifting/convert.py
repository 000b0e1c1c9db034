"""``lift``: turns any network into a network over a graph that computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import MobileNetV2, RegNet, ResNet, WeightsEnum

from topolearn.compiler import Network
from topolearn.compiler.modules.part import reading_size
from topolearn.compiler.network import unwrapped
from topolearn.errors import LiftError, OptionError, shown
from topolearn.graph import Source
from topolearn.lifting.draft import IMAGE, Draft
from topolearn.lifting.equal_outputs import compare
from topolearn.lifting.mobilenets import read_mobilenetv2
from topolearn.lifting.module_reader import ModuleReader
from topolearn.lifting.parts import lift_parts
from topolearn.lifting.pretrained import by_name, load_file, own_size
from topolearn.lifting.readable import input_size, pair_of, refuse_unreadable
from topolearn.lifting.regnets import read_regnet
from topolearn.lifting.resnets import read_resnet
from topolearn.lifting.sources import source_of, with_source
from topolearn.ops.shape import Size
from topolearn.tracing.opened import Opened

_PROBE = 64
"""Largest height and width of the images that the two networks are compared on."""

_READERS: dict[type[nn.Module], Callable[[Draft], None]] = {
    MobileNetV2: read_mobilenetv2,
    RegNet: read_regnet,
    ResNet: read_resnet,
}


@torch.inference_mode(mode=False)
def lift(
    model: nn.Module | str,
    weights: str | Path | WeightsEnum | None = None,
    *,
    example: Tensor | None = None,
    size: int | tuple[int, int] | None = None,
    classes: int | None = None,
    blocks: Sequence[str] | None = None,
) -> Network:
    """Turn any network into a network over a graph that computes the same, with its weights.

    Each residual branch F of the network becomes a learnable edge at weight 1: ``x + w F(x)``. So does each block whose
    output has the shape of its input, beside an edge around it at 0. Longer edges between sums of one shape are
    learnable and start at 0. All else stays together as nodes of op ``part``, which hold copies of the network's own
    modules.

    torchvision's ResNet, ResNeXt, Wide-ResNet, RegNet and MobileNetV2 become graphs of ordinary nodes, which anybody
    can read and load. Each of their stages ends in a node with torchvision's name of the stage (MobileNetV2:
    ``stage1`` …). So :func:`topolearn.features` finds the feature map even in a pruned network.

    Args:
        model: A network that takes one tensor and returns one; it is not changed. Or the name of one: torchvision's
            (``resnet50``) or timm's (``timm:convnext_tiny``).
        weights: None: the weights that ``model`` holds, or random ones for a name. For a name: the name of
            torchvision's pretrained weights (``DEFAULT``, ``IMAGENET1K_V2``). Or a file in the network's own layout:
            .safetensors, or a state dict that torch.save wrote.
        example: An input of the network, with a batch axis. Only its shape is read; it sets the graph's input.
        size: Height and width of the graph's input, the reference for costs, instead of ``example``; default 224, and
            timm's own size for its networks. Most convolutional networks take other sizes too; a vision transformer by
            name is built for this one.
        classes: Number of classes of a network by name; default: the library's. If the weights have another number of
            classes, the last layer starts from random weights.
        blocks: Paths of modules that are taken as a whole, such as ``["stage2.gate"]``: modules whose forward pass
            depends on values, or which you want to remove as one block. Each is called once, and takes and returns one
            tensor. The network must run on random images.

    Returns:
        A network in the mode (training or eval), precision and device of ``model``; its ``graph`` can be
        searched, pruned, trained (all of its parameters) and exported.

    Raises:
        LiftError: The network cannot be lifted (the error says which module and why), or the outputs differ.
        CheckpointError: A file of weights cannot be read or does not fit.
        OptionError: An option makes no sense.
    """
    about: dict[str, Any] = {}
    origin: Source | None = None
    if isinstance(model, str):
        net, about, origin = by_name(model, weights, classes, None if size is None else pair_of(size))
        size = own_size(model) if size is None and example is None else size
        name = model.rpartition(":")[2]
    else:
        if classes is not None:
            raise OptionError("'classes' is for a network by name; give the model another last layer instead")
        net = unwrapped(model)
        if isinstance(net, Network):
            raise OptionError("this network is a graph already; use it as it is, or lift what topolearn.unlift gives")
        name = type(net).__name__.lower()
    refuse_unreadable(net)
    if weights is not None and not isinstance(model, str):
        net = copy.deepcopy(net)
        load_file(net, weights)
    shape = input_size(net, example, size)
    marked = _paths(blocks)
    lifted = None if marked else _as_nodes(net, name, shape, origin)
    if lifted is None:
        lifted = lift_parts(net, name, shape, origin, marked)
    lifted.about = about
    return lifted


def _paths(blocks: Any) -> tuple[str, ...]:
    """Check ``blocks`` and return it as a tuple."""
    if blocks is None:
        return ()
    if isinstance(blocks, str) or not isinstance(blocks, Sequence) or not all(isinstance(path, str) for path in blocks):
        raise OptionError(f"'blocks' is {shown(blocks)}, but it should be a list of module paths, as ['stage2.gate']")
    return tuple(sorted(set(blocks)))


def _as_nodes(model: nn.Module, name: str, shape: tuple[int, ...], origin: Source | None) -> Network | None:
    """Lift one of torchvision's own networks to ordinary nodes; None if it is another network, or has been changed."""
    if type(model) not in _READERS or len(shape) != 3:
        return None
    try:
        net = build(outline(model, name, shape[1:]))
        opened = Opened(lambda: model, model, reading_size(net.graph))
    except LiftError:
        return None
    net.graph = with_source(net.graph, source_of(model, opened, origin), model)
    return net


def outline(model: nn.Module, name: str, image: Size) -> Draft:
    """Read the graph of one of torchvision's own networks, and where its tensors go.

    Raises:
        LiftError: A module in it is not torchvision's own.
    """
    source = ModuleReader(model)
    draft = Draft(source, name, image)
    draft.node(IMAGE, "input", {"size": (_channels(model), *image)})
    _READERS[type(model)](draft)
    source.finish()
    return draft


def _channels(model: nn.Module) -> int:
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels


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
    compare(source.model, net, (_channels(source.model), *(min(side, _PROBE) for side in draft.image)))
    return net.train(source.model.training)


def check_settings(draft: Draft, net: Network) -> None:
    """Raise a LiftError unless every module of ours has the settings of its counterpart."""
    for theirs, ours in draft.places.items():
        draft.source.check_settings(theirs, net.get_submodule(ours))
