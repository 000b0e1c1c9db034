"""Shape and cost rules of every registered op, from the formulas and by hand; without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from topolearn.errors import OptionError
from topolearn.frozen import FrozenMap
from topolearn.ops import EDGE_OPS, NODE_OPS, Bundle, Cost, Shape, ShapeError, edge_op, node_op
from topolearn.ops.base import register_node_op

IDS = Shape(1, None, 5, 7)  # five tokens of a vocabulary of seven
TOKENS = Shape(6, length=5)
IMAGE = (10, 12)  # 120 positions at stride 1, 5 x 6 = 30 at 2, 3 x 3 = 9 at 4

# op, parameters, input, output, params, macs
NODE_CASES: list[tuple[str, dict[str, Any], Shape, Shape, int, int]] = [
    ("identity", {}, Shape(4, 2), Shape(4, 2), 0, 0),
    ("concat", {}, Shape(4, 2), Shape(4, 2), 0, 0),
    ("relu", {}, Shape(4, None), Shape(4, None), 0, 0),
    ("batch_norm", {}, Shape(4, 2), Shape(4, 2), 8, 0),
    (
        "part",
        {"source": "net", "until": "add", "gives": {"dims": [7, 7, 8]}, "params": 5, "macs": 9},
        Shape(4, 2),
        Shape(8, dims=(7, 7, 8)),
        5,
        9,
    ),
    (
        "part",
        {"source": "net", "until": "a", "gives": {"channels": 8, "length": 3}},
        Shape(4),
        Shape(8, length=3),
        0,
        0,
    ),
    ("part", {"source": "net", "until": "a", "gives": {"channels": 8, "stride": 4}}, Shape(4), Shape(8, 4), 0, 0),
    ("batch_norm", {"affine": False}, Shape(4, "global"), Shape(4, "global"), 0, 0),
    ("max_pool", {}, Shape(4, 1), Shape(4, 2), 0, 0),
    ("max_pool", {"kernel": 3, "stride": 1}, Shape(4, 1), Shape(4, 1), 0, 0),
    ("avg_pool", {"kernel": 3, "stride": 2}, Shape(4, 2), Shape(4, 4), 0, 0),
    ("global_avg_pool", {}, Shape(4, 2), Shape(4, "global"), 0, 0),
    ("conv", {"out_channels": 8}, Shape(4, 1), Shape(8, 1), 9 * 4 * 8 + 8, 9 * 4 * 8 * 120),
    ("conv", {"out_channels": 8, "kernel": 1, "stride": 2}, Shape(4, 1), Shape(8, 2), 4 * 8 + 8, 4 * 8 * 30),
    ("conv", {"out_channels": 8, "groups": 2, "dilation": 2}, Shape(4, 1), Shape(8, 1), 9 * 2 * 8 + 8, 9 * 2 * 8 * 120),
    ("conv", {"out_channels": 8}, Shape(4, "global"), Shape(8, "global"), 9 * 4 * 8 + 8, 9 * 4 * 8),
    ("conv_bn", {"out_channels": 8}, Shape(4, 1), Shape(8, 1), 9 * 4 * 8 + 16, 9 * 4 * 8 * 120),
    ("conv_bn", {"out_channels": 8, "affine": False}, Shape(4, 1), Shape(8, 1), 9 * 4 * 8, 9 * 4 * 8 * 120),
    ("conv_relu", {"out_channels": 8}, Shape(4, 2), Shape(8, 2), 9 * 4 * 8 + 8, 9 * 4 * 8 * 30),
    ("conv_bn_relu", {"out_channels": 16}, Shape(3, 1), Shape(16, 1), 9 * 3 * 16 + 32, 9 * 3 * 16 * 120),
    ("conv_bn_relu6", {"out_channels": 8, "stride": 4}, Shape(4, 1), Shape(8, 4), 9 * 4 * 8 + 16, 9 * 4 * 8 * 9),
    ("relu_conv_bn", {"out_channels": 8}, Shape(4, 1), Shape(8, 1), 9 * 4 * 8 + 16, 9 * 4 * 8 * 120),
    # The normalisation comes first, so it has the input's channels, and the convolution has no bias.
    ("bn_relu_conv", {"out_channels": 8}, Shape(4, 1), Shape(8, 1), 9 * 4 * 8 + 8, 9 * 4 * 8 * 120),
    (
        "sepconv_bn_relu",
        {"out_channels": 8, "stride": 2},
        Shape(4, 1),
        Shape(8, 2),
        9 * 4 + 4 * 8 + 16,
        (9 * 4 + 4 * 8) * 30,
    ),
    (
        "relu_sepconv_bn",
        {"out_channels": 8, "affine": False},
        Shape(4, 2),
        Shape(8, 2),
        9 * 4 + 4 * 8,
        (9 * 4 + 4 * 8) * 30,
    ),
    ("resnet.basic", {"channels": 4}, Shape(4, 1), Shape(4, 1), 2 * 9 * 16 + 16, 2 * 9 * 16 * 120),
    (
        "resnet.basic",
        {"channels": 8, "stride": 2},
        Shape(4, 1),
        Shape(8, 2),
        9 * 32 + 9 * 64 + 32,
        (9 * 32 + 9 * 64) * 30,
    ),
    (
        "resnet.basic",
        {"channels": 8, "stride": 2, "shortcut": "projection"},
        Shape(4, 1),
        Shape(8, 2),
        9 * 32 + 9 * 64 + 32 + 32 + 16,
        (9 * 32 + 9 * 64 + 32) * 30,
    ),
    # Same shape: no projection even where one is asked for.
    (
        "resnet.basic",
        {"channels": 4, "shortcut": "projection"},
        Shape(4, 1),
        Shape(4, 1),
        2 * 9 * 16 + 16,
        2 * 9 * 16 * 120,
    ),
    # The first normalisation has the channels that come in; the projection has none of its own.
    ("resnet.preact", {"channels": 4}, Shape(4, 1), Shape(4, 1), 2 * 9 * 16 + 16, 2 * 9 * 16 * 120),
    (
        "resnet.preact",
        {"channels": 8, "stride": 2},
        Shape(4, 1),
        Shape(8, 2),
        9 * 32 + 9 * 64 + 8 + 16,
        (9 * 32 + 9 * 64) * 30,
    ),
    (
        "resnet.preact",
        {"channels": 8, "stride": 2, "shortcut": "projection", "affine": False},
        Shape(4, 1),
        Shape(8, 2),
        9 * 32 + 9 * 64 + 32,
        (9 * 32 + 9 * 64 + 32) * 30,
    ),
    # 1x1 to a quarter at stride 1, 3x3 takes the stride, 1x1 up, projection.
    (
        "resnet.bottleneck",
        {"channels": 16, "stride": 2},
        Shape(8, 1),
        Shape(16, 2),
        8 * 4 + 9 * 16 + 4 * 16 + 2 * (4 + 4 + 16) + 8 * 16 + 32,
        8 * 4 * 120 + (9 * 16 + 4 * 16 + 8 * 16) * 30,
    ),
    (
        "resnet.bottleneck",
        {"channels": 8, "width": 6, "groups": 3},
        Shape(8, 2),
        Shape(8, 2),
        8 * 6 + 9 * 2 * 6 + 6 * 8 + 2 * (6 + 6 + 8),
        (8 * 6 + 9 * 2 * 6 + 6 * 8) * 30,
    ),
    # The branches alone: no projection whatever the shape.
    (
        "resnet.basic_branch",
        {"channels": 8, "stride": 2},
        Shape(4, 1),
        Shape(8, 2),
        9 * 32 + 9 * 64 + 32,
        (9 * 32 + 9 * 64) * 30,
    ),
    (
        "resnet.bottleneck_branch",
        {"channels": 16, "width": 6, "groups": 3, "stride": 2, "dilation": 2},
        Shape(8, 1),
        Shape(16, 2),
        8 * 6 + 9 * 2 * 6 + 6 * 16 + 2 * (6 + 6 + 16),
        8 * 6 * 120 + (9 * 2 * 6 + 6 * 16) * 30,
    ),
    # The squeeze-and-excitation has biases, and one position.
    (
        "resnet.bottleneck_branch",
        {"channels": 4, "width": 6, "squeeze": 2, "affine": False},
        Shape(4, 1),
        Shape(4, 1),
        24 + 9 * 36 + 24 + (12 + 2) + (12 + 6),
        (24 + 9 * 36 + 24) * 120 + 24,
    ),
    (
        "resnext.branch",
        {"width": 2, "out_channels": 8},
        Shape(8, 1),
        Shape(8, 1),
        16 + 9 * 4 + 16 + 2 * (2 + 2 + 8),
        (16 + 9 * 4 + 16) * 120,
    ),
    (
        "resnext.branch",
        {"width": 2, "out_channels": 8, "stride": 2, "residual_scale": "fan_in"},
        Shape(4, 1),
        Shape(8, 2),
        8 + 9 * 4 + 16 + 2 * (2 + 2 + 8) + 32 + 16,
        8 * 120 + (9 * 4 + 16 + 32) * 30,
    ),
    (
        "mobilenetv2.inverted_bottleneck",
        {"out_channels": 6, "expansion": 2, "stride": 2},
        Shape(4, 1),
        Shape(6, 2),
        32 + 9 * 8 + 48 + 2 * (8 + 8 + 6),
        32 * 120 + (9 * 8 + 48) * 30,
    ),
    (
        "mobilenetv2.inverted_bottleneck",
        {"out_channels": 4, "expansion": 1},
        Shape(4, 1),
        Shape(4, 1),
        9 * 4 + 16 + 2 * (4 + 4),
        (9 * 4 + 16) * 120,
    ),
    ("linear", {"out_features": 5}, Shape(4, None), Shape(5, None), 25, 20),
    ("linear", {"out_features": 5, "bias": False}, Shape(4, None), Shape(5, None), 20, 20),
    ("classifier", {"classes": 10}, Shape(4, 2), Shape(10, None), 50, 40),
    ("classifier", {"classes": 10, "dropout": 0.2}, Shape(4, None), Shape(10, None), 50, 40),
    ("segmentation_head", {"classes": 3}, Shape(4, 2), Shape(3, 2), 4 * 3 + 3, 4 * 3 * 30),
    # Looking up multiplies nothing; seven ids and five places.
    ("embedding", {"channels": 6}, IDS, TOKENS, (7 + 5) * 6, 0),
    ("embedding", {"channels": 6, "positions": "rotary"}, IDS, TOKENS, 7 * 6, 0),
    # 5 x 6 patches of 2 x 2, a token more for the class.
    (
        "patch_embedding",
        {"channels": 6, "patch": 2, "size": (10, 12)},
        Shape(3, 1),
        Shape(6, length=30),
        4 * 3 * 6 + 6 + 30 * 6,
        4 * 3 * 6 * 30,
    ),
    (
        "patch_embedding",
        {"channels": 6, "patch": 1, "size": (5, 6), "class_token": True, "bias": False},
        Shape(3, 2),
        Shape(6, length=31),
        3 * 6 + 6 + 31 * 6,
        3 * 6 * 30,
    ),
    ("layer_norm", {}, TOKENS, TOKENS, 12, 0),
    ("layer_norm", {"bias": False}, TOKENS, TOKENS, 6, 0),
    ("layer_norm", {"norm": "rms"}, TOKENS, TOKENS, 6, 0),
    ("token_head", {"classes": 7}, TOKENS, Shape(7, length=5), 12 + 6 * 7 + 7, 6 * 7 * 5),
    ("token_head", {"classes": 7, "norm": "none", "bias": False}, TOKENS, Shape(7, length=5), 6 * 7, 6 * 7 * 5),
    ("token_pool", {}, TOKENS, Shape(6, None), 0, 0),
    # Norm, queries, keys, values, projection; two products of 5 x 5 x 6.
    (
        "transformer.attention",
        {"heads": 3},
        TOKENS,
        TOKENS,
        12 + (6 * 18 + 18) + (6 * 6 + 6),
        (6 * 18 + 6 * 6) * 5 + 2 * 5 * 5 * 6,
    ),
    ("transformer.mlp", {}, TOKENS, TOKENS, 12 + (6 * 24 + 24) + (24 * 6 + 6), 2 * 6 * 24 * 5),
    (
        "transformer.mlp",
        {"width": 8, "bias": False, "norm": "rms"},
        TOKENS,
        TOKENS,
        6 + 2 * 6 * 8,
        2 * 6 * 8 * 5,
    ),
    (
        "transformer.block",
        {"heads": 2, "bias": False, "causal": True, "layers": 12},
        TOKENS,
        TOKENS,
        2 * 6 + 6 * 18 + 6 * 6 + 2 * 6 * 24,
        (6 * 18 + 6 * 6 + 2 * 6 * 24) * 5 + 2 * 5 * 5 * 6,
    ),
]

# op, parameters, source, target, params, macs
EDGE_CASES: list[tuple[str, dict[str, Any], Shape, Shape, int, int]] = [
    ("identity", {}, Shape(4, 2), Shape(4, 2), 0, 0),
    ("identity", {}, Shape(4, None), Shape(4, None), 0, 0),
    ("align", {}, Shape(4, 1), Shape(8, 4), 0, 0),
    ("align", {"offset": 4}, Shape(4, 2), Shape(8, 2), 0, 0),
    ("align", {}, Shape(4, "global"), Shape(8, "global"), 0, 0),
    ("align", {"offset": 1}, Shape(4, length=5), Shape(8, length=5), 0, 0),
    ("identity", {}, IDS, IDS, 0, 0),
    ("project", {}, Shape(4, 1), Shape(2, 2), 8 + 4, 8 * 30),
    ("project", {"affine": False}, Shape(4, 1), Shape(2, 1), 8, 8 * 120),
    ("resize", {}, Shape(4, 4), Shape(4, 1), 0, 0),
    ("resize", {"mode": "nearest", "align_corners": False}, Shape(4, 1), Shape(4, 2), 0, 0),
    ("resize", {}, Shape(4, "global"), Shape(4, 1), 0, 0),
    # The convolution runs at the source's resolution; its normalisation has no parameters by default.
    ("conv_resize", {}, Shape(4, 4), Shape(2, 1), 8, 8 * 9),
    ("conv_resize", {"affine": True}, Shape(4, 1), Shape(2, 4), 8 + 4, 8 * 120),
    ("conv_resize", {"batch_norm": False, "affine": True}, Shape(4, "global"), Shape(2, 4), 8, 8),
]


@pytest.mark.parametrize(("name", "params", "x", "out", "count", "macs"), NODE_CASES)
def test_node_op_follows_its_rules(
    name: str, params: dict[str, Any], x: Shape, out: Shape, count: int, macs: int
) -> None:
    rule = node_op(name, FrozenMap(params))
    assert rule.output(x) == out
    assert rule.cost(x, IMAGE) == Cost(count, macs)


@pytest.mark.parametrize(("name", "params", "source", "target", "count", "macs"), EDGE_CASES)
def test_edge_op_follows_its_rules(
    name: str, params: dict[str, Any], source: Shape, target: Shape, count: int, macs: int
) -> None:
    rule = edge_op(name, FrozenMap(params))
    assert rule.output(source, target) == target
    assert rule.cost(source, target, IMAGE) == Cost(count, macs)
    assert rule.has_parameters or not count


def test_every_registered_op_has_a_case() -> None:
    # 'input' and 'feature' are below; a backbone's rule needs torchvision or timm.
    covered = {case[0] for case in NODE_CASES} | {"input", "feature", "torchvision.backbone", "timm.backbone"}
    assert {name for name, op in NODE_OPS.items() if op.__module__.startswith("topolearn.")} <= covered
    assert {name for name, op in EDGE_OPS.items() if op.__module__.startswith("topolearn.")} <= {
        case[0] for case in EDGE_CASES
    }


@pytest.mark.parametrize(("name", "params", "x"), [case[:3] for case in NODE_CASES])
def test_a_shared_part_is_contained_in_the_cost(name: str, params: dict[str, Any], x: Shape) -> None:
    rule = node_op(name, FrozenMap(params))
    whole = rule.cost(x, IMAGE)
    for part in rule.parts:
        own = rule.part_cost(part, x, IMAGE)
        assert own.params <= whole.params
        assert own.macs <= whole.macs


def test_a_projection_is_a_part_only_where_the_shape_changes() -> None:
    rule = node_op("resnet.basic", FrozenMap({"channels": 8, "shortcut": "projection"}))
    assert rule.part_cost("projection", Shape(4, 1), IMAGE) == Cost(4 * 8 + 16, 4 * 8 * 120)
    assert rule.part_cost("projection", Shape(8, 1), IMAGE) == Cost()


@pytest.mark.parametrize(
    ("name", "params", "of_any", "of_non_negative"),
    [
        ("input", {"size": (3, 8, 8)}, False, False),
        ("identity", {}, False, True),
        ("concat", {}, False, True),
        ("relu", {}, True, True),
        ("max_pool", {}, False, True),
        ("avg_pool", {}, False, True),
        ("global_avg_pool", {}, False, True),
        ("conv", {"out_channels": 2}, False, False),
        ("conv_relu", {"out_channels": 2}, True, True),
        ("conv_bn_relu6", {"out_channels": 2}, True, True),
        ("relu_conv_bn", {"out_channels": 2}, False, False),
        ("sepconv_bn_relu", {"out_channels": 2}, True, True),
        ("resnet.basic", {"channels": 4}, True, True),
        ("resnet.preact", {"channels": 4}, False, False),
        ("resnet.basic_branch", {"channels": 4}, False, False),
        ("linear", {"out_features": 2, "activation": "relu6"}, True, True),
        ("linear", {"out_features": 2}, False, False),
        ("classifier", {"classes": 2, "activation": "relu"}, False, False),
        ("mobilenetv2.inverted_bottleneck", {"out_channels": 4}, False, False),
    ],
)
def test_what_is_known_to_be_nowhere_below_0(
    name: str, params: dict[str, Any], of_any: bool, of_non_negative: bool
) -> None:
    rule = node_op(name, FrozenMap(params))
    assert (rule.non_negative(False), rule.non_negative(True)) == (of_any, of_non_negative)


def test_edges_without_negative_coefficients() -> None:
    assert {name for name, op in EDGE_OPS.items() if op.positive_linear} == {"identity", "align", "resize"}


@pytest.mark.parametrize(
    ("stride", "size"), [(1, (7, 9)), (2, (4, 5)), (4, (2, 3)), ("global", (1, 1)), (None, (1, 1))]
)
def test_sizes_are_rounded_up(stride: Any, size: tuple[int, int]) -> None:
    assert Shape(3, stride).size((7, 9)) == size


def test_a_feature_reads_one_output_of_a_bundle() -> None:
    bundle = Bundle((("low", Shape(8, 4)), ("high", Shape(16, 8))))
    assert node_op("feature", FrozenMap({"name": "high"})).output(bundle) == Shape(16, 8)
    assert (len(bundle), list(bundle)) == (2, ["low", "high"])
    with pytest.raises(ShapeError, match="no feature 'mid'; it has low, high"):
        node_op("feature", FrozenMap({"name": "mid"})).output(bundle)
    with pytest.raises(ShapeError, match="reads a backbone"):
        node_op("feature", FrozenMap({"name": "low"})).output(Shape(3, 1))


@pytest.mark.parametrize(
    ("name", "params", "x", "message"),
    [
        ("conv", {"out_channels": 8}, Shape(4, None), "'conv' needs a feature map, but its input is a vector of 4"),
        ("conv", {"out_channels": 8, "groups": 3}, Shape(4, 1), "groups 3 must divide the 4 channels"),
        ("resnet.basic", {"channels": 2}, Shape(4, 1), "cannot pad 4 channels to 2; use 'shortcut: projection'"),
        ("resnet.preact", {"channels": 2}, Shape(4, 1), "cannot pad 4 channels to 2; use 'shortcut: projection'"),
        ("resnet.preact", {"channels": 4}, Shape(4, None), "'resnet.preact' needs a feature map"),
        ("resnet.bottleneck", {"channels": 8, "groups": 3}, Shape(8, 1), "groups 3 must divide the width 2"),
        (
            "resnet.bottleneck_branch",
            {"channels": 8, "width": 4, "groups": 3},
            Shape(8, 1),
            "groups 3 must divide the width 4",
        ),
        ("resnet.basic_branch", {"channels": 8}, Shape(8, None), "'resnet.basic_branch' needs a feature map"),
        ("linear", {"out_features": 8}, Shape(4, 1), "needs a vector.*use 'classifier' on a feature map"),
        ("global_avg_pool", {}, Shape(4, None), "needs a feature map"),
        ("segmentation_head", {"classes": 2}, Shape(4, None), "needs a feature map"),
    ],
)
def test_a_node_op_refuses_a_shape(name: str, params: dict[str, Any], x: Shape, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        node_op(name, FrozenMap(params)).output(x)


@pytest.mark.parametrize(
    ("name", "params", "source", "target", "message"),
    [
        ("identity", {}, Shape(4, 1), Shape(8, 2), "4 channels at stride 1.*8 channels at stride 2.*'align'"),
        ("identity", {}, Shape(8, 1), Shape(4, 1), "use the edge op 'project'"),
        ("identity", {}, Shape(4, 2), Shape(4, 1), "use the edge op 'resize'"),
        ("identity", {}, Shape(4, 2), Shape(8, 1), "use the edge op 'conv_resize'"),
        ("identity", {}, Shape(4, None), Shape(8, None), "make the shapes agree"),
        ("align", {}, Shape(8, 1), Shape(4, 1), "cannot bring 8 channels to 4; use 'project'"),
        ("align", {"offset": 3}, Shape(4, 1), Shape(6, 1), "4 channels at offset 3 to 6"),
        ("align", {}, Shape(4, 2), Shape(4, 3), "cannot bring 4 channels at stride 2 to 4 channels at stride 3"),
        ("project", {}, Shape(4, None), Shape(4, None), "needs a feature map"),
        ("project", {}, Shape(4, 4), Shape(4, 2), "use 'resize' or 'conv_resize'"),
        ("resize", {}, Shape(4, 1), Shape(8, 1), "keeps the 4 channels.*use 'conv_resize'"),
        ("conv_resize", {}, Shape(4, 1), Shape(8, None), "needs feature maps"),
    ],
)
def test_an_edge_op_refuses_shapes_and_names_the_mend(
    name: str, params: dict[str, Any], source: Shape, target: Shape, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        edge_op(name, FrozenMap(params)).output(source, target)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("convolution", {}, "unknown op 'convolution'; did you mean"),
        ("conv", {}, "op 'conv' needs 'out_channels'"),
        ("conv", {"out_channel": 3}, "unknown parameter 'out_channel' of op 'conv'; did you mean 'out_channels'"),
        ("conv", {"out_channels": 0}, "'out_channels' of op 'conv' is 0, but it should be greater than 0"),
        ("conv", {"out_channels": 2.0}, "'out_channels' of op 'conv' is 2.0, but it should be a whole number"),
        ("conv", {"out_channels": True}, "is True, but it should be a whole number"),
        ("conv", {"out_channels": 10**5000}, "should be at most 2147483647"),
        ("conv", {"out_channels": 2, "kernel": 4}, "is 4, but it must be odd"),
        ("max_pool", {"kernel": 4, "stride": 2}, "op 'max_pool': an even kernel .4. needs a stride equal to it, not 2"),
        ("input", {"size": (3, 8)}, r"must be \[channels, height, width\] or \[features\]"),
        ("classifier", {"classes": 3, "dropout": 1.0}, "should be less than 1"),
        *(
            (
                "resnext.branch",
                {"width": 2, "out_channels": 2, "residual_scale": scale},
                f"'residual_scale' of op 'resnext.branch' is {scale!r}, but it must be a positive number or 'fan_in'",
            )
            for scale in (float("inf"), float("nan"), 0, -1.5, True, "fanin")
        ),
        ("resnet.basic", {"channels": 4, "shortcut": "none"}, "should be 'pad' or 'projection'"),
        ("resnet.preact", {"channels": 4, "shortcut": "none"}, "should be 'pad' or 'projection'"),
    ],
)
def test_a_bad_parameter_is_one_clear_line(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as caught:
        node_op(name, FrozenMap(params))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_value_of_another_type_is_refused_even_where_an_equal_one_was_taken() -> None:
    assert node_op("conv", FrozenMap({"out_channels": 1, "affine": True}))
    for params in ({"out_channels": 1.0}, {"out_channels": True}, {"out_channels": 1, "affine": 1}):
        with pytest.raises(OptionError):
            node_op("conv", FrozenMap(params))
    assert node_op("input", FrozenMap({"size": (3, 8, 8)}))
    with pytest.raises(OptionError):
        node_op("input", FrozenMap({"size": (3, 8.0, 8)}))


def test_an_unknown_edge_op_gets_a_suggestion() -> None:
    with pytest.raises(OptionError, match="unknown edge op 'projct'; did you mean 'project'"):
        edge_op("projct", FrozenMap())


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match=r"node op 'conv' is already registered by topolearn\.ops\.conv"):
        register_node_op("conv")(node_op("identity", FrozenMap()).__class__)


@pytest.mark.parametrize("module", ["topolearn", "topolearn.graph", "topolearn.format", "topolearn.ops"])
def test_importing_does_not_import_torch(module: str) -> None:
    code = f"import sys, {module}; print([name for name in ('torch', 'torchvision', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_and_verifying_a_graph_does_not_import_torch() -> None:
    code = (
        "import sys, topolearn; g = topolearn.load_graph('resnet38-cifar100'); g.cost; g.to_yaml();"
        " print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
