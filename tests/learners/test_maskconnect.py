"""MaskConnect against its formulas."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.learners.samples import batch, complete, graph, network, step, vectors
from topolearn import optimizers, prune
from topolearn.format import loads
from topolearn.graph import Edge, Graph, Node
from topolearn.learners import MaskConnect


def many(targets: int, sources: int) -> Graph:
    """``targets`` nodes with the same candidates: as many draws at once."""
    nodes = [Node(f"s{i}", "input", {"size": (1,)}) for i in range(sources)]
    nodes += [Node(f"m{i}", "identity") for i in range(targets)]
    nodes.append(Node("out", "identity"))
    edges = [Edge(f"s{i}", f"m{j}", learnable=True) for j in range(targets) for i in range(sources)]
    edges += [Edge(f"m{j}", "out") for j in range(targets)]
    return Graph("many", nodes, tuple(edges), ("out",)).declare_inputs().verify()


def draws(learner: MaskConnect, sources: int, count: int) -> list[tuple[int, ...]]:
    """What each node drew, ``count`` times over."""
    found = []
    for _ in range(count):
        for row in learner.chosen().view(-1, sources):
            found.append(tuple(row.nonzero().flatten().tolist()))
        learner.after_step()
    return found


def set_masks(learner: MaskConnect, *values: float) -> None:
    """The same masks for every node."""
    with torch.no_grad():
        learner.mask.copy_(torch.tensor(values).repeat(len(learner.mask) // len(values)))


def without_replacement(masks: list[float], count: int) -> dict[tuple[int, ...], float]:
    """Probability of every set of ``count``: the sum over the orders in which it can be drawn."""
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(masks)), count):
        left, probability = sum(masks), 1.0
        for i in order:
            probability *= masks[i] / left
            left -= masks[i]
        key = tuple(sorted(order))
        found[key] = found.get(key, 0.0) + probability
    return found


# -- the draw ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fan_in", [1, 2, 4, 6])
def test_every_node_has_k_active_candidates_or_all_it_has(fan_in: int) -> None:
    searched = complete(6)
    learner = MaskConnect(searched, fan_in=fan_in)
    for mode in (True, False):
        learner.train(mode)
        for _ in range(20):
            with torch.no_grad():
                learner.mask.uniform_(0, 1)
            weights, active = learner.edge_weights().tolist(), learner.active().tolist()
            for indices in searched.candidates.values():
                assert sum(weights[i] for i in indices) == min(fan_in, len(indices))
            assert active == [w != 0 for w in weights]
            learner.after_step()


@pytest.mark.parametrize(
    ("masks", "fan_in"), [([0.1, 0.2, 0.3, 0.9], 2), ([1.0, 0.5, 0.25, 0.125, 0.05], 3), ([0.7, 0.01, 0.3], 1)]
)
def test_draws_follow_the_multinomial_without_replacement(masks: list[float], fan_in: int) -> None:
    learner = MaskConnect(many(500, len(masks)), fan_in=fan_in, seed=11)
    set_masks(learner, *masks)
    count = 20_000
    seen = Counter(draws(learner, len(masks), count // 500))
    expected = without_replacement(masks, fan_in)
    assert sum(expected.values()) == pytest.approx(1)
    chi_square = sum((seen[key] - count * p) ** 2 / (count * p) for key, p in expected.items())
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom)
    assert set(seen) <= set(expected)


def test_the_normalisation_leaves_the_masks_alone() -> None:
    learner = MaskConnect(many(1, 4), fan_in=2)
    set_masks(learner, 0.1, 0.2, 0.3, 0.9)
    learner.edge_weights()
    assert learner.mask.tolist() == pytest.approx([0.1, 0.2, 0.3, 0.9])
    with torch.no_grad():
        learner.mask.mul_(0.01)  # the scale of a node's masks does not matter
    other = MaskConnect(many(1, 4), fan_in=2)
    set_masks(other, 0.1, 0.2, 0.3, 0.9)
    assert torch.equal(learner.chosen(), other.chosen())


def test_too_little_mass_is_topped_up_uniformly_and_counted() -> None:
    targets = 400
    learner = MaskConnect(many(targets, 5), fan_in=3, seed=5)
    set_masks(learner, 0.0, 0.0, 1e-4, 0.0, 0.0)
    assert int(learner.top_ups) == 0
    seen = Counter(draws(learner, 5, 20))
    assert int(learner.top_ups) == 20 * targets
    total = sum(seen.values())
    assert set(seen) == {key for key in itertools.combinations(range(5), 3) if 2 in key}
    chi_square = sum((n - total / 6) ** 2 / (total / 6) for n in seen.values())
    assert chi_square < 5 + 4 * math.sqrt(10)
    set_masks(learner, 0.3, 0.0, 1e-4, 0.0, 0.2)
    draws(learner, 5, 3)
    assert int(learner.top_ups) == 20 * targets
    set_masks(learner, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert {len(key) for key in draws(learner, 5, 1)} == {3}
    assert int(learner.top_ups) == 21 * targets
    assert learner.summary()["top_ups"] == 21 * targets


def test_repeated_calls_of_one_step_count_one_top_up() -> None:
    learner = MaskConnect(many(1, 3), fan_in=2)
    set_masks(learner, 0.5, 0.0, 0.0)
    for _ in range(3):
        learner.edge_weights()
        learner.active()
    learner.eval()
    learner.edge_weights()
    assert int(learner.top_ups) == 1


def test_the_wiring_never_depends_on_the_input() -> None:
    searched = graph("mixed")
    learner = MaskConnect(searched, seed=2)
    net = network(searched, learner)
    drawn = learner.edge_weights().detach()
    for seed in range(3):
        net(**batch(searched, seed, count=2 + seed))
        assert torch.equal(learner.edge_weights().detach(), drawn)
    net.eval()
    net(**batch(searched, 9))
    frozen = learner.edge_weights().detach()
    net.train()
    learner.after_step()
    net(**batch(searched, 9))
    net.eval()
    assert torch.equal(learner.edge_weights().detach(), frozen)


# -- the end of the search -----------------------------------------------------------------------


def test_freezes_to_the_k_largest() -> None:
    learner = MaskConnect(vectors(6), fan_in=2)
    set_masks(learner, 0.1, 0.9, 0.3, 0.2, 0.8, 0.0)
    expected = [False, True, False, False, True, False]
    assert list(learner.topology().keep) == expected
    assert learner.topology().edge_weights() == [float(keep) for keep in expected]
    learner.eval()
    assert learner.chosen().tolist() == expected


def test_ties_go_by_an_order_of_the_seed_s() -> None:
    chosen = [MaskConnect(vectors(5), fan_in=2, seed=seed).eval().chosen() for seed in range(200)]
    counts = torch.stack(chosen).sum(0)
    assert all(int(each.sum()) == 2 for each in chosen)
    assert counts.min() > 50  # 80 on average
    again = MaskConnect(vectors(5), fan_in=2, seed=7).eval()
    assert again.chosen().tolist() == chosen[7].tolist()
    set_masks(again, 1.0, 0.5, 0.2, 1.0, 0.0)
    assert again.chosen().tolist() == [True, False, False, True, False]
    set_masks(again, 0.0, 0.5, 0.0, 0.0, 0.0)
    assert again.chosen()[1]
    assert int(again.chosen().sum()) == 2


def test_prunes_to_what_it_computed() -> None:
    searched = graph("digits")
    learner = MaskConnect(searched, fan_in=2, seed=4)
    net = network(searched, learner)
    with torch.no_grad():
        learner.mask.uniform_(0, 1, generator=torch.Generator().manual_seed(0))
    for number in range(2):
        step(net, optimizers(net, lr=0.05), number)
    inputs = batch(searched, 3)
    small = prune(net.eval())
    torch.testing.assert_close(small(**inputs), net(**inputs), atol=1e-5, rtol=1e-5)
    assert len(small.graph.nodes) < len(searched.nodes)


# -- the gradient --------------------------------------------------------------------------------

LAYERS = """
topolearn: 1
name: layers
inputs: {{x: [3]}}
nodes:
  a[1..4]: {{op: linear, out_features: 5, activation: relu}}
  b: {{op: linear, out_features: 2, aggregate: {aggregate}}}
