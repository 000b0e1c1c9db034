"""Learners that score: planted losses give the right scores, order and choice, also after a break between two looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.learners.samples import batch
from topolearn import Network, compile, prune
from topolearn.errors import OptionError, TrainingError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.graph.price import Alive
from topolearn.learners import make_learner
from topolearn.learners.scoring import Ranking, per_price

BLOCKS = 5


def residual(widths: str = "1, 1, 1, 1, 1", channels: int = 4, size: str = "6, 6", classes: int = 3) -> Graph:
    """Five branches beside shortcuts: ``f1`` … ``f5``; branch i has ``widths[i]`` times the multiply-accumulates."""
    nodes, edges = [], []
    for i, width in enumerate(map(int, widths.split(",")), 1):
        last = "image" if i == 1 else f"s{i - 1}"
        nodes += [f"  g{i}: {{op: conv_bn_relu, out_channels: {channels * width}}}"]
        nodes += [f"  f{i}: {{op: conv_bn_relu, out_channels: {channels}}}", f"  s{i}: {{op: relu}}"]
        edges += [f"  - {{from: {last}, to: g{i}}}", f"  - {{from: g{i}, to: f{i}}}"]
        edges += [f"  - {{from: {last}, to: s{i}}}", f"  - {{from: f{i}, to: s{i}, learnable: true}}"]
    return loads(
        f"topolearn: 1\nname: residual\ninputs: {{image: [{channels}, {size}]}}\nnodes:\n"
        + "\n".join([*nodes, f"  head: {{op: classifier, classes: {classes}}}"])
        + "\nedges:\n"
        + "\n".join([*edges, f"  - {{from: s{BLOCKS}, to: head}}"])
        + "\noutputs: [head]\n"
    )


class Planted:
    """A trial with a loss that is known; counts the evaluations, and can end after some."""

    def __init__(self, loss: Callable[[Tensor], Tensor], stop: int | None = None) -> None:
        self.function, self.stop = loss, stop
        self.losses = self.pauses = 0

    def loss(self, edge_weights: Tensor, batch: int) -> Tensor:
        self.losses += 1
        return self.function(edge_weights) * (1 + batch)

    def watch(self, batch: int, see: Callable[[str, Mapping[int, Tensor]], None]) -> None:
        raise NotImplementedError

    def pause(self, done: str) -> None:
        self.pauses += 1
        if self.pauses == self.stop:
            raise KeyboardInterrupt


def branches(graph: Graph) -> list[int]:
    return [i for i, edge in enumerate(graph.edges) if edge.learnable]


def missing(values: list[float], graph: Graph) -> Callable[[Tensor], Tensor]:
    """A loss of ``values[i]`` for each branch i that is gone."""
    return lambda weights: (torch.tensor(values) * (weights[branches(graph)] == 0)).sum()


def learner(name: str, graph: Graph, **options: Any) -> Ranking:
    made = make_learner(name, graph, options)
    assert isinstance(made, Ranking)
    return made


def removed(learner: Ranking) -> set[str]:
    keep = learner.topology().keep
    return {learner.graph.edges[i].src for i in branches(learner.graph) if not keep[i]}


def test_taylor_is_weight_times_gradient() -> None:
    graph = residual()
    slopes = torch.tensor([0.3, -0.1, 0.2, -0.5, 0.4])
    ranking = learner("taylor", graph, budget={"macs": 0.65}, batches=3)
    ranking.score(Planted(lambda weights: (slopes * weights[branches(graph)]).sum()))
    assert torch.allclose(ranking.scores.float(), 2 * slopes.abs())  # the mean of batches worth 1, 2 and 3
    assert removed(ranking) == {"f2", "f3"}


def test_taylor_counts_the_edge_that_steps_in() -> None:
    graph = SPARE["bypassed"]
    slopes = torch.zeros(len(graph.edges))
    steps = {name: [i for i, edge in enumerate(graph.edges) if edge.dst == name] for name in ("s2", "s4")}
    for name, difference in (("s2", 0.0), ("s4", 0.25)):
        around, through = sorted(steps[name], key=lambda i: graph.edges[i].weight)
        slopes[through], slopes[around] = 3.0, 3.0 + difference
    ranking = learner("taylor", graph, budget={"macs": 0.9}, batches=1)
    ranking.score(Planted(lambda weights: (slopes * weights).sum()))
    assert [ranking.score_of(f"f{i}") for i in (1, 2, 4)] == pytest.approx([0.0, 0.0, 0.25], abs=1e-6)


def test_similarity_compares_a_sum_with_and_without_the_branch() -> None:
    graph = residual()
    shortcut, f = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0])
    factors = dict(zip(branches(graph), (0.0, 1.0, 0.5, 3.0, 2.0), strict=True))

    class Terms(Planted):
        def watch(self, batch: int, see: Callable[[str, Mapping[int, Tensor]], None]) -> None:
            for i, factor in factors.items():
                first, second = graph.in_edges(graph.edges[i].dst)
                other = first if i == second else second
                terms = {other: shortcut, i: factor * f}
                see(
                    graph.edges[i].dst, {key: value.view(1, 2, 1, 1).expand(2, 2, 3, 3) for key, value in terms.items()}
                )

    ranking = learner("similarity", graph, budget={"macs": 0.65}, batches=2)
    ranking.score(Terms(lambda weights: weights.sum()))
    for score, factor in zip(ranking.scores.tolist(), factors.values(), strict=True):
        whole = shortcut + factor * f
        assert score == pytest.approx(1 - float(whole[0] / whole.norm()), abs=1e-6)
    assert removed(ranking) == {"f1", "f3"}


def test_ablation_removes_what_the_loss_misses_least_and_looks_again() -> None:
    graph = residual()

    def loss(weights: Tensor) -> Tensor:
        gone = weights[branches(graph)] == 0
        costs = (torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]) * gone).sum()
        return costs + 2.0 * (gone[0] & gone[1])  # the second is needed once the first is gone

    ranking = learner("ablation", graph, budget={"macs": 0.65}, batches=1)
    trial = Planted(loss)
    ranking.score(trial)
    assert removed(ranking) == {"f1", "f3"}
    assert trial.losses == 1 + 5 + 4
    assert ranking.removed.tolist()[:3] == [branches(graph)[0], branches(graph)[2], -1]


def test_a_score_is_divided_by_what_it_saves() -> None:
    graph = residual("4, 1, 1, 1, 1")
    for name in ("ablation", "taylor"):
        costs = [0.3, 0.1, 0.2, 0.2, 0.2]  # f1 costs three times f2 and saves four times as much

        def loss(weights: Tensor, costs: list[float] = costs) -> Tensor:
            return (torch.tensor(costs) * (1 - weights[branches(graph)])).sum()

        ranking = learner(name, graph, budget={"macs": 0.55}, batches=1)
        ranking.score(Planted(loss))
        assert removed(ranking) == {"f1"}


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("name", ["ablation", "taylor", "random_blocks"])
def test_the_budget_is_met(name: str, kind: str) -> None:
    graph = residual("3, 1, 2, 1, 2")
    ranking = learner(name, graph, budget={kind: 0.5})
    ranking.score(Planted(lambda weights: (torch.arange(1.0, 6.0) * weights[branches(graph)]).square().sum()))
    spent = ranking.spent()
    assert spent is not None
    whole = graph.cost.macs if kind == "macs" else graph.cost.params
    small = prune(compile(graph), ranking.topology()).graph.cost
    assert (spent.kind, spent.full, spent.allowed) == (kind, whole, whole / 2)
    assert spent.reached == (small.macs if kind == "macs" else small.params) <= spent.allowed


def test_ablation_goes_on_where_it_was_stopped() -> None:
    graph = residual()
    loss = missing([0.2, 0.1, 0.4, 0.3, 0.5], graph)
    whole = learner("ablation", graph, budget={"macs": 0.45}, batches=2)
    undisturbed = Planted(loss)
    whole.score(undisturbed)
    for stop in range(1, undisturbed.pauses + 1):
        first = learner("ablation", graph, budget={"macs": 0.45}, batches=2)
        before = Planted(loss, stop)
        with pytest.raises(KeyboardInterrupt):
            first.score(before)
        second = learner("ablation", graph, budget={"macs": 0.45}, batches=2)
        second.load_state_dict(first.state_dict())
        after = Planted(loss)
        second.score(after)
        assert before.losses + after.losses == undisturbed.losses
        assert all(torch.equal(one, other) for one, other in zip(second.buffers(), whole.buffers(), strict=True))


def test_random_blocks_are_drawn_by_seed() -> None:
    graph = residual()
    drawn = set()
    for seed in range(30):
        ranking = learner("random_blocks", graph, budget={"macs": 0.65}, seed=seed)
        ranking.score(Planted(lambda weights: weights.sum()))
        drawn.add(frozenset(removed(ranking)))
    assert len(drawn) == 10  # all pairs of five
    assert all(len(pair) == 2 for pair in drawn)


@pytest.mark.parametrize("name", ["ablation", "taylor", "similarity", "random_blocks"])
def test_a_run_needs_a_budget(name: str) -> None:
    with pytest.raises(OptionError, match=f"learner '{name}' needs a budget, such as budget.macs=0.6"):
        learner(name, residual()).check()


def test_nothing_but_blocks_changes_before_pruning() -> None:
    graph = residual()
    ranking = learner("taylor", graph, budget={"macs": 0.5})
    torch.manual_seed(0)
    plain = compile(graph).eval()
    searched = Network(graph, ranking).eval()
    searched.load_state_dict(plain.state_dict(), strict=False)
    x = batch(graph)["image"]
    assert torch.equal(searched(x), plain(x))


def test_a_sweep_removes_edges_and_keeps_the_weights_of_the_graph() -> None:
    graph = residual()
    ranking = learner("taylor", graph, budget={"macs": 0.5})
    ranking.score(Planted(lambda weights: (torch.arange(1.0, 6.0) * weights[branches(graph)]).sum()))
    first = branches(graph)[0]
    assert ranking.without(()).edge_weights() == [1.0] * len(graph.edges)
    topology = ranking.without([first])
    assert {graph.edges[i].src for i, kept in enumerate(topology.keep) if not kept} >= {"f1"}
    assert set(topology.edge_weights()) == {0.0, 1.0}


DENSE = """
topolearn: 1
name: dense
inputs: {image: [4, 6, 6]}
nodes:
  f[1..4]: {op: conv_bn_relu, out_channels: 4}
  head: {op: classifier, classes: 3}
