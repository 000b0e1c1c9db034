"""``connect`` patterns against the exact numbers of edges and the rules of their papers."""

from __future__ import annotations

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topolearn.errors import FormatError
from topolearn.format import loads
from topolearn.format.patterns import PATTERNS, Bipartite, Chain, Complete, Layers, Random, Residual


def names(count: int) -> tuple[str, ...]:
    return tuple(f"n{i}" for i in range(count))


def numbers(pairs: object) -> list[tuple[int, int]]:
    return [(int(src[1:]), int(dst[1:])) for src, dst in pairs]  # type: ignore[attr-defined]


@given(st.integers(2, 40))
def test_chain(count: int) -> None:
    pattern = Chain(nodes=names(count))
    assert numbers(pattern.pairs()) == [(i, i + 1) for i in range(count - 1)]
    assert pattern.count == count - 1


@given(st.integers(0, 30))
def test_a_complete_stage_of_n_nodes_between_input_and_output(count: int) -> None:
    pattern = Complete(nodes=names(count + 2))
    found = numbers(pattern.pairs())
    assert len(set(found)) == len(found) == pattern.count == (count + 1) * (count + 2) // 2
    assert all(src < dst for src, dst in found)


def test_three_stages_of_the_continuous_stand_ins() -> None:
    # specs/continuous.md: 84 edges for n = 6, 273 for n = 12, over three stages.
    for count, edges in ((6, 84), (12, 273)):
        assert 3 * Complete(nodes=names(count + 2)).count == edges


@given(st.integers(1, 8), st.integers(1, 8))
def test_bipartite(sources: int, targets: int) -> None:
    pattern = Bipartite.model_validate({"from": names(sources), "to": tuple(f"m{j}" for j in range(targets))})
    found = list(pattern.pairs())
    assert found == [(f"n{i}", f"m{j}") for j in range(targets) for i in range(sources)]
    assert pattern.count == len(found)


