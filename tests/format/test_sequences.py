"""Inputs that are sequences: how files write them, and what is wrong with a wrong one."""

from __future__ import annotations

import warnings

import pytest

from topolearn.errors import FormatError, TopolearnError
from topolearn.format import dumps, library, load_graph, loads
from topolearn.ops import Shape

IDS = """\
topolearn: 1
name: words
task: next_token
inputs: {tokens: {length: 8, vocabulary: 16}}
nodes:
  embed: {op: embedding, channels: 4}
  block: {op: transformer.block, heads: 2, causal: true}
  head: {op: token_head, classes: 16}
edges:
  - {from: tokens, to: embed}
  - {from: embed, to: block}
  - {from: [embed, block], to: head, learnable: true}
outputs: [head]
"""
VECTORS = """\
topolearn: 1
name: signal
inputs: {signal: {length: 8, channels: 4}}
nodes:
  block: {op: transformer.block, heads: 2}
  pool: {op: token_pool}
  head: {op: classifier, classes: 3}
edges:
  - {connect: chain, nodes: [signal, block, pool, head]}
outputs: [head]
"""
IMAGE = """\
topolearn: 1
name: patches
inputs: {image: [3, 8, 8]}
nodes:
  patches: {op: patch_embedding, channels: 4, patch: 4, class_token: true}
  block: {op: transformer.block, heads: 2}
  pool: {op: token_pool, mode: class}
  head: {op: classifier, classes: 3}
edges:
  - {connect: chain, nodes: [image, patches, block, pool, head]}
outputs: [head]
"""


def error(text: str) -> str:
    with pytest.raises(TopolearnError) as caught:
        loads(text, "f.yaml")
    return str(caught.value)


def test_ids_and_vectors() -> None:
    ids, vectors = loads(IDS), loads(VECTORS)
    assert ids.shapes["tokens"] == Shape(1, None, 8, 16)
    assert (ids.input_size("tokens"), ids.input_rule("tokens").vocabulary) == ((8,), 16)
    assert vectors.shapes["signal"] == Shape(4, None, 8)
    assert (vectors.input_size("signal"), vectors.input_rule("signal").vocabulary) == ((8, 4), None)


@pytest.mark.parametrize("text", [IDS, VECTORS, IMAGE])
def test_they_are_written_as_they_are_read(text: str) -> None:
    graph = loads(text)
    written = dumps(graph)
    assert loads(written) == graph
    assert dumps(loads(written)) == written
    given = next(line for line in text.splitlines() if line.startswith("inputs"))
    assert given.split("{", 1)[1].strip("{} ") in written.replace("\n", " ")