edges:
  - {from: image, to: "f[1..4]"}
  - {connect: complete, nodes: ["f[1..4]"], learnable: true}
  - {connect: bipartite, from: "f[1..4]", to: [head], learnable: true}
outputs: [head]
"""
"""Each block is read by all later ones, as in a stage without activations after its additions."""


@pytest.mark.parametrize("name", ["ablation", "taylor", "random_blocks"])
def test_a_block_with_several_readers_goes_as_a_whole(name: str) -> None:
    graph = loads(DENSE)
    starts = {node: [i for i, edge in enumerate(graph.edges) if edge.src == node] for node in ("f1", "f2", "f3", "f4")}
    worth = {"f1": 0.1, "f2": 0.9, "f3": 0.2, "f4": 0.5}

    def loss(weights: Tensor) -> Tensor:
        return -torch.stack([value * weights[starts[node]].mean() for node, value in worth.items()]).sum()

    removed = set()
    for seed in range(12 if name == "random_blocks" else 1):
        options: dict[str, Any] = {"seed": seed} if name == "random_blocks" else {"batches": 1}
        ranking = learner(name, graph, budget={"macs": 0.55}, **options)
        ranking.score(Planted(loss))
        keep = ranking.topology().keep
        gone = {node for node, edges in starts.items() if not any(keep[i] for i in edges)}
        stays = [{edge.src, edge.dst}.isdisjoint(gone) for edge in graph.edges]
        assert [keep[i] for i in branches(graph)] == [stays[i] for i in branches(graph)]
        removed.add(frozenset(gone))
    if name == "random_blocks":
        assert len(removed) > 3
        assert {len(gone) for gone in removed} == {2}
    else:
        assert removed == {frozenset({"f1", "f3"})}


CHAIN = """
topolearn: 1
name: chain
inputs: {image: [4, 8, 8]}
nodes:
  f[1..6]: {op: conv_bn_relu, out_channels: 4}
  head: {op: classifier, classes: 3}
