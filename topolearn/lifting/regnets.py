"""Reads torchvision's RegNet, X and Y."""

from __future__ import annotations

from torch import nn
from torchvision.models.regnet import AnyStage, BottleneckTransform, RegNet, ResBottleneckBlock, SimpleStemIN
from torchvision.ops.misc import Conv2dNormActivation, SqueezeExcitation

from topolearn.lifting.draft import IMAGE, Block, Draft, node_id
from topolearn.lifting.module_reader import ModuleReader, refusal
from topolearn.lifting.resnets import read_global_pool, read_head

TRUNK = "trunk_output"


def read_regnet(draft: Draft) -> None:
    """Read stem, stages with the activation after each addition, and classifier into the draft."""
    source = draft.source
    source.take("", RegNet)
    source.take("stem", SimpleStemIN)
    conv, norm = read_unit(source, "stem", nn.ReLU)
    x = draft.after(
        IMAGE, "stem", "conv_bn_relu", out_channels=norm.num_features, kernel=conv.kernel_size[0], stride=conv.stride[0]
    )
    draft.place("nodes.stem", "stem", **unit_parts(source, "stem"))
    source.take(TRUNK, nn.Sequential)
    for name in source.children(TRUNK):
        path = f"{TRUNK}.{name}"
        source.take(path, AnyStage)
        blocks = [_block(draft, f"{path}.{child}", node_id(child)) for child in source.children(path)]
        x = draft.residual_stage(node_id(name), x, blocks)
    read_head(draft, x)


def read_unit(
    source: ModuleReader, path: str, activation: type[nn.Module] | None = None
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Take the parts of a ``Conv2dNormActivation``, which itself is taken already."""
    rest = () if activation is None else (activation,)
    conv, norm, *_ = source.take_children(path, nn.Conv2d, nn.BatchNorm2d, *rest)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return conv, norm


def unit_parts(source: ModuleReader, path: str) -> dict[str, str]:
    """Return the names of a unit's convolution and batch normalisation."""
    conv, norm, *_ = source.children(path)
    return {"conv": conv, "bn": norm}


def _block(draft: Draft, path: str, name: str) -> Block:
    source = draft.source
    block = source.take(path, ResBottleneckBlock)
    source.take(f"{path}.activation", nn.ReLU)
    transform, parts = source.take(f"{path}.f", BottleneckTransform), source.children(f"{path}.f")
    if parts not in (["a", "b", "c"], ["a", "b", "se", "c"]):
        raise refusal(f"{path}.f", transform, f"its parts are {', '.join(parts)}, not a, b, se (or none) and c")
    params: dict[str, int] = {}
    for place, part in enumerate(parts):
        inner, ours = f"{path}.f.{part}", f"nodes.{name}.layers.{place}"
        if part == "se":
            params["squeeze"] = _squeeze(source, inner)
            draft.place(ours, inner, reduce="fc1", expand="fc2")
            continue
        source.take(inner, Conv2dNormActivation)
        conv, norm = read_unit(source, inner, None if part == "c" else nn.ReLU)
        draft.place(ours, inner, **unit_parts(source, inner))
        if part == "b":
            params |= {"width": norm.num_features, "groups": conv.groups}
            params |= {"stride": conv.stride[0], "dilation": conv.dilation[0]}
        params["channels"] = norm.num_features  # the last part's value stays
    shortcut = None
    if block.proj is not None:
        source.take(f"{path}.proj", Conv2dNormActivation)
        read_unit(source, f"{path}.proj")
        unit = unit_parts(source, f"{path}.proj")
        shortcut = (f"{path}.proj.{unit['conv']}", f"{path}.proj.{unit['bn']}")
    return Block(name, "resnet.bottleneck_branch", params, shortcut)


def _squeeze(source: ModuleReader, path: str) -> int:
    """Take a squeeze-and-excitation and return its inner channels."""
    source.take(path, SqueezeExcitation)
    read_global_pool(source, f"{path}.avgpool")
    reduce = source.take(f"{path}.fc1", nn.Conv2d)
    source.take(f"{path}.fc2", nn.Conv2d)
    source.take(f"{path}.activation", nn.ReLU)
    source.take(f"{path}.scale_activation", nn.Sigmoid)
    return reduce.out_channels
