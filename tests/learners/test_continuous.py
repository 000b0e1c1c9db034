"""Continuous edge weights against their formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.learners.samples import batch, complete, graph, loss_of, network, vectors
from topolearn import optimizers, prune
from topolearn.compiler import Network
from topolearn.errors import TrainingError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.learners import Continuous, SearchSchedule
from topolearn.learners.continuous import AUTO_LIMIT, REFERENCE_SCHEDULE


def stage(count: int, aggregate: str = "sum") -> Graph:
    """A complete stage: a stem as its input, ``count`` nodes, an output that only aggregates."""
    return loads(f"""
topolearn: 1
name: stage
inputs: {{image: [3, 6, 6]}}
nodes:
  stem: {{op: conv_bn_relu, out_channels: 4}}
  n[1..{count}]: {{op: relu_conv_bn, out_channels: 4, affine: false, aggregate: {aggregate}}}
  out: {{op: identity, aggregate: {aggregate}}}
edges:
  - {{from: image, to: stem}}
  - {{connect: complete, nodes: [stem, "n[1..{count}]", out], learnable: true}}
outputs: [out]
""")


def set_alpha(learner: Continuous, **values: float) -> None:
    """Weights by ``src__dst``; 0 for the rest."""
    edges = [learner.graph.edges[i] for i in learner.candidates.index.tolist()]
    with torch.no_grad():
        learner.alpha.copy_(torch.tensor([values.get(f"{e.src}__{e.dst}", 0.0) for e in edges]))


def survivors(learner: Continuous) -> set[str]:
    """The kept learnable edges."""
    keep = learner.topology().keep
    edges = learner.graph.edges
    return {f"{e.src}__{e.dst}" for e, kept in zip(edges, keep, strict=True) if kept and e.learnable}


# -- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [1, 4])
def test_a_complete_stage_at_one_is_the_residual_chain(count: int, training: bool) -> None:
    searched = stage(count)
    assert sum(edge.learnable for edge in searched.edges) == (count + 1) * (count + 2) // 2
    net = network(searched, Continuous(searched)).train(training)
    image = torch.randn(5, 3, 6, 6)
    x = net.nodes["stem"](image)
    for number in range(1, count + 1):
        x = x + net.nodes[f"n{number}"](x)
    torch.testing.assert_close(net(image), x, atol=1e-5, rtol=1e-5)


def test_starts_from_the_weights_of_the_graph() -> None:
    searched = graph("mixed")
    learner = Continuous(searched)
    assert learner.edge_weights().tolist() == [edge.weight for edge in searched.edges]
    assert [e.weight for e in searched.edges if e.learnable].count(0.5) == 1
    assert learner.active() is None


def with_gradients(searched: Graph, learner: Continuous) -> tuple[Network, dict[str, list[tuple[Tensor, Tensor]]]]:
    """The network after a backward pass in double precision; alpha and its gradient by target."""
    net = network(searched, learner).double()
    with torch.no_grad():
        learner.alpha.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    (loss_of(net(**batch(searched, 1, count=6, dtype=torch.float64)))).backward()
    assert learner.alpha.grad is not None
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    pairs = zip(learner.candidates.index.tolist(), learner.alpha.detach(), learner.alpha.grad, strict=True)
    for i, alpha, gradient in pairs:
        found.setdefault(searched.edges[i].dst, []).append((alpha, gradient))
    return net, found


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_batch_normalisation_makes_the_scale_of_a_node_free(aggregate: str) -> None:
    searched = stage(4, aggregate)
    _, found = with_gradients(searched, Continuous(searched))
    for node, pairs in found.items():
        along = float(sum(a * g for a, g in pairs))
        size = float(sum((a * g).abs() for a, g in pairs))
        if node == "out":  # nothing removes its scale
            assert abs(along) > 0.1 * size
        elif len(pairs) > 1:
            assert abs(along) < 1e-3 * size


@pytest.mark.parametrize("aggregate", ["sum", "mean"])
def test_gradient_is_the_inner_product_with_the_source(aggregate: str) -> None:
    searched = stage(2, aggregate)
    learner = Continuous(searched)
    net, found = with_gradients(searched, learner)
    a = {f"{e.src}__{e.dst}": w for e, w in zip(searched.edges, learner.edge_weights().detach(), strict=True)}
    # By hand, with a leaf where each node aggregates.
    x = {"stem": net.nodes["stem"](batch(searched, 1, count=6, dtype=torch.float64)["image"])}
    sums: dict[str, Tensor] = {}
    for node in ("n1", "n2", "out"):
        divisor = len(x) if aggregate == "mean" else 1
        sums[node] = sum(a[f"{source}__{node}"] * value for source, value in x.items()) / divisor
        sums[node].retain_grad()
        x[node] = net.nodes[node](sums[node])
    loss_of(x["out"]).backward()
    for node, pairs in found.items():
        sources = [searched.edges[i].src for i in searched.candidates[node]]
        divisor = len(sources) if aggregate == "mean" else 1
        for source, (_, gradient) in zip(sources, pairs, strict=True):
            pull = sums[node].grad
            assert pull is not None
            torch.testing.assert_close(gradient, (pull * x[source].detach()).sum() / divisor)


# -- the penalty ---------------------------------------------------------------------------------


def test_penalties() -> None:
    searched = complete(3)  # image and three nodes: in-degrees 1, 2, 3
    values = torch.linspace(-1, 1, 6)
    degrees = torch.tensor([1.0, 2.0, 2.0, 3.0, 3.0, 3.0])
    for penalty, scale in (("uniform", torch.ones(6)), ("adaptive", degrees.log())):
        learner = Continuous(searched, penalty=penalty, penalty_strength=0.7)
        with torch.no_grad():
            learner.alpha.copy_(values)
        loss = learner.penalty()
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0.7 * float((scale * values.abs()).sum()))
        torch.testing.assert_close(learner.alpha.grad, 0.7 * scale * values.sign())


def test_adaptive_penalty_spares_a_node_with_one_input() -> None:
    learner = Continuous(complete(3), penalty="adaptive", penalty_strength=1.0)
    set_alpha(learner, image__n1=5.0)
    assert float(learner.penalty().detach()) == 0.0
    set_alpha(learner, image__n2=5.0)
    assert float(learner.penalty().detach()) == pytest.approx(5 * math.log(2))


def test_adaptive_degree_counts_fixed_edges() -> None:
    searched = graph("mixed")
    learner = Continuous(searched, penalty_strength=1.0)
    set_alpha(learner, stem__b=1.0)  # b has one fixed in-edge besides
    assert float(learner.penalty().detach()) == pytest.approx(math.log(2))


@pytest.mark.parametrize("proximal", [False, True])
def test_survivors_fall_monotonically_with_lambda(proximal: bool) -> None:
    # The target holds source i times (i + 1) / 8, and the node's layer is fixed: least squares with an
    # L1 penalty, whose solution is alpha_i = (i + 1) / 8 - lambda / 2, or 0.
    searched = vectors(8, 1, aggregate="sum")
    truth = torch.arange(1, 9) / 8
    counts = []
    for strength in (0.0, 0.4, 0.9, 1.4, 2.5):
        learner = Continuous(searched, penalty="uniform", penalty_strength=strength, proximal=proximal)
        net = network(searched, learner)
        with torch.no_grad():
            net.nodes["mix"].linear.weight.fill_(1.0)
        net.nodes["mix"].linear.weight.requires_grad_(False)
        learner.begin(SearchSchedule(steps=250, total_lr=6.25, peak_lr=0.05, momentum=0.9))
        (optimizer,) = optimizers(net, lr=0.05)
        numbers = torch.Generator().manual_seed(0)
        for number in range(250):
            optimizer.param_groups[-1]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * number / 250))
            x = torch.randn(64, 8, generator=numbers)
            error = net(**{f"s{i}": x[:, i : i + 1] for i in range(8)})[:, 0] - x @ truth
            (error.square().mean() + learner.penalty()).backward()
            optimizer.step()
            optimizer.zero_grad()
            learner.after_step()
        expected = (truth - strength / 2).clamp(min=0)
        torch.testing.assert_close(learner.alpha.detach(), expected, atol=0.05, rtol=0)
        if proximal and strength:
            assert int((learner.alpha == 0).sum()) == int((expected == 0).sum())
        if strength < 2:
            counts.append(len(survivors(learner)))
    assert counts == [8, 7, 5, 3]


@pytest.mark.parametrize("proximal", [False, True])
@pytest.mark.parametrize(("factor", "left"), [(1.0, 0.0), (0.5, 0.5)])
def test_auto_lambda_drives_an_edge_without_task_gradient_to_zero(proximal: bool, factor: float, left: float) -> None:
    searched = vectors(3)
    learner = Continuous(searched, penalty="uniform", auto_factor=factor, proximal=proximal)
    (optimizer,) = optimizers(network(searched, learner), lr=0.1)
    steps = 1000
    rates = [0.1 * 0.5 * (1 + math.cos(math.pi * number / steps)) for number in range(steps)]
    learner.begin(SearchSchedule(steps, sum(rates), 0.1, 0.9))
    assert learner.strength == pytest.approx(factor * (1 - 0.9) / sum(rates))
    for rate in rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        task = learner.edge_weights()[0] * 0.0  # no pull at any edge, but a gradient
        (task + learner.penalty()).backward()
        optimizer.step()
        optimizer.zero_grad()
        learner.after_step()
    # Momentum builds up over the first ten steps, which is why the last two percent are missing.
    assert learner.alpha.tolist() == pytest.approx([left] * 3, abs=0.03)
    if proximal and not left:
        assert learner.alpha.tolist() == [0.0] * 3


def test_auto_lambda_of_the_reference_schedule_and_its_limit() -> None:
    learner = Continuous(vectors(), auto_factor=1.0)
    assert learner.strength == pytest.approx(2.6e-5, rel=0.02)
    learner = Continuous(vectors())
    assert learner.strength == pytest.approx(2.6e-4, rel=0.02)
    learner.begin(SearchSchedule(steps=10, total_lr=0.5, peak_lr=0.1, momentum=0.9))
    assert learner.strength == AUTO_LIMIT
    Continuous(vectors()).begin(SearchSchedule(steps=800, total_lr=40.0, peak_lr=0.1, momentum=0.9))  # says nothing
    given = Continuous(vectors(), penalty_strength=0.3)
    given.begin(REFERENCE_SCHEDULE)
    assert given.strength == 0.3


@pytest.mark.parametrize(
    ("options", "strength"),
    [({}, 0.0), ({"auto_factor": 2.0}, 5.2e-5), ({"penalty_strength": 0.3}, 0.3), ({"cost": "macs"}, 0.0)],
)
def test_with_a_budget_there_is_no_penalty_but_what_is_asked_for(options: dict[str, Any], strength: float) -> None:
    learner = Continuous(stage(3), budget={"macs": 0.9}, **options)
    learner.begin(REFERENCE_SCHEDULE)
    assert learner.strength == pytest.approx(strength, rel=0.02)
    assert (float(learner.penalty().detach()) > 0) == (strength > 0)


def test_a_factor_that_meets_the_limit_says_so() -> None:
    short = SearchSchedule(steps=800, total_lr=40.0, peak_lr=0.1, momentum=0.9)
    learner = Continuous(vectors(), auto_factor=30.0)
    with pytest.warns(UserWarning, match="'auto_factor'") as warned:
        learner.begin(short)
    assert [str(each.message) for each in warned] == [
        "'auto_factor' 30 asks for lambda 0.075 in this short search, but 'auto' chooses at most 0.02; factors above"
        " 8 change nothing; search longer, or give 'penalty_strength' as a number"
    ]
    assert learner.strength == AUTO_LIMIT
    # Nothing is said where the factor decides, or has no say.
    Continuous(vectors(), auto_factor=7.9).begin(short)
    Continuous(vectors(), auto_factor=30.0, penalty_strength=0.3).begin(short)
    Continuous(vectors(), auto_factor=30.0).begin(REFERENCE_SCHEDULE)


def test_trained_by_the_optimizer_of_the_weights() -> None:
    searched = vectors()
    learner = Continuous(searched)
    (optimizer,) = optimizers(network(searched, learner), lr=0.05, momentum=0.8, weight_decay=0.1)
    weights, own = optimizer.param_groups
    assert own["params"] == [learner.alpha]
    assert (own["lr"], own["momentum"], own["weight_decay"]) == (0.05, 0.8, 0.0)
    assert weights["weight_decay"] == 0.1


def test_proximal_needs_to_know_the_rate() -> None:
    learner = Continuous(vectors(), proximal=True)
    with pytest.raises(TrainingError, match=r"topolearn.optimizers, or call learner.on_learning_rate"):
        learner.after_step()
    assert float(learner.penalty()) == 0.0
    learner.on_learning_rate(0.1)
    learner.after_step()


# -- the end of the search -----------------------------------------------------------------------


def test_keeps_what_is_near_the_largest_of_its_own_target() -> None:
    learner = Continuous(complete(3), threshold=0.1)
    set_alpha(learner, image__n1=0.001, image__n2=-2.0, n1__n2=0.19, image__n3=1.0, n1__n3=0.1, n2__n3=-0.099)
    assert survivors(learner) == {"image__n1", "image__n2", "image__n3", "n1__n3"}
    weights = dict(zip(((e.src, e.dst) for e in learner.graph.edges), learner.topology().edge_weights(), strict=True))
    assert weights["image", "n2"] == -2.0
    assert weights["n1", "n2"] == 0.0


def test_keeps_the_largest_of_each_target() -> None:
    values = {"image__n1": 0.001, "image__n2": -2.0, "n1__n2": 0.5, "image__n3": 0.3, "n1__n3": -0.4, "n2__n3": 0.2}
    for keep, expected in (
        (1, {"image__n1", "image__n2", "n1__n3"}),
        (2, {"image__n1", "image__n2", "n1__n2", "image__n3", "n1__n3"}),
        (3, set(values)),  # all there are
        (9, set(values)),  # more than any node has
        (None, set(values)),
    ):
        learner = Continuous(complete(3), keep=keep)
        set_alpha(learner, **values)
        assert survivors(learner) == expected
        assert learner.summary()["kept_edges"] == len(expected)


def test_of_equals_the_later_source_stays() -> None:
    learner = Continuous(complete(4), keep=2)
    set_alpha(learner, image__n1=1, image__n2=1, n1__n2=1, image__n3=1, n1__n3=-1, n2__n3=1, n1__n4=0.5, n2__n4=-0.5)
    assert survivors(learner) == {"image__n1", "image__n2", "n1__n2", "n1__n3", "n2__n3", "n1__n4", "n2__n4"}


def test_an_edge_must_reach_the_threshold_too_and_not_be_0() -> None:
    learner = Continuous(complete(4), keep=2, threshold=0.5)
    set_alpha(learner, image__n1=1, image__n2=1, n1__n2=0.4, image__n3=1, n1__n3=0.9, n2__n3=0.8, n3__n4=1)
    assert survivors(learner) == {"image__n1", "image__n2", "image__n3", "n1__n3", "n3__n4"}


def test_fixed_edges_are_not_counted_among_those_kept() -> None:
    searched = graph("mixed")  # b and d read a fixed edge beside learnable ones
    learner = Continuous(searched, keep=1, threshold=0.0)
    set_alpha(learner, stem__b=0.1, stem__c=0.2, a__c=0.1, b__c=0.3, a__d=0.3, b__d=0.2, c__d=0.1)
    assert survivors(learner) == {"stem__b", "b__c", "a__d"}
    kept = {(e.src, e.dst) for e, keep in zip(searched.edges, learner.topology().keep, strict=True) if keep}
    assert ("a", "b") in kept


def test_fixed_edges_count_for_the_largest() -> None:
    searched = graph("mixed")
    learner = Continuous(searched, threshold=0.5)
    values = {f"{e.src}__{e.dst}": 1.0 for e in searched.edges if e.learnable}
    set_alpha(learner, **values | {"stem__b": 0.37})  # beside a fixed edge of weight -0.75
    assert survivors(learner) == values.keys() - {"stem__b"}
    set_alpha(learner, **values | {"stem__b": 0.38})
    assert survivors(learner) == values.keys()


def test_a_node_whose_weights_are_all_zero_goes_and_takes_its_edges_along() -> None:
    learner = Continuous(complete(3))
    set_alpha(learner, image__n1=1.0, image__n3=1.0, n2__n3=1.0)
    assert survivors(learner) == {"image__n1", "image__n3"}
    net = network(learner.graph, learner)
    assert "n2" not in prune(net).graph.nodes


@pytest.mark.parametrize("proximal", [False, True])
def test_a_path_is_always_left(proximal: bool) -> None:
    learner = Continuous(stage(3), proximal=proximal)
    set_alpha(learner, stem__n1=1.0, n1__n2=0.5, n2__out=0.0)
    with pytest.warns(UserWarning, match="no path from an input to 'out' is left; keeping the strongest"):
        small = prune(network(learner.graph, learner))
    assert small.graph.outputs == ("out",)
    assert bool(torch.isfinite(small.eval()(torch.randn(2, 3, 6, 6))).all())


@pytest.mark.parametrize("aggregate", ["sum", "mean", "normalised"])
def test_pruned_is_masked(aggregate: str) -> None:
    searched = complete(5, "relu_conv_bn", aggregate)
    learner = Continuous(searched, threshold=0.4)
    net = network(searched, learner)
    with torch.no_grad():
        learner.alpha.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    image = torch.randn(4, 3, 4, 4)
    net(image)  # statistics of batch normalisation other than 0 and 1
    small = prune(net.eval())
    keep = torch.tensor(learner.topology().keep)[learner.candidates.index]
    assert 5 <= int(keep.sum()) < len(keep)
    with torch.no_grad():
        learner.alpha.mul_(keep)  # a search that had these edges at 0: `mean` still divides by all
    torch.testing.assert_close(small(image), net(image), atol=1e-5, rtol=1e-5)
    assert {edge.weight for edge in small.graph.edges} != {1.0}