edges:
  - {connect: complete, nodes: [image, "f[1..6]"], learnable: true, start: chain}
  - {from: f6, to: head}
outputs: [head]
"""
"""Blocks that can be skipped by edges of weight 0; the head needs the last one."""


def bypassed() -> Graph:
    """Six blocks, each with a learnable way around it, of weight 0."""
    lasts = ["image", *(f"s{i}" for i in range(1, 6))]
    edges = [
        f"  - {{from: {last}, to: f{i}}}\n  - {{from: f{i}, to: s{i}, learnable: true}}\n"
        f"  - {{from: {last}, to: s{i}, learnable: true, weight: 0.0}}"
        for i, last in enumerate(lasts, 1)
    ]
    return loads(
        "topolearn: 1\nname: bypassed\ninputs: {image: [4, 8, 8]}\nnodes:\n"
        "  f[1..6]: {op: conv_bn_relu, out_channels: 4}\n  s[1..6]: {op: relu}\n"
        "  head: {op: classifier, classes: 3}\nedges:\n"
        + "\n".join([*edges, "  - {from: s6, to: head}"])
        + "\noutputs: [head]\n"
    )


SPARE = {"chain": loads(CHAIN), "bypassed": bypassed()}


def dead(learner: Ranking) -> set[str]:
    """The blocks that are removed: ``f1`` …"""
    living = learner.kept().living()
    return {name for name in learner.graph.nodes if name.startswith("f") and name not in living}


@pytest.mark.parametrize("worth", [(0.1, 0.9, 0.8, 0.7, 0.6, 0.2), (0.9, 0.1, 0.8, 0.2, 0.7, 0.6)])
@pytest.mark.parametrize("name", ["ablation", "taylor"])
@pytest.mark.parametrize("kind", SPARE)
def test_blocks_without_a_shortcut_go_by_their_score(kind: str, name: str, worth: tuple[float, ...]) -> None:
    graph = SPARE[kind]
    values = {f"f{i}": value for i, value in enumerate(worth, 1)}
    used = {
        name: [i for i, edge in enumerate(graph.edges) if edge.src == name and edge.learnable and edge.weight]
        for name in values
    }

    def loss(weights: Tensor) -> Tensor:
        if name == "taylor":
            return -torch.stack([value * weights[used[block]].sum() for block, value in values.items()]).sum()
        living = Alive.of(graph, [bool(weight) for weight in weights.tolist()]).nodes
        return torch.tensor(sum(value for block, value in values.items() if block not in living))

    ranking = learner(name, graph, budget={"macs": 0.68}, batches=1)
    ranking.score(Planted(loss))
    able = list(values)[: None if kind == "bypassed" else -1]
    assert dead(ranking) == set(sorted(able, key=values.__getitem__)[:2])


@pytest.mark.parametrize(("kind", "pairs"), [("chain", 10), ("bypassed", 15)])
def test_every_set_of_blocks_can_be_drawn(kind: str, pairs: int) -> None:
    drawn = set()
    for seed in range(200):
        ranking = learner("random_blocks", SPARE[kind], budget={"macs": 0.68}, seed=seed)
        ranking.score(Planted(lambda weights: weights.sum()))
        drawn.add(frozenset(dead(ranking)))
    assert {len(blocks) for blocks in drawn} == {2}
    assert len(drawn) == pairs


def test_what_was_removed_comes_back_if_it_still_fits() -> None:
    graph = residual("1, 4, 1, 1, 1")  # f2 is half of it
    worth = torch.tensor([0.05, 1.9, 0.3, 0.4, 0.5])

    def loss(weights: Tensor) -> Tensor:
        return (worth * (1 - weights[branches(graph)])).sum()

    ranking = learner("taylor", graph, budget={"macs": 0.52}, batches=1)
    ranking.score(Planted(loss))
    assert ranking.order()[:4] == ["f1", "f3", "f4", "f2"]
    assert removed(ranking) == {"f2"}


def test_what_lowers_the_loss_goes_first() -> None:
    assert sorted([(-0.05, 1.0), (-0.1, 4.0), (0.2, 1.0), (0.3, 2.0)], key=lambda pair: per_price(*pair)) == [
        (-0.1, 4.0),
        (-0.05, 1.0),
        (0.3, 2.0),
        (0.2, 1.0),
    ]
    assert per_price(-1.0, 0.0) == per_price(1.0, -0.1) == math.inf


@pytest.mark.parametrize("name", ["ablation", "taylor"])
def test_a_loss_that_is_no_number_ends_the_run(name: str) -> None:
    graph = residual()
    ranking = learner(name, graph, budget={"macs": 0.65}, batches=2)
    with pytest.raises(TrainingError, match="is not finite"):
        ranking.score(Planted(lambda weights: weights.sum() * math.nan))


def test_ablation_keeps_a_block_without_which_the_loss_is_no_number() -> None:
    graph = residual()

    def loss(weights: Tensor) -> Tensor:
        gone = weights[branches(graph)] == 0
        return (torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]) * gone).sum() + (math.nan if gone[0] else 0.0)

    ranking = learner("ablation", graph, budget={"macs": 0.65}, batches=1)
    ranking.score(Planted(loss))
    assert removed(ranking) == {"f2", "f3"}


def test_a_budget_below_what_can_go_is_refused() -> None:
    with pytest.raises(OptionError, match=r"is less than graph 'chain' costs without all blocks .* at least 0\.1"):
        learner("taylor", SPARE["chain"], budget={"macs": 0.05})


def test_a_block_inside_a_branch_is_scored_where_the_branch_ends() -> None:
    text = """
topolearn: 1
name: nested
inputs: {image: [4, 6, 6]}
nodes:
  a: {op: conv_bn_relu, out_channels: 4}
  b: {op: conv_bn_relu, out_channels: 4}
  s: {op: relu}
  head: {op: classifier, classes: 3}
edges:
  - {from: image, to: a}
  - {from: a, to: b, learnable: true}
  - {from: image, to: s}
  - {from: b, to: s, learnable: true}
  - {from: s, to: head}
outputs: [head]
"""
    assert [block.source for block in learner("similarity", loads(text), budget={"macs": 0.9}).blocks] == ["b"]