@given(st.integers(2, 6), st.integers(1, 6))
def test_layers_are_bipartite_from_each_to_the_next(count: int, width: int) -> None:
    pattern = Layers(nodes=names(count * width), width=width)
    found = numbers(pattern.pairs())
    assert len(found) == pattern.count == (count - 1) * width**2
    assert {(src // width, dst // width) for src, dst in found} == {(i, i + 1) for i in range(count - 1)}
    assert len(set(found)) == len(found)
    assert found == sorted(found, key=lambda pair: (pair[1], pair[0]))  # the canonical order of edges


@given(st.integers(2, 30))
def test_layers_of_one_are_a_chain(count: int) -> None:
    assert list(Layers(nodes=names(count), width=1).pairs()) == list(Chain(nodes=names(count)).pairs())


@given(st.integers(1, 8), st.integers(1, 6))
def test_residual_has_the_edges_of_the_formula(blocks: int, interval: int) -> None:
    inner = blocks * interval
    pattern = Residual(nodes=names(inner + 2), interval=interval)
    found = numbers(pattern.pairs())
    assert len(found) == (blocks + 1) * (blocks + 2) // 2 + blocks * (interval - 1) <= pattern.count
    for dst in range(1, inner + 2):
        sources = [src for src, target in found if target == dst]
        is_head = (dst - 1) % interval == 0  # of a block, or the output
        assert sources == ([i for i in range(dst) if i % interval == 0] if is_head else [dst - 1])


@given(st.integers(2, 20))
def test_residual_of_interval_1_is_the_complete_graph(count: int) -> None:
    assert list(Residual(nodes=names(count), interval=1).pairs()) == list(Complete(nodes=names(count)).pairs())


RANDOM = {
    "er": st.fixed_dictionaries({"p": st.floats(0, 1)}),
    "ws": st.fixed_dictionaries({"k": st.integers(1, 4), "p": st.floats(0, 1)}),
    "ba": st.fixed_dictionaries({"m": st.integers(1, 3)}),
}


@pytest.mark.parametrize("model", sorted(RANDOM))
@given(data=st.data(), inner=st.integers(4, 16), seed=st.integers(0, 1000))
def test_random_graphs_point_forward_and_leave_no_orphan(
    model: str, data: st.DataObject, inner: int, seed: int
) -> None:
    options = data.draw(RANDOM[model])
    pattern = Random(nodes=names(inner + 2), model=model, seed=seed, **options)  # type: ignore[arg-type]
    found = numbers(pattern.pairs())
    assert len(set(found)) == len(found) <= pattern.count
    assert all(src < dst for src, dst in found)
    assert numbers(pattern.pairs()) == found
    reached, useful = {0}, {inner + 1}
    for src, dst in sorted(found):
        if src in reached:
            reached.add(dst)
    for src, dst in sorted(found, reverse=True):
        if dst in useful:
            useful.add(src)
    assert set(range(1, inner + 1)) <= reached & useful
    # Only orphans are tied to input and output.
    within = [(src, dst) for src, dst in found if src > 0 and dst <= inner]
    assert {dst for src, dst in found if src == 0} == set(range(1, inner + 1)) - {dst for _, dst in within}
    assert {src for src, dst in found if dst == inner + 1} == set(range(1, inner + 1)) - {src for src, _ in within}


def test_random_graphs_are_networkx_s() -> None:
    inner = 12
    expected = {
        "er": (nx.erdos_renyi_graph(inner, 0.4, seed=3), {"p": 0.4}),
        "ws": (nx.watts_strogatz_graph(inner, 4, 0.3, seed=3), {"k": 4, "p": 0.3}),
        "ba": (nx.barabasi_albert_graph(inner, 2, seed=3), {"m": 2}),
    }
    for model, (graph, options) in expected.items():
        found = numbers(Random(nodes=names(inner + 2), model=model, seed=3, **options).pairs())  # type: ignore[arg-type]
        within = {(src - 1, dst - 1) for src, dst in found if src > 0 and dst <= inner}
        assert within == {(min(pair), max(pair)) for pair in graph.edges}
    other = numbers(Random(nodes=names(inner + 2), model="er", seed=4, p=0.4).pairs())
    assert other != numbers(Random(nodes=names(inner + 2), model="er", seed=3, p=0.4).pairs())


TEMPLATE = """\
topolearn: 1
name: g
inputs: {image: [3, 8, 8]}
nodes:
  n[0..7]: {op: relu}
edges:
  - {from: image, to: n0}
  - %s
outputs: [n7]
"""


def test_a_pattern_in_a_file_makes_edges_that_share_their_fields() -> None:
    graph = loads(TEMPLATE % '{connect: residual, nodes: "n[0..7]", interval: 3, learnable: true, weight: 0.5}')
    assert len(graph.edges) == 1 + 3 * 4 // 2 + 2 * 2
    assert all(edge.learnable and edge.weight == 0.5 for edge in graph.edges[1:])


def test_patterns_take_lists_of_ids_and_ranges() -> None:
    entries = (
        "{connect: bipartite, from: n0, to: ['n[1..3]', n4]}\n  - {connect: complete, nodes: ['n[1..4]', 'n[5..7]']}"
    )
    graph = loads(TEMPLATE % entries)
    assert len(graph.edges) == 1 + 4 + 7 * 6 // 2


@pytest.mark.parametrize(
    ("entry", "column", "message"),
    [
        ("{connect: compleet, nodes: n0}", 15, "unknown pattern 'compleet'; did you mean 'complete'?"),
        ("{connect: complete}", 5, "pattern 'complete' needs 'nodes'"),
        ("{connect: complete, nodes: [n0]}", 32, "should have at least 2 items, not 1"),
        ("{connect: complete, nodes: n0, to: n1}", 36, "unknown key 'to' of pattern 'complete'; known: connect, "),
        ("{connect: bipartite, from: n0, too: n1}", 36, "unknown key 'too' of pattern 'bipartite'; did you mean 'to'?"),
        ("{connect: layers, nodes: 'n[0..7]'}", 5, "pattern 'layers' needs 'width'"),
        ("{connect: layers, nodes: 'n[0..7]', width: 3}", 48, "is 3, but it must divide the 8 nodes into whole layers"),
        ("{connect: layers, nodes: 'n[0..7]', width: 8}", 48, "is 8, but it must be less than the 8 nodes, which make"),
        ("{connect: layers, nodes: 'n[0..7]', width: 0}", 48, "is 0, but it should be greater than 0"),
        ("{connect: layers, nodes: [n0], width: 1}", 30, "should have at least 2 items, not 1"),
        ("{connect: residual, nodes: 'n[0..7]', interval: 0}", 53, "is 0, but it should be greater than 0"),
        ("{connect: residual, nodes: 'n[0..7]', interval: 1.5}", 53, "is 1.5, but it should be a whole number"),
        ("{connect: random, nodes: 'n[0..7]', model: sw, p: 1}", 48, "'sw', but it should be 'er', 'ws' or 'ba'"),
        ("{connect: random, nodes: 'n[0..7]', model: er}", 5, "pattern 'random': model 'er' needs 'p'"),
        ("{connect: random, nodes: 'n[0..7]', model: er, p: 0.5, m: 1}", 5, "model 'er' takes no 'm'"),
        ("{connect: random, nodes: 'n[0..7]', model: er, p: 1.5}", 55, "should be at most 1"),
        ("{connect: random, nodes: 'n[0..7]', model: ba, m: 6}", 5, "m must be less than the 6 nodes between"),
        ("{connect: random, nodes: 'n[0..7]', model: ws, p: 0, k: 7}", 5, "k must be at most the 6 nodes between"),
        ("{connect: random, nodes: 'n[0..1]', model: er, p: 1}", 5, "needs at least three nodes"),
        ("{connect: random, nodes: 'n[0..7]', model: er, p: 1, seed: x}", 64, "'x', but it should be a whole number"),
    ],
)
def test_what_is_wrong_with_a_pattern(entry: str, column: int, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        loads(TEMPLATE % entry, "g.yaml")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"g.yaml:8:{column}: ")


def test_every_pattern_has_a_name_and_a_docstring() -> None:
    assert set(PATTERNS) == {"chain", "complete", "bipartite", "layers", "residual", "random", "fully_dense_decoder"}
    assert all(pattern.__doc__ for pattern in PATTERNS.values())
