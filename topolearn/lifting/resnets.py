"""Reads torchvision's ResNet, ResNeXt and Wide-ResNet."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from topolearn.lifting.draft import IMAGE, Block, Draft, node_id
from topolearn.lifting.module_reader import ModuleReader, refusal

STAGES = ("layer1", "layer2", "layer3", "layer4")


def read_resnet(draft: Draft) -> None:
    """Read stem, four stages with the activation after each addition, and classifier into the draft.

    The stem may be changed for small images: another convolution, and an ``nn.Identity`` instead of ``maxpool``.
    """
    source = draft.source
    source.take("", ResNet)
    conv, norm = source.take("conv1", nn.Conv2d), source.take("bn1", nn.BatchNorm2d)
    source.take("relu", nn.ReLU)
    x = draft.after(
        IMAGE,
        "conv1",
        "conv_bn_relu",
        out_channels=norm.num_features,
        kernel=conv.kernel_size[0],
        stride=conv.stride[0],
    )
    draft.place("nodes.conv1", "", conv="conv1", bn="bn1")
    pool = source.take("maxpool", nn.MaxPool2d, nn.Identity)
    if isinstance(pool, nn.MaxPool2d):
        x = draft.after(x, "maxpool", "max_pool", kernel=_first(pool.kernel_size), stride=_first(pool.stride))
        draft.places["maxpool"] = "nodes.maxpool"
    for name in STAGES:
        source.take(name, nn.Sequential)
        x = draft.residual_stage(name, x, [_block(draft, f"{name}.{child}") for child in source.children(name)])
    read_head(draft, x)


def read_head(draft: Draft, x: str) -> None:
    """Read average pooling and the linear layer ``fc`` into the draft."""
    read_global_pool(draft.source, "avgpool")
    linear = draft.source.take("fc", nn.Linear)
    draft.after(x, "fc", "classifier", classes=linear.out_features)
    draft.places["fc"] = "nodes.fc.linear"


def read_global_pool(source: ModuleReader, path: str) -> None:
    """Take an average over all positions; it gets no node, because the op that uses it computes it."""
    pool = source.take(path, nn.AdaptiveAvgPool2d)
    if pool.output_size not in (1, (1, 1)):
        raise refusal(path, pool, f"its output_size is {pool.output_size}, but only 1 can be lifted")


def _block(draft: Draft, path: str) -> Block:
    source, name = draft.source, node_id(path)
    block = source.take(path, BasicBlock, Bottleneck)
    units = 2 if isinstance(block, BasicBlock) else 3
    convs = [source.take(f"{path}.conv{i + 1}", nn.Conv2d) for i in range(units)]
    norms = [source.take(f"{path}.bn{i + 1}", nn.BatchNorm2d) for i in range(units)]
    source.take(f"{path}.relu", nn.ReLU)
    for i in range(units):
        draft.place(f"nodes.{name}.layers.{i}", path, conv=f"conv{i + 1}", bn=f"bn{i + 1}")
    shortcut = None
    if block.downsample is not None:
        source.take(f"{path}.downsample", nn.Sequential)
        source.take_children(f"{path}.downsample", nn.Conv2d, nn.BatchNorm2d)
        first, second = source.children(f"{path}.downsample")
        shortcut = (f"{path}.downsample.{first}", f"{path}.downsample.{second}")
    channels = norms[-1].num_features
    if isinstance(block, BasicBlock):
        params = {"channels": channels, "stride": convs[0].stride[0]}
        return Block(name, "resnet.basic_branch", params, shortcut)
    params = {
        "channels": channels,
        "width": norms[0].num_features,
        "groups": convs[1].groups,
        "stride": convs[1].stride[0],
        "dilation": convs[1].dilation[0],
    }
    return Block(name, "resnet.bottleneck_branch", params, shortcut)


def _first(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]
