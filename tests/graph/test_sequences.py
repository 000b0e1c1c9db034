"""Token graphs before training: who supplies positions, and what a graph for next tokens needs."""

from __future__ import annotations

import pytest

from topolearn.errors import GraphError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.graph.sequences import check_sequences, position_notes


def words(
    embed: str = "", first: str = "", second: str = "", head: str = "classes: 9", task: str = "next_token"
) -> Graph:
    """Two causal blocks between an embedding and a head, with options added to each node."""
    return loads(f"""
topolearn: 1
name: words
task: {task}
inputs: {{tokens: {{length: 8, vocabulary: 9}}}}
nodes:
  embed: {{op: embedding, channels: 4, {embed}}}
  first: {{op: transformer.block, heads: 2, causal: true, {first}}}
  norm: {{op: layer_norm}}
  second: {{op: transformer.attention, heads: 2, {second or "causal: true"}}}
  head: {{op: token_head, {head}}}
edges:
  - {{connect: chain, nodes: [tokens, embed, first, norm, second, head]}}
outputs: [head]
""")


ROTARY, TURNING = "positions: rotary", "causal: true, positions: rotary"


def refused(graph: Graph) -> tuple[str | None, str]:
    with pytest.raises(GraphError) as caught:
        check_sequences(graph)
    return caught.value.node, caught.value.message


@pytest.mark.parametrize("attention", [("", ""), (ROTARY, TURNING), (ROTARY, ""), ("", TURNING)])
@pytest.mark.parametrize("embed", ["", ROTARY])
def test_who_supplies_positions(embed: str, attention: tuple[str, str]) -> None:
    graph = words(embed, *attention)
    if embed and not any(attention):
        assert refused(graph) == (
            "embed",
            "node 'embed' of graph 'words' leaves positions to attention, but 'first' uses none, so the order of the"
            " tokens is lost; set 'positions: rotary' on all attention, or 'positions: learned' on 'embed'",
        )
        return
    check_sequences(graph)
    notes = position_notes(graph)
    assert [node for node, _ in notes] == (["embed"] if not embed and any(attention) else [])
    if notes:
        turning = "first" if attention[0] else "second"
        assert f"learns positions, and attention in '{turning}' uses rotary ones too" in notes[0][1]


def test_an_embedding_beside_one_that_learns_positions_needs_none() -> None:
    both = """
topolearn: 1
name: both
inputs: {a: {length: 8, vocabulary: 9}, b: {length: 8, vocabulary: 5}}
nodes:
  one: {op: embedding, channels: 4, positions: rotary}
  other: {op: embedding, channels: 4, positions: OTHER}
  block: {op: transformer.block, heads: 2}
  pool: {op: token_pool}
edges:
  - {from: a, to: one}
  - {from: b, to: other}
  - {from: [one, other], to: block}
  - {from: block, to: pool}
outputs: [pool]
"""
    graph = loads(both.replace("OTHER", "learned"))
    check_sequences(graph)
    assert position_notes(graph) == []
    assert refused(loads(both.replace("OTHER", "rotary")))[0] == "one"


def test_patches_without_positions() -> None:
    image = """
topolearn: 1
name: image
inputs: {image: [3, 8, 8]}
nodes:
  patches: {op: patch_embedding, channels: 4, patch: 4, positions: rotary}
  block: {op: transformer.OP}
  pool: {op: token_pool}
edges:
  - {connect: chain, nodes: [image, patches, block, pool]}
outputs: [pool]
"""
    assert refused(loads(image.replace("OP", "block, heads: 2")))[0] == "patches"
    check_sequences(loads(image.replace("OP", "block, heads: 2, positions: rotary")))
    check_sequences(loads(image.replace("OP", "mlp")))  # nothing mixes tokens, as after pruning


@pytest.mark.parametrize(("options", "noted"), [("", True), (", positions: rotary", False), (", causal: true", False)])
def test_vectors_whose_order_attention_does_not_see_are_noted(options: str, noted: bool) -> None:
    graph = loads(f"""
topolearn: 1
name: signal
inputs: {{signal: {{length: 16, channels: 4}}}}
nodes:
  block[1..2]: {{op: transformer.block, heads: 2{options}}}
  pool: {{op: token_pool}}
edges:
  - {{connect: chain, nodes: [signal, "block[1..2]", pool]}}
outputs: [pool]
""")
    check_sequences(graph)  # a set of vectors has no order
    notes = position_notes(graph)
    assert [node for node, _ in notes] == (["block1"] if noted else [])
    if notes:
        assert notes[0][1].startswith("attention in 'block1' does not see in which order the vectors of 'signal' come;")


@pytest.mark.parametrize(
    ("graph", "node", "message"),
    [
        (words(second="causal: false").replace(name="x"), "second", "node 'second' of graph 'x' sees later tokens"),
        (words(head="classes: 7"), "head", "has a vocabulary of 9, but output 'head' of graph 'words' has 7 classes"),
    ],
)
def test_what_predicts_no_next_token(graph: Graph, node: str, message: str) -> None:
    found, text = refused(graph)
    assert (found, message in text) == (node, True)
    check_sequences(graph, own_loss=True)
    check_sequences(graph.replace(task="words"))


def test_text_is_one_input_of_ids() -> None:
    vectors = """
topolearn: 1
name: vectors
task: next_token
inputs: {tokens: {length: 8, channels: 4}}
nodes:
  head: {op: token_head, classes: 9}
edges:
  - {from: tokens, to: head}
outputs: [head]
"""
    assert refused(loads(vectors)) == (
        "tokens",
        "next_token needs one input, of token ids, but input 'tokens' of graph 'vectors' is 8 tokens of 4 channels;"
        " declare 'inputs: {tokens: {length: 128, vocabulary: 256}}' alone",
    )
    several = vectors.replace("channels: 4}}", "channels: 4}, more: {length: 8, channels: 4}}").replace(
        "{from: tokens", "{from: [tokens, more]"
    )
    assert "input 'tokens' of graph 'vectors' is one of several" in refused(loads(several))[1]
