"""The rules of the baselines."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.learners.samples import batch, complete, graph, network, step, vectors
from topolearn import optimizers, prune
from topolearn.errors import OptionError
from topolearn.format import loads
from topolearn.graph import Graph, KeepEdges, apply_passes
from topolearn.learners import Fixed


def wired(searched: Graph, **options: Any) -> dict[str, list[str]]:
    """What each node reads through learnable edges."""
    keep = Fixed(searched, **options).edge_weights().tolist()
    return {node: [searched.edges[i].src for i in indices if keep[i]] for node, indices in searched.candidates.items()}


def bipartite(sources: int, targets: int) -> Graph:
    return loads(f"""
topolearn: 1
name: two-layers
inputs: {{x: [2]}}
nodes:
  a[1..{sources}]: {{op: linear, out_features: 2}}
  b[1..{targets}]: {{op: linear, out_features: 2, aggregate: mean}}
  out: {{op: identity, aggregate: mean}}
edges:
  - {{from: x, to: "a[1..{sources}]"}}
  - {{connect: bipartite, from: "a[1..{sources}]", to: "b[1..{targets}]", learnable: true}}
  - {{connect: bipartite, from: "b[1..{targets}]", to: [out]}}
outputs: [out]
""")


def test_prev_on_a_complete_graph_is_the_latest_candidate() -> None:
    assert wired(complete(5)) == {f"n{i}": ["image" if i == 1 else f"n{i - 1}"] for i in range(1, 6)}
    resnet = graph("resnet38-cifar100")
    assert wired(resnet) == {f"block{i}": [f"block{i - 1}"] for i in range(2, 19)}


def test_prev_on_a_bipartite_graph_is_the_same_position() -> None:
    assert wired(bipartite(4, 4)) == {f"b{i}": [f"a{i}"] for i in range(1, 5)}
    assert wired(bipartite(4, 2)) == {"b1": ["a1"], "b2": ["a2"]}
    assert wired(bipartite(2, 3)) == {"b1": ["a1"], "b2": ["a2"], "b3": ["a2"]}
    # A node that shares its candidates with nobody has no position.
    assert wired(bipartite(4, 1)) == {"b1": ["a4"]}


def test_prev_of_a_decoder_is_a_column_of_maps() -> None:
    """The latest candidate of the deepest stage is global; a decoder that read it alone would be blind."""
    found = wired(graph("decoder"))
    deepest = max(int(node[1:]) for node in found)
    assert found == {f"d{i}": [f"e{deepest}" if i == deepest else f"d{i + 1}"] for i in range(1, deepest + 1)}


def test_prev_on_the_digits_graph_is_six_separate_columns() -> None:
    found = wired(graph("digits"))
    assert all(found[f"{b}{i}"] == [f"{a}{i}"] for a, b in ("ab", "bc") for i in range(1, 7))
    assert found["join"] == ["c6"]


def test_prev_of_a_chain_of_residual_blocks_is_the_plain_network() -> None:
    net = network(complete(4, "conv_bn_relu", "mean"), Fixed(complete(4, "conv_bn_relu", "mean"))).eval()
    image = torch.randn(2, 3, 4, 4)
    x = image
    for name in ("n1", "n2", "n3", "n4", "head"):
        x = net.nodes[name](x)
    torch.testing.assert_close(net(image), x)


def test_full_is_everything() -> None:
    for name in ("vectors", "mixed", "digits"):
        searched = graph(name)
        assert all(Fixed(searched, rule="full").topology().keep)
        assert wired(searched, rule="full") == {
            node: [searched.edges[i].src for i in indices] for node, indices in searched.candidates.items()
        }


def test_given_is_what_the_graph_computes() -> None:
    searched = loads("""
topolearn: 1
name: skipping
inputs: {image: [2, 4, 4]}
nodes:
  a: {op: conv_bn_relu, out_channels: 2}
  b: {op: relu}
  head: {op: classifier, classes: 3}
edges:
  - {from: image, to: a}
  - {from: image, to: b, learnable: true, weight: 0.0}
  - {from: a, to: b, learnable: true, weight: 0.5}
  - {from: b, to: head}
