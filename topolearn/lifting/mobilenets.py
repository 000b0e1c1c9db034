"""Reads torchvision's MobileNetV2."""

from __future__ import annotations

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2
from torchvision.ops.misc import Conv2dNormActivation

from topolearn.graph import Edge
from topolearn.lifting.draft import IMAGE, Draft, node_id
from topolearn.lifting.module_reader import refusal
from topolearn.lifting.regnets import read_unit, unit_parts


def read_mobilenetv2(draft: Draft) -> None:
    """Read stem, complete stages of branches without shortcuts, last convolution and classifier into the draft.

    Nothing follows an addition, so a chain of residual blocks ``x + F(x)`` is a complete stage with all edges at 1. A
    stage begins with a block without shortcut.
    """
    source = draft.source
    source.take("", MobileNetV2)
    source.take("features", nn.Sequential)
    children = source.children("features")
    if len(children) < 3:
        raise refusal(
            "features", source.take("features", nn.Sequential), f"it has {len(children)} parts, not 3 or more"
        )
    first, *middle, last = children
    x = _unit(draft, IMAGE, f"features.{first}")
    members, stages = [x], 0
    for child in middle:
        path = f"features.{child}"
        block = source.take(path, InvertedResidual)
        if not block.use_res_connect and members != [x]:
            stages += 1
            x = draft.complete_stage(f"stage{stages}", members)
        params = _branch(draft, path)
        name = node_id(path)
        if block.use_res_connect:
            draft.node(name, "mobilenetv2.inverted_bottleneck", params, draft.shapes[members[-1]])
            draft.edges += [Edge(member, name, learnable=True) for member in members]
            members.append(name)
        else:
            members = [draft.after(x, name, "mobilenetv2.inverted_bottleneck", **params)]
    x = draft.complete_stage(f"stage{stages + 1}", members)
    x = _unit(draft, x, f"features.{last}")
    source.take("classifier", nn.Sequential)
    dropout, linear = source.take_children("classifier", nn.Dropout, nn.Linear)
    assert isinstance(dropout, nn.Dropout)
    assert isinstance(linear, nn.Linear)
    draft.after(x, "classifier", "classifier", classes=linear.out_features, dropout=float(dropout.p))
    draft.place("nodes.classifier", "classifier", linear=source.children("classifier")[1])


def _unit(draft: Draft, x: str, path: str) -> str:
    """Add a convolution with batch normalisation and relu6; return the node's id."""
    source, name = draft.source, node_id(path)
    source.take(path, Conv2dNormActivation)
    conv, norm = read_unit(source, path, nn.ReLU6)
    draft.place(f"nodes.{name}", path, **unit_parts(source, path))
    return draft.after(
        x, name, "conv_bn_relu6", out_channels=norm.num_features, kernel=conv.kernel_size[0], stride=conv.stride[0]
    )


def _branch(draft: Draft, path: str) -> dict[str, int | bool]:
    """Record where a branch's tensors go, and return the parameters of its op."""
    source, inside, ours = draft.source, f"{path}.conv", f"nodes.{node_id(path)}.layers"
    source.take(inside, nn.Sequential)
    *units, conv, norm = source.children(inside)
    if len(units) not in (1, 2):
        raise refusal(inside, source.take(inside, nn.Sequential), f"it has {len(units) + 2} parts, not 3 or 4")
    read = []
    for place, unit in enumerate(units):
        source.take(f"{inside}.{unit}", Conv2dNormActivation)
        read.append(read_unit(source, f"{inside}.{unit}", nn.ReLU6)[0])
        draft.place(f"{ours}.{place}", f"{inside}.{unit}", **unit_parts(source, f"{inside}.{unit}"))
    source.take(f"{inside}.{conv}", nn.Conv2d)
    out = source.take(f"{inside}.{norm}", nn.BatchNorm2d)
    draft.place(f"{ours}.{len(units)}", inside, conv=conv, bn=norm)
    hidden, given = read[-1].out_channels, read[0].in_channels
    if hidden % given or (hidden == given) != (len(units) == 1):
        raise refusal(inside, source.take(inside, nn.Sequential), f"it expands {given} channels to {hidden}")
    return {
        "out_channels": out.num_features,
        "expansion": hidden // given,
        "kernel": read[-1].kernel_size[0],
        "stride": read[-1].stride[0],
        "shortcut": False,
    }