def test_the_length_is_set_by_name() -> None:
    graph = load_graph("gpt12x64-bytes", {"inputs.tokens.length": 32})
    assert graph.input_size("tokens") == (32,)
    assert graph.shapes["embed"] == Shape(64, None, 32)
    whole = load_graph("gpt12x64-bytes")
    assert whole.cost.params - graph.cost.params == 32 * 64, "a position for each token"
    assert graph.cost.macs < whole.cost.macs


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "{length: 8, vocabulary: 16}",
            "{length: 8}",
            "4:18: a sequence is {length: 128, vocabulary: 256} of ids, or ",
        ),
        (
            "{length: 8, vocabulary: 16}",
            "{vocabulary: 16}",
            "4:18: a sequence is {length: 128, vocabulary: 256} of ids",
        ),
        (
            "vocabulary: 16}",
            "vocabulary: 16, channels: 4}",
            "4:18: a sequence is {length: 128, vocabulary: 256} of ids",
        ),
        ("length: 8", "length: 0", "4:27: 'length' of op 'input' is 0, but it should be greater than 0"),
        ("length: 8", "length: 8.5", "4:27: 'length' of op 'input' is 8.5, but it should be a whole number"),
        ("vocabulary: 16", "vocab: 16", "4:30: unknown key 'vocab' of an input; did you mean 'vocabulary'?"),
        ("{length: 8, vocabulary: 16}", "8", "4:18: an input's size is a list, such as [3, 32, 32], or {length: 128"),
        (
            "vocabulary: 16",
            "channels: 4",
            "6:3: node 'embed': 'embedding' needs ids of tokens, but its input is 8 tokens of 4 channels; declare the"
            " graph's input as {length: 128, vocabulary: 256}",
        ),
        ("heads: 2", "heads: 3", "7:3: node 'block': 3 heads do not divide 4 channels; choose 'heads' that do"),
        (
            "{from: embed, to: block}",
            "{from: tokens, to: block}",
            "7:3: node 'block': 'transformer.block' needs tokens, but its input is 8 ids of a vocabulary of 16; put a"
            " node 'embedding' before it",
        ),
        (
            "{from: tokens, to: embed}",
            "{from: tokens, to: embed, learnable: true}",
            "10:5: edge tokens -> embed: node 'embed' takes ids of tokens from one node, over a plain, fixed edge;"
            " leave out 'learnable', 'weight' and 'op'",
        ),
        (
            "{from: tokens, to: embed}",
            "{from: tokens, to: embed, weight: 0.5}",
            "10:5: edge tokens -> embed: node 'embed' takes ids of tokens from one node, over a plain, fixed edge",
        ),
        (
            "classes: 16}",
            "classes: 16, aggregate: normalised}",
            "8:3: node 'head': 'aggregate: normalised' is for feature maps, because batch statistics over tokens would"
            " let each see later ones; use 'sum' or 'mean'",
        ),
        (
            "{op: token_head, classes: 16}",
            "{op: classifier, classes: 16}",
            "8:3: node 'head': 'classifier' needs a feature map or a vector, but its input is 8 tokens of 4 channels;"
            " put a node 'token_pool' before it, or use 'token_head'",
        ),
    ],
)
def test_the_place_and_the_mend(old: str, new: str, message: str) -> None:
    assert IDS.count(old) == 1
    assert error(IDS.replace(old, new)).startswith(f"f.yaml:{message}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "heads: 2",
            "heads: 2, causal: true",
            "6:3: node 'block' is causal, so the class token of 'patches', which comes first, would see no other token;"
            " say 'causal: false', or do without the class token",
        ),
        (
            ", class_token: true",
            "",
            "7:3: node 'pool' reads a class token, but its input has none; say 'class_token: tr",
        ),
        ("patch: 4", "patch: 3", "5:3: node 'patches': patches of 3 x 3 do not divide an image of 8 x 8"),
        ("mode: class", "mode: last", "7:32: 'mode' of op 'token_pool' is 'last', but it should be 'mean' or 'class'"),
    ],
)
def test_class_tokens_and_patches(old: str, new: str, message: str) -> None:
    assert IMAGE.count(old) == 1
    assert error(IMAGE.replace(old, new)).startswith(f"f.yaml:{message}")


def test_an_image_one_pixel_high_gets_a_hint() -> None:
    head = "inputs: {signal: [1, 1, 256]}\nnodes:\n  head: {op: classifier, classes: 3}\n"
    text = f"topolearn: 1\nname: flat\n{head}edges:\n  - {{from: signal, to: head}}\noutputs: [head]\n"
    said = "f.yaml:3:18: an image one pixel high; write a sequence as {length: 256, channels: 1}"
    with pytest.warns(UserWarning, match="an image one pixel high") as caught:
        graph = loads(text, "f.yaml")
    assert [str(each.message) for each in caught] == [said]
    assert graph.input_size("signal") == (1, 1, 256)
    for other in ("[1, 1, 1]", "[3, 1, 256]", "[1, 8, 256]"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loads(text.replace("[1, 1, 256]", other))


def test_files_without_sequences_are_written_as_before() -> None:
    for name in ("digits", "resnet20-cifar100", "fdn-mobilenetv2-voc"):
        written = dumps(load_graph(name))
        assert "length" not in written
        assert "vocabulary" not in written
        size = ", ".join(map(str, load_graph(name).input_size("image")))
        assert f"image: [{size}]" in written


def test_every_shipped_text_graph_loads_at_another_length() -> None:
    names = [name for name in library.names("graphs") if name.startswith("gpt")]
    assert len(names) == 7
    for name in names:
        assert load_graph(name, {"inputs.tokens.length": 16}).input_size("tokens") == (16,)


def test_a_misspelt_length() -> None:
    with pytest.raises(FormatError, match="did you mean 'length'"):
        load_graph("gpt12x64-bytes", {"inputs.tokens.lenght": 16})
