"""``start: chain`` and ``start: mean``: learnable edges whose weights make a graph start as a chain, or as a mean."""

from __future__ import annotations

import pytest
import torch

from topolearn import compile, load_graph
from topolearn.errors import FormatError
from topolearn.format import dumps, loads
from topolearn.graph import Graph
from topolearn.learners import Continuous, Fixed

START = "learnable: true, start: chain"

TEXT = """\
topolearn: 1
name: g
inputs: {image: [3, 8, 8]}
nodes:
  n[0..8]: {op: conv_bn_relu, out_channels: 4}
edges:
  - {from: image, to: n0}
%s
outputs: [n8]
"""


def read(*entries: str) -> Graph:
    return loads(TEXT % "\n".join(f"  - {entry}" for entry in entries), "g.yaml")


def ones(graph: Graph) -> set[str]:
    """The learnable edges of weight 1; the others weigh 0."""
    learnable = [edge for edge in graph.edges if edge.learnable]
    assert {edge.weight for edge in learnable} <= {0.0, 1.0}
    return {f"{edge.src}-{edge.dst}" for edge in learnable if edge.weight}


ENTRIES = [
    ('{connect: complete, nodes: "n[0..8]", %s}',),
    ('{connect: chain, nodes: "n[0..8]", %s}',),
    ('{connect: residual, nodes: "n[0..8]", interval: 2, %s}',),
    ('{connect: random, nodes: "n[0..8]", model: ba, m: 2, seed: 3, %s}',),
    ('{connect: layers, nodes: "n[0..8]", width: 3, %s}', '{from: [n0], to: ["n[1..2]"]}', '{from: "n[6..7]", to: n8}'),
    ('{connect: bipartite, from: n0, to: "n[1..7]"}', '{connect: bipartite, from: "n[0..7]", to: [n8], %s}'),
    ('{connect: chain, nodes: "n[0..7]"}', '{from: "n[0..7]", to: n8, %s}'),
    ('{connect: chain, nodes: "n[0..7]"}', '{into: {n8: ["n7", n0, n3]}, %s}'),
]


@pytest.mark.parametrize("entries", ENTRIES)
def test_every_form_starts_with_what_the_rule_prev_keeps(entries: tuple[str, ...]) -> None:
    graph = read(*(entry.replace("%s", START) for entry in entries))
    assert ones(graph)
    kept = Fixed(graph, rule="prev").edge_weights().tolist()
    assert [edge.weight for edge in graph.edges] == kept
    plain = read(*(entry.replace("%s", "learnable: true") for entry in entries))
    assert kept == Fixed(plain, rule="prev").edge_weights().tolist()


@pytest.mark.parametrize("entries", ENTRIES)
def test_the_canonical_form_holds_the_weights(entries: tuple[str, ...]) -> None:
    graph = read(*(entry.replace("%s", START) for entry in entries))
    text = dumps(graph)
    assert "start" not in text
    assert loads(text) == graph


def test_the_chain_of_a_complete_graph_and_of_a_bipartite() -> None:
    assert ones(read(f'{{connect: complete, nodes: "n[0..8]", {START}}}')) == {f"n{i}-n{i + 1}" for i in range(8)}
    layers = read(
        '{from: image, to: "n[1..3]"}',
        f'{{connect: bipartite, from: "n[0..3]", to: "n[4..7]", {START}}}',
        '{from: "n[4..7]", to: n8}',
    )
    assert ones(layers) == {f"n{i}-n{i + 4}" for i in range(4)}


def test_the_choice_is_among_all_candidates_and_the_weights_are_those_of_the_entry() -> None:
    chain = '{connect: chain, nodes: "n[0..7]"}'
    early = read(
        chain, f"{{from: [n0, n1], to: n8, {START}}}", "{from: [n6, n7], to: n8, learnable: true, weight: 0.5}"
    )
    into = {edge.src: edge.weight for edge in early.edges if edge.dst == "n8"}
    assert into == {"n0": 0.0, "n1": 0.0, "n6": 0.5, "n7": 0.5}
    late = read(chain, "{from: [n0, n1], to: n8, learnable: true, weight: 0.5}", f"{{from: [n6, n7], to: n8, {START}}}")
    into = {edge.src: edge.weight for edge in late.edges if edge.dst == "n8"}
    assert into == {"n0": 0.5, "n1": 0.5, "n6": 0.0, "n7": 1.0}