edges:
  - {{from: x, to: "a[1..4]"}}
  - {{connect: bipartite, from: "a[2..4]", to: [b], learnable: true}}
  - {{from: a1, to: b, weight: 0.5}}
outputs: [b]
"""


@pytest.mark.parametrize("aggregate", ["mean", "sum"])
@pytest.mark.parametrize("fan_in", [1, 2, 3])
def test_gradient_is_dense_and_straight_through(aggregate: str, fan_in: int) -> None:
    searched = loads(LAYERS.format(aggregate=aggregate))
    learner = MaskConnect(searched, fan_in=fan_in, seed=fan_in)
    net = network(searched, learner).double()
    x, target = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    loss = (net(x) - target).square().sum()
    loss.backward()

    # By hand: y_k of the sources, x_b their weighted mean, dl/dx_b from the layer after it.
    linear = {name: net.nodes[name].linear for name in searched.nodes if name != "x"}
    y = [F.relu(linear[f"a{k}"](x)) for k in range(1, 5)]
    mask = [0.5, *(float(m) for m in learner.chosen())]
    divisor = 1 + fan_in if aggregate == "mean" else 1
    x_b = torch.stack([m * one for m, one in zip(mask, y, strict=True)]).sum(0) / divisor
    x_b = x_b.detach().requires_grad_()
    by_hand = (linear["b"](x_b) - target).square().sum()
    torch.testing.assert_close(by_hand, loss)
    (pull,) = torch.autograd.grad(by_hand, x_b)
    expected = torch.stack([(pull * one).sum() / divisor for one in y[1:]])
    assert learner.mask.grad is not None
    torch.testing.assert_close(learner.mask.grad, expected)
    assert bool((learner.mask.grad != 0).all())


def test_gradient_is_taken_after_the_edge_op() -> None:
    searched = loads("""