outputs: [head]
""")
    weights = [edge.weight for edge in searched.edges]
    learner = Fixed(searched, rule="given")
    assert learner.edge_weights().tolist() == weights
    assert learner.topology().keep == tuple(weight != 0 for weight in weights)
    assert learner.topology().weights == tuple(weights)
    assert learner.fan_in == 1
    assert wired(graph("digits"), rule="given") == wired(graph("digits"), rule="full")


@pytest.mark.parametrize("fan_in", [None, 1, 2, 5])
def test_random_takes_k_distinct_or_all_there_are(fan_in: int | None) -> None:
    searched = complete(6)
    for seed in range(5):
        for node, sources in wired(searched, rule="random", fan_in=fan_in, seed=seed).items():
            assert len(set(sources)) == len(sources) == min(fan_in or 3, len(searched.candidates[node]))


def test_random_is_the_seeds() -> None:
    searched = complete(8)
    assert wired(searched, rule="random", seed=1) == wired(searched, rule="random", seed=1)
    assert len({str(wired(searched, rule="random", seed=seed)) for seed in range(10)}) == 10


def test_random_is_uniform_per_target() -> None:
    searched = bipartite(5, 2)
    runs = [wired(searched, rule="random", fan_in=2, seed=seed) for seed in range(1000)]
    for node in ("b1", "b2"):
        seen = Counter(tuple(run[node]) for run in runs)
        assert len(seen) == 10
        chi_square = sum((n - 100) ** 2 / 100 for n in seen.values())
        assert chi_square < 9 + 4 * (2 * 9) ** 0.5
    both = Counter(run["b1"] == run["b2"] for run in runs)
    assert both[True] == pytest.approx(100, abs=40)  # the targets draw independently


@settings(max_examples=25)
@given(nodes=st.integers(2, 9), seed=st.integers(0, 2**31), data=st.data())
def test_a_number_of_edges_is_what_is_left_after_pruning(nodes: int, seed: int, data: st.DataObject) -> None:
    searched = complete(nodes)
    total = sum(map(len, searched.candidates.values()))
    count = data.draw(st.integers(nodes, total))
    learner = Fixed(searched, rule="random", edges=count, seed=seed)
    small = prune(network(searched, learner)).graph
    learnable = {(edge.src, edge.dst) for edge in searched.edges if edge.learnable}
    assert sum((edge.src, edge.dst) in learnable for edge in small.edges) >= count
    assert int(learner.mask.sum()) == sum((edge.src, edge.dst) in learnable for edge in small.edges)


def test_a_number_of_edges_in_a_decoder_is_met_exactly() -> None:
    searched = graph("fdn-mobilenetv2-camvid")
    wirings = set()
    for seed in range(20):
        learner = Fixed(searched, rule="random", edges=15, seed=seed)
        small = apply_passes(searched, KeepEdges(learner.topology()))
        assert sum(edge.op == "conv_resize" for edge in small.edges) == 15
        wirings.add(tuple(small.edges))
    assert len(wirings) == 20


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rule": "random", "edges": 200}, "'edges' is 200, but graph 'digits' has 78 learnable edges"),
        ({"rule": "random", "edges": 20, "fan_in": 2}, "give 'fan_in', a size per node, or 'edges', one for all"),
        ({"rule": "prev", "edges": 20}, "'edges' belongs to rule 'random', not 'prev'"),
        ({"rule": "random", "edges": 0}, "'edges'"),
    ],
)
def test_numbers_of_edges_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Fixed(graph("digits"), **options)
    assert text in str(caught.value)


def test_weights_are_one_whatever_the_graph_says() -> None:
    searched = graph("mixed")
    learner = Fixed(searched, rule="full")
    expected = [1.0 if edge.learnable else edge.weight for edge in searched.edges]
    assert learner.edge_weights().tolist() == expected
    assert list(learner.topology().weights) == expected


@pytest.mark.parametrize("rule", ["prev", "full", "random"])
def test_mean_divides_by_the_chosen_in_edges(rule: str) -> None:
    searched = vectors(4)
    net = network(searched, Fixed(searched, rule=rule))
    inputs = batch(searched)
    chosen = wired(searched, rule=rule)["mix"]
    mean = sum(inputs[name] for name in chosen) / len(chosen)
    torch.testing.assert_close(net(**inputs), net.nodes["mix"](mean))
    small = prune(net)
    torch.testing.assert_close(small(**{name: inputs[name] for name in chosen}), net(**inputs))


def test_learns_nothing_about_edges() -> None:
    searched = graph("mixed")
    learner = Fixed(searched, rule="random")
    net = network(searched, learner)
    chosen = optimizers(net, lr=0.1)
    assert len(chosen) == 1
    before = learner.edge_weights().clone()
    for number in range(3):
        step(net, chosen, number)
    assert torch.equal(learner.edge_weights(), before)
    assert list(learner.parameters()) == []
    assert learner.param_groups(0.1) == []
    assert [phase.search for phase in learner.phases()] == [False]
