"""Networks that parts of a lifted graph come from: what a file may say about them, and that it builds nothing."""

from __future__ import annotations

import pytest

from topolearn.errors import FormatError, GraphError
from topolearn.format import dumps, loads
from topolearn.ops import Shape

SOURCE = (
    "{library: torchvision, model: swin_t, options: {num_classes: 4}, version: 0.29.1, params: 27522430,"
    " fingerprint: 0123456789abcdef}"
)
TEXT = f"""\
topolearn: 1
name: lifted
inputs: {{image: [3, 64, 64]}}
sources:
  net: {SOURCE}
nodes:
  stem: {{op: part, source: net, until: add, gives: {{dims: [16, 16, 96]}}, params: 7, macs: 9}}
  sum: {{op: identity, input: {{dims: [16, 16, 96]}}}}
  head: {{op: part, source: net, after: add, until: head.linear, gives: {{channels: 4, stride: null}},
    input: {{dims: [16, 16, 96]}}}}
edges:
  - {{from: image, to: stem}}
  - {{from: stem, to: sum, learnable: true}}
  - {{from: sum, to: head}}
outputs: [head]
"""


def test_a_graph_with_parts_is_read_and_written() -> None:
    graph = loads(TEXT)
    source = graph.sources["net"]
    assert (source.library, source.model, source.options.thaw()) == ("torchvision", "swin_t", {"num_classes": 4})
    assert source.net is None  # nothing has been built
    assert graph.shapes["sum"] == Shape(96, dims=(16, 16, 96))
    assert (graph.cost.params, graph.cost.macs) == (7, 9)
    assert loads(dumps(graph)) == graph
    assert graph != loads(TEXT.replace("swin_t", "swin_s"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "library: torchvision",
            "library: hf_hub",
            "5:18: 'library' of source 'net' is 'hf_hub', but it should be",
        ),
        ("model: swin_t", "model: ../../swin", "'model' of source 'net' is '../../swin', but it should"),
        ("num_classes: 4", "num_classes: 0.5", "'num_classes' of the options of source 'net' is 0.5"),
        ("num_classes: 4", "num_classes: -1", "'num_classes' of the options of source 'net' is -1"),
        (
            "num_classes: 4",
            "checkpoint_path: x",
            "5:56: unknown parameter 'checkpoint_path' of the options",
        ),
        ("num_classes: 4", "pretrained: true", "unknown parameter 'pretrained' of the options of source 'net'"),
        ("library: torchvision", "library: own", "unknown parameter 'num_classes' of the options of source 'net'"),
        (
            "params: 27522430",
            "params: 1000000001",
            "'params' of source 'net' is 1000000001, but it should",
        ),
        ("fingerprint: 0123456789abcdef", "fingerprint: yes", "'fingerprint' of source 'net' is"),
        (", fingerprint: 0123456789abcdef", "", "source 'net' needs 'fingerprint'"),
        (SOURCE, "5", "source 'net' is a mapping, such as"),
        (
            "dims: [16, 16, 96]}, params",
            "dims: []}, params",
            "'gives' of op 'part' is .* must be {channels: 64",
        ),
        (
            "input: {dims: [16, 16, 96]}",
            "input: {dims: [0]}",
            "dims are 1 to 8 positive numbers, such as",
        ),
        ("input: {dims: [16, 16, 96]}", "input: {dims: [1], stride: 2}", "unknown key 'stride' of 'input' with 'dims'"),
        (
            "{op: identity,",
            "{op: classifier, classes: 2,",
            "a feature map or a vector, but its input is a tensor of",
        ),
    ],
)
def test_a_file_asks_for_nothing_else(old: str, new: str, message: str) -> None:
    with pytest.raises((FormatError, GraphError), match=message.replace("{", r"\{")):
        loads(TEXT.replace(old, new))


def test_the_source_must_be_there() -> None:
    with pytest.raises(GraphError, match="node 'stem': the graph has no source 'nut'; did you mean 'net'"):
        loads(TEXT.replace("source: net, until: add", "source: nut, until: add"))