topolearn: 1
name: aligned
inputs: {image: [2, 8, 8]}
nodes:
  near: {op: conv_bn_relu, out_channels: 5, stride: 2}
  far: {op: conv_bn_relu, out_channels: 3}
  join: {op: identity, aggregate: mean, input: {channels: 5, stride: 2}}
edges:
  - {from: image, to: near}
  - {from: image, to: far}
  - {from: near, to: join, learnable: true}
  - {from: far, to: join, op: align, learnable: true}
outputs: [join]
""")
    learner = MaskConnect(searched, fan_in=1, seed=1)
    net = network(searched, learner).double()
    image, pull = torch.randn(2, 2, 8, 8).double(), torch.randn(2, 5, 4, 4).double()
    (net(image) * pull).sum().backward()
    near, far = (net.nodes[name](image) for name in ("near", "far"))
    aligned = F.pad(far[:, :, ::2, ::2], (0, 0, 0, 0, 0, 2))
    expected = {"near": (pull * near).sum(), "far": (pull * aligned).sum()}
    sources = [searched.edges[i].src for i in searched.candidates["join"]]
    torch.testing.assert_close(learner.mask.grad, torch.stack([expected[name] for name in sources]))


def test_no_penalty() -> None:
    assert float(MaskConnect(vectors()).penalty()) == 0.0


# -- the update ----------------------------------------------------------------------------------


def updated(learner: MaskConnect, gradient: Tensor, lr: float = 0.1, steps: int = 1, factor: float = 1.0) -> Tensor:
    """The masks after steps with a given gradient of the edge weights."""
    (group,) = learner.param_groups(lr)
    rate = group["lr"] * factor
    optimizer = torch.optim.SGD([group | {"lr": rate}])
    for _ in range(steps):
        (learner.edge_weights() * gradient).sum().backward()
        optimizer.step()
        learner.on_learning_rate(rate)
        optimizer.zero_grad()
        learner.after_step()
    return learner.mask.detach()


def test_literal_update_is_clipped_plain_sgd() -> None:
    learner = MaskConnect(vectors(4), update="literal", lr_scale=2.0)
    gradient = torch.tensor([1.0, -1.0, 0.0, 10.0])
    torch.testing.assert_close(updated(learner, gradient), torch.tensor([0.3, 0.7, 0.5, 0.0]))
    torch.testing.assert_close(updated(learner, gradient), torch.tensor([0.1, 0.9, 0.5, 0.0]))
    torch.testing.assert_close(updated(learner, gradient), torch.tensor([0.0, 1.0, 0.5, 0.0]))
    (group,) = learner.param_groups(0.1)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (pytest.approx(0.2), 0.0, 0.0)


def test_balanced_update_has_no_common_part_and_a_fixed_length() -> None:
    learner = MaskConnect(many(2, 4), step=0.05)
    gradient = torch.tensor([5.0, 6.0, 7.0, 8.0, -2.0, -2.0, -2.0, -1.0])
    moved = 0.5 - updated(learner, torch.cat([gradient, torch.zeros(2)])).view(2, 4)
    torch.testing.assert_close(moved.mean(1), torch.zeros(2))
    torch.testing.assert_close(moved.square().mean(1).sqrt(), torch.full((2,), 0.05))
    centred = gradient.view(2, 4) - gradient.view(2, 4).mean(1, keepdim=True)
    assert torch.nn.functional.cosine_similarity(moved, centred).tolist() == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("scale", [1e-25, 1e-8, 1.0, 1e8])
def test_balanced_update_does_not_depend_on_the_scale_of_the_loss(scale: float) -> None:
    gradient = torch.tensor([1.0, 2.0, 4.0, -3.0])
    expected = updated(MaskConnect(vectors(4)), gradient)
    torch.testing.assert_close(updated(MaskConnect(vectors(4)), gradient * scale), expected)


def test_balanced_update_follows_the_schedule() -> None:
    gradient = torch.tensor([1.0, 2.0, 4.0, -3.0])
    full = updated(MaskConnect(vectors(4)), gradient) - 0.5
    torch.testing.assert_close(updated(MaskConnect(vectors(4)), gradient, factor=0.25) - 0.5, full / 4)
    # The step does not depend on the rate of the weights, only on where in its schedule that is.
    torch.testing.assert_close(updated(MaskConnect(vectors(4)), gradient, lr=1e-3) - 0.5, full)


def test_balanced_update_stays_where_there_is_nothing_to_choose_by() -> None:
    for gradient in (torch.zeros(4), torch.full((4,), 3.3)):
        assert updated(MaskConnect(vectors(4)), gradient, steps=3).tolist() == pytest.approx([0.5] * 4, abs=1e-4)
    assert updated(MaskConnect(graph("single")), torch.ones(2)).tolist() == [0.5]


def test_balanced_update_with_an_optimizer_that_does_not_say_its_rate() -> None:
    gradient = torch.tensor([1.0, 2.0, 4.0, -3.0])
    learner = MaskConnect(vectors(4))
    optimizer = torch.optim.SGD(learner.param_groups(0.1))
    (learner.edge_weights() * gradient).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    learner.after_step()
    torch.testing.assert_close(learner.mask.detach(), updated(MaskConnect(vectors(4)), gradient))


def test_balanced_update_sums_over_accumulated_batches() -> None:
    searched = vectors(4)
    halves = [torch.tensor([1.0, 2.0, 4.0, -3.0]), torch.tensor([0.5, -1.0, 2.0, 8.0])]
    learner = MaskConnect(searched)
    net = network(searched, learner)
    chosen = optimizers(net, lr=0.1)
    for half in halves:
        (learner.edge_weights() * half).sum().backward()
    for optimizer in chosen:
        optimizer.step()
        optimizer.zero_grad()
    learner.after_step()
    torch.testing.assert_close(learner.mask.detach(), updated(MaskConnect(searched), halves[0] + halves[1]))


@pytest.mark.parametrize("options", [{"step": 0.5}, {"update": "literal", "lr_scale": 1e4}])
def test_masks_stay_between_0_and_1(options: dict[str, object]) -> None:
    searched = graph("mixed")
    learner = MaskConnect(searched, **options)  # type: ignore[arg-type]
    net = network(searched, learner)
    chosen = optimizers(net, lr=0.1)
    for number in range(6):
        step(net, chosen, number)
        assert float(learner.mask.detach().min()) >= 0
        assert float(learner.mask.detach().max()) <= 1
    assert set(learner.mask.tolist()) & {0.0, 1.0}


@pytest.mark.parametrize("options", [{"step": 0.0}, {"update": "literal", "lr_scale": 0.0}])
def test_frozen_masks_are_drawn_but_do_not_learn(options: dict[str, object]) -> None:
    searched = graph("mixed")
    learner = MaskConnect(searched, **options)  # type: ignore[arg-type]
    net = network(searched, learner)
    chosen = optimizers(net, lr=0.1)
    seen = set()
    for number in range(6):
        seen.add(tuple(learner.edge_weights().tolist()))
        step(net, chosen, number)
    assert learner.mask.tolist() == [0.5] * len(learner.mask)
    assert len(seen) > 1


def test_literal_masks_drift_together_where_candidates_have_much_in_common() -> None:
    # The reason for the balanced update: one sign for all candidates of a node, and no choice is made.
    gradient = torch.tensor([1.0, 1.1, 0.9, 1.05])
    literal = updated(MaskConnect(vectors(4), update="literal", lr_scale=1.0), gradient, steps=20)
    assert literal.tolist() == [0.0] * 4
    balanced = updated(MaskConnect(vectors(4)), gradient, steps=20)
    assert balanced.argmax() == 2
    assert float(balanced.max() - balanced.min()) > 0.9


def test_literal_gradient_is_left_in_place() -> None:
    learner = MaskConnect(vectors(4))
    gradient = torch.tensor([1.0, 2.0, 4.0, -3.0])
    (learner.edge_weights() * gradient).sum().backward()
    assert torch.equal(learner.mask.grad, gradient)