@pytest.mark.parametrize(
    ("entry", "place", "text"),
    [
        (
            f"{{connect: complete, {START}, weight: 0, nodes: 'n[0..8]'}}",
            "8:42",
            "'start' gives these edges their weig",
        ),
        (
            "{connect: complete, start: chain, nodes: 'n[0..8]'}",
            "8:25",
            "'start' is for learnable edges; add 'learnable",
        ),
        ("{connect: chain, start: chian, nodes: n0}", "8:29", "unknown start 'chian'; did you mean 'chain'?"),
        ("{connect: chain, start: [chain], nodes: n0}", "8:29", "expected a start, such as chain, not ['chain']"),
        ("{from: n0, to: n1, learnable: true, strat: chain}", "8:41", "unknown key 'strat' of an edge; did you mean"),
        (f"{{into: {{n1: [n0: 0.5]}}, {START}}}", "8:22", "'start: chain' gives 'n0' its weight; drop this one, or"),
    ],
)
def test_what_is_wrong_with_a_start(entry: str, place: str, text: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(entry)
    assert str(caught.value).startswith(f"g.yaml:{place}: {text}")


def test_a_mean_counts_candidates_at_0() -> None:
    text = TEXT.replace("channels: 4}", "channels: 4, aggregate: mean}") % (
        f'  - {{connect: complete, nodes: "n[0..8]", {START}}}'
    )
    with pytest.raises(FormatError) as caught:
        loads(text, "g.yaml")
    assert str(caught.value) == (
        "g.yaml:8:67: node 'n1' takes the mean, which also counts the candidates that 'start: chain' sets to 0; use"
        " 'aggregate: sum' there"
    )


def test_a_mean_gives_each_of_n_candidates_its_share() -> None:
    graph = read('{connect: complete, nodes: "n[0..8]", learnable: true, start: mean}')
    assert [edge.weight for edge in graph.edges if edge.learnable] == [1 / j for j in range(1, 9) for _ in range(j)]
    assert loads(dumps(graph)) == graph
    mean = TEXT.replace("channels: 4}", "channels: 4, aggregate: mean}") % '  - {connect: complete, nodes: "n[0..8]"}'
    net, fixed = compile(graph).eval(), compile(loads(mean)).eval()
    fixed.load_state_dict(net.state_dict())
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(net(image), fixed(image))


def test_a_mean_of_a_mean_is_an_error() -> None:
    entry = '  - {connect: complete, nodes: "n[0..8]", learnable: true, start: mean}'
    with pytest.raises(
        FormatError, match=r"g.yaml:8:6\d: node 'n1' takes the mean, which already divides by the number"
    ):
        loads(TEXT.replace("channels: 4}", "channels: 4, aggregate: mean}") % entry, "g.yaml")


def test_it_can_be_set() -> None:
    sums = {f"nodes.{nodes}.aggregate": "sum" for nodes in ("block[1..6]", "block[7..12]", "block[13..18]")}
    graph = load_graph("resnet38-cifar100", {**sums, "edges.3.start": "chain"})
    assert ones(graph) == {f"block{i}-block{i + 1}" for i in range(1, 18)}


def test_the_network_computes_what_the_chain_computes_and_every_weight_learns() -> None:
    searched = read(f'{{connect: complete, nodes: "n[0..8]", {START}}}')
    image = torch.randn(5, 3, 8, 8)
    for learner in (None, Continuous(searched)):
        net = compile(searched, learner)
        x = image
        for i in range(9):
            x = net.nodes[f"n{i}"](x)
        assert torch.equal(net(image), x)
    (net(image) * torch.randn(5, 4, 8, 8)).sum().backward()
    assert learner is not None
    assert learner.alpha.grad is not None
    assert bool((learner.alpha.grad != 0).all())  # at 0, too


BRANCHES = """\
topolearn: 1
name: g
inputs: {signal: {length: 8, channels: 4}}
nodes:
  attend[1..2]: {op: transformer.attention, heads: 2, positions: rotary}
  think[1..2]: {op: OP}
  pool: {op: token_pool}
edges:
  - {connect: complete, nodes: [signal, attend1, think1, attend2, think2, pool], learnable: true START}
MORE
outputs: [pool]
"""


def branches(start: str, op: str = "transformer.mlp", more: str = "") -> str:
    return BRANCHES.replace("OP", op).replace(" START", start).replace("MORE", more)


@pytest.mark.parametrize("op", ["transformer.mlp", "layer_norm"])
def test_a_chain_of_branches_is_hinted_at(op: str) -> None:
    with pytest.warns(UserWarning, match="'start'") as caught:
        graph = loads(branches(", start: chain", op), "g.yaml")
    node, source = ("think1", "attend1") if op == "transformer.mlp" else ("attend2", "think1")
    kind = "mlp" if op == "transformer.mlp" else "attention"
    (message,) = [str(each.message) for each in caught]
    assert message == (
        f"g.yaml:9:106: '{node}' begins by reading '{source}' alone, and 'transformer.{kind}' has no residual"
        " connection of its own, so the network begins without any; leave 'start' out: then all edges start at 1"
    )
    assert loads(dumps(graph)) == graph  # without a hint


def test_branches_with_a_residual_connection_are_as_they_should_be() -> None:
    loads(branches(""), "g.yaml")
    loads(branches(", start: mean"), "g.yaml")
    every = "signal, attend1, think1, attend2, think2"
    fixed = (
        f"  - {{connect: complete, nodes: [{every}]}}\n  - {{from: [{every}], to: pool, learnable: true, start: chain}}"
    )
    text = branches("").splitlines(keepends=True)
    loads("".join(text[:8]) + fixed + "\n" + text[-1], "g.yaml")
