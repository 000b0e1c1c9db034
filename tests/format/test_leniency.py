"""What a file may say in other words, and what is valid but hardly meant."""

from __future__ import annotations

import warnings

import pytest

from topolearn.errors import FormatError
from topolearn.format import dumps, loads

TEXT = """\
topolearn: 1
name: unet
inputs: {image: [3, 64, 64]}
nodes:
  down1: {op: conv_bn_relu, out_channels: 16}
  down2: {op: conv_bn_relu, out_channels: 32, stride: 2}
  up: {op: conv_bn_relu, out_channels: 16, input: {channels: 16, stride: 1}}
  a[1..2]: {op: resnet.basic, channels: 16}
  head: {op: classifier, classes: 2}
edges:
  - {connect: chain, nodes: [image, down1, down2]}
  - {op: conv_resize, learnable: true, into: {up: [down1, down2]}}
  - {connect: chain, nodes: [up, "a[1..2]", head]}
outputs: [head]
"""
NAMES = ("channels", "out_channels", "out_features", "classes")


@pytest.mark.parametrize("own", ["out_channels: 32", "classes: 2", "channels: 16}\n  head"])
@pytest.mark.parametrize("name", NAMES)
def test_every_op_understands_every_name_of_a_width(own: str, name: str) -> None:
    before, after = TEXT, TEXT.replace(f" {own}", f" {name}{own[own.index(':') :]}")
    assert loads(after) == loads(before)
    assert dumps(loads(after)) == dumps(loads(before))


def test_a_range_deals_out_other_names_too() -> None:
    graph = loads(TEXT.replace("{op: resnet.basic, channels: 16}", "{op: resnet.basic, out_channels: [16, 16]}"))
    assert graph.nodes["a2"].params["channels"] == 16


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("classes: 2", "classes: 2, channels: 2", "'channels' and 'classes' of node 'head' mean the same; drop one"),
        ("classes: 2", "channels: 0", "9:36: 'classes' of op 'classifier' is 0, but it should be greater than 0"),
        ("op: classifier, classes: 2", "op: global_avg_pool, channels: 2", "unknown key 'channels' of node 'head'"),
    ],
)
def test_two_names_or_one_that_an_op_has_no_use_for_are_errors(old: str, new: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        loads(TEXT.replace(old, new), "f.yaml")
    assert message in str(caught.value)


def test_resizing_into_a_node_without_an_input_gets_a_hint() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loads(TEXT)
    with pytest.warns(UserWarning, match="enlarges nothing") as caught:
        graph = loads(TEXT.replace(", input: {channels: 16, stride: 1}", ""), "f.yaml")
    assert [str(each.message) for each in caught] == [
        "f.yaml:12:52: 'conv_resize' enlarges nothing here, because node 'up' has no 'input' and takes the size of its"
        " smallest source; give it one, such as input: {channels: 16, stride: 1}"
    ]
    assert graph.shapes["up"].stride == 2
    half = TEXT.replace("out_channels: 16}\n  down2", "out_channels: 24, stride: 2}\n  down2")
    with pytest.warns(UserWarning, match="such as input: {channels: 24, stride: 2}"):  # the finest source
        loads(half.replace(", input: {channels: 16, stride: 1}", ""))


@pytest.mark.parametrize("size", ["[64, 64, 3]", "[28, 28, 1]"])
def test_channels_last_get_a_hint(size: str) -> None:
    with pytest.warns(UserWarning, match="channels come first") as caught:
        loads(TEXT.replace("[3, 64, 64]", size), "f.yaml")
    high, _, channels = size.strip("[]").split(", ")
    assert str(caught[0].message) == (
        f"f.yaml:3:17: an image of {high} channels; channels come first, so you may mean [{channels}, {high}, {high}]"
    )


def test_a_segmentation_head_without_a_task_gets_a_hint() -> None:
    text = "\n".join(line for line in TEXT.splitlines() if not line.startswith("task:"))
    text = text.replace("op: classifier", "op: segmentation_head")
    assert "segmentation_head" in text
    with pytest.warns(UserWarning, match="a segmentation_head, but no task; add 'task: segmentation'"):
        loads(text, "f.yaml")
