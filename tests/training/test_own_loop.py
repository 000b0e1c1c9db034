"""Training loops of a user's own: every step is ended once, whoever ends it, and a step that nobody ends is told."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import topolearn
from tests.learner_settings import SETTINGS, Setting
from tests.learners.samples import batch, graph, loss_of
from topolearn.compiler import Network
from topolearn.graph import Topology
from topolearn.learners import Candidates, EdgeLearner, MaskConnect, Options, Phase, SparseMask

EACH = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
ENDING = {name: setting for name, setting in SETTINGS.items() if setting.learns}
"""Settings of learners that have something to do after a step."""
STEPS = 6


class Counting(EdgeLearner):
    """A learner of another package: draws a mask, and counts its steps; one class extends the other."""

    options_type = Options

    def __init__(self, graph: Any) -> None:
        super().__init__()
        self.graph, self.options = graph, Options()
        self.candidates = Candidates(graph)
        self.scale = nn.Parameter(torch.ones(len(self.candidates)))
        self.steps = 0

    def edge_weights(self) -> Tensor:
        return self.candidates.spread(self.scale * (1 + 0.1 * (self.steps % 3)))

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": [self.scale], "lr": lr}]

    def after_step(self) -> None:
        self.steps += 1

    def topology(self) -> Topology:
        weights = self.edge_weights().tolist()
        return Topology(tuple(w != 0 for w in weights), tuple(weights)).close(self.graph)

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("search", 1.0, search=True),)


class CountingMore(Counting):
    """It extends what comes after a step."""

    def after_step(self) -> None:
        super().after_step()
        self.more = getattr(self, "more", 0) + 1


class Drawing(CountingMore):
    """It says nothing of what comes after a step."""


def network(learner: EdgeLearner) -> Network:
    torch.manual_seed(0)
    return Network(learner.graph, learner)


def backward(net: nn.Module, searched: Network, number: int = 0, scale: float = 1.0) -> Tensor:
    assert searched.learner is not None
    loss = loss_of(net(**batch(searched.graph, number))) + searched.learner.penalty()  # type: ignore[operator]
    (loss * scale).backward()
    return loss.detach()


def loop(setting: Setting, end: Callable[[EdgeLearner], object], steps: int = STEPS) -> dict[str, Tensor]:
    """Train with the optimisers of the library; how the network ended."""
    learner = setting.make(graph("mixed"))
    net = network(learner)
    chosen = topolearn.optimizers(net, lr=0.05, weight_decay=1e-3)
    for number in range(steps):
        backward(net, net, number)
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        end(learner)
    return net.state_dict()


def by_hand(setting: Setting, steps: int = STEPS) -> dict[str, Tensor]:
    """The same with optimisers that know nothing of learners."""
    learner = setting.make(graph("mixed"))
    net = network(learner)
    own = {id(p) for p in learner.parameters()}
    weights = torch.optim.SGD(
        [p for p in net.parameters() if id(p) not in own], lr=0.05, momentum=0.9, weight_decay=1e-3
    )
    chosen: list[Optimizer] = [weights]
    groups = learner.param_groups(0.05)
    if groups and learner.shares_optimizer:
        weights.add_param_group(groups[0])
    elif groups:
        chosen.append(torch.optim.SGD(groups, lr=0.05))
    for number in range(steps):
        backward(net, net, number)
        for optimizer in chosen:
            optimizer.step()
        if groups:
            learner.on_learning_rate(chosen[-1].param_groups[-1]["lr"])
        for optimizer in chosen:
            optimizer.zero_grad()
        learner.after_step()
    return net.state_dict()


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@EACH
def test_with_and_without_after_step_a_loop_learns_the_same(setting: Setting) -> None:
    wanted = by_hand(setting)
    assert_same(loop(setting, lambda learner: None), wanted)
    assert_same(loop(setting, lambda learner: learner.after_step()), wanted)


@pytest.mark.parametrize("kind", [Counting, CountingMore, Drawing])
@pytest.mark.parametrize("calls", [True, False], ids=["called", "not called"])
def test_learners_of_other_packages_hear_of_every_step_once(kind: type[Counting], calls: bool) -> None:
    learner = kind(graph("mixed"))
    net = network(learner)
    chosen = topolearn.optimizers(net, lr=0.05)
    for number in range(STEPS):
        backward(net, net, number)
        for optimizer in chosen:
            optimizer.step()
        if calls:
            learner.after_step()
        assert learner.steps == number + 1
        assert getattr(learner, "more", number + 1) == number + 1


@pytest.mark.parametrize("calls", [True, False], ids=["called", "not called"])
def test_a_budget_steers_once_per_step(calls: bool) -> None:
    learner = SETTINGS["continuous-budget"].make(graph("mixed"))
    net = network(learner)
    (only,) = topolearn.optimizers(net, lr=0.05)
    for number in range(STEPS):
        backward(net, net, number)
        only.step()
        if calls:
            learner.after_step()
    assert int(learner.pricing.steps) == STEPS  # type: ignore[attr-defined]


def masks(net: Network) -> tuple[float, ...]:
    return tuple(net.learner.edge_weights().tolist())  # type: ignore[union-attr]


def test_every_step_draws_and_what_lies_between_does_not() -> None:
    net = network(MaskConnect(graph("vectors"), fan_in=3))
    chosen = topolearn.optimizers(net, lr=0.05)
    drawn = []
    for number in range(STEPS):
        for part in range(3):  # gradients of three batches add up
            backward(net, net, 3 * number + part)
            drawn.append(masks(net))
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
    assert all(len(set(drawn[i : i + 3])) == 1 for i in range(0, len(drawn), 3))
    assert len(set(drawn)) > 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_step_ends_after_the_last_optimiser(order: tuple[int, int]) -> None:
    net = network(MaskConnect(graph("vectors"), fan_in=3))
    learner = net.learner
    assert isinstance(learner, MaskConnect)
    chosen = topolearn.optimizers(net, lr=0.05)
    for number in range(3):
        backward(net, net, number)
        chosen[order[0]].step()
        assert learner.random.drawn
        chosen[order[1]].step()
        assert not learner.random.drawn
        chosen[0].zero_grad()
        chosen[1].zero_grad()


# -- steps that are skipped, closures, compilers --------------------------------------------------


def test_a_scaler_may_skip_a_step() -> None:
    """Neither optimiser steps: the draw goes on, and nothing is moved."""
    net = network(MaskConnect(graph("vectors"), fan_in=3))
    chosen = topolearn.optimizers(net, lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    before, drawn = copy.deepcopy(net.state_dict()), None
    for number, scale in enumerate([torch.inf, torch.inf, 1.0, 1.0]):
        scaler.scale(torch.ones(()))  # it makes its scale at the first use
        backward(net, net, number, scale * scaler.get_scale())
        same = masks(net) == drawn
        drawn = masks(net)
        for optimizer in chosen:
            scaler.step(optimizer)
        scaler.update()
        for optimizer in chosen:
            optimizer.zero_grad()
        if number < 2:
            moved = {name for name, value in net.named_parameters() if not torch.equal(value, before[name])}
            assert not moved
            assert same or number == 0
    assert not torch.equal(net.learner.mask, before["learner.mask"])  # type: ignore[union-attr]
    assert all(bool(p.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("skipped", [0, 1])
def test_one_optimiser_may_skip_a_step(skipped: int) -> None:
    net = network(MaskConnect(graph("vectors"), fan_in=3))
    learner = net.learner
    assert isinstance(learner, MaskConnect)
    chosen = topolearn.optimizers(net, lr=0.05)
    drawn = set()
    for number in range(STEPS):
        before = learner.mask.detach().clone()
        backward(net, net, number)
        drawn.add(masks(net))
        chosen[1 - skipped].step()
        for optimizer in chosen:
            optimizer.zero_grad()
        net(**batch(net.graph, number))  # what was left of the step is done
        assert torch.equal(learner.mask, before) == (skipped == 1)
    assert len(drawn) > 2
    assert bool(learner.mask.isfinite().all())


def test_a_fused_optimiser_skips_by_itself() -> None:
    """It is called, finds the gradients infinite and moves nothing: no step to end."""
    net = network(SparseMask(graph("vectors"), seed=1))
    (only,) = topolearn.optimizers(net, lr=0.05, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    drawn = []
    for number, scale in enumerate([1.0, torch.inf, 1.0]):
        scaler.scale(torch.ones(()))
        backward(net, net, number, scale * scaler.get_scale())
        drawn.append(net.learner.noise.tolist())  # type: ignore[union-attr]
        scaler.step(only)
        scaler.update()
        only.zero_grad()
    assert drawn[0] != drawn[1]
    assert drawn[1] == drawn[2]


def test_closures_are_one_step() -> None:
    learner = Counting(graph("mixed"))
    net = network(learner)
    chosen = topolearn.optimizers(net, lr=0.05)
    assert len(chosen) == 2

    def closure() -> float:
        for optimizer in chosen:
            optimizer.zero_grad()
        return float(backward(net, net))

    for number in range(3):
        for optimizer in chosen:
            optimizer.step(closure)  # type: ignore[arg-type]
        assert learner.steps == number + 1


def test_lbfgs_runs_the_forward_pass_several_times_in_a_step() -> None:
    learner = MaskConnect(graph("vectors"), fan_in=3)
    net = network(learner)
    optimizer = torch.optim.LBFGS(weights_alone(net), lr=0.1, max_iter=4)
    drawn: list[set[tuple[float, ...]]] = []

    def closure() -> float:
        optimizer.zero_grad()
        value = float(backward(net, net))
        drawn[-1].add(masks(net))
        return value

    for _ in range(STEPS):
        drawn.append(set())
        optimizer.step(closure)  # a warning would be an error
        learner.after_step()
    assert all(len(found) == 1 for found in drawn)
    assert len(set.union(*drawn)) > 1


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_network_learns_the_same() -> None:
    setting = SETTINGS["maskconnect"]
    torch._dynamo.reset()
    learner = setting.make(graph("mixed"))
    net = network(learner)
    compiled = torch.compile(net, backend="eager")
    chosen = topolearn.optimizers(compiled, lr=0.05, weight_decay=1e-3)  # type: ignore[arg-type]
    drawn = set()
    for number in range(STEPS):
        backward(compiled, net, number)  # type: ignore[arg-type]
        drawn.add(masks(net))
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        learner.after_step()
    assert len(drawn) > 1
    wanted = loop(setting, lambda learner: None)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5)


def test_a_frozen_network_asks_its_learner_no_more() -> None:
    learner = Counting(graph("mixed"))
    net = network(learner)
    chosen = topolearn.optimizers(net, lr=0.05)
    net.set_edge_weights(learner.topology().edge_weights())
    loss_of(net(**batch(net.graph))).backward()
    for optimizer in chosen:
        optimizer.step()
    assert learner.steps == 0


# -- steps that nobody has ended ------------------------------------------------------------------

UNENDED = r"the parameters have changed since learner '.*' last drew, .*topolearn\.optimizers"


def step(net: Network, *chosen: Optimizer) -> None:
    backward(net, net)
    for optimizer in chosen:
        optimizer.step()
        optimizer.zero_grad()


def every(net: Network) -> list[nn.Parameter]:
    return list(net.parameters())


def weights_alone(net: Network) -> list[nn.Parameter]:
    return [p for name, p in net.named_parameters() if not name.startswith("learner.")]


@pytest.mark.parametrize("held", [every, weights_alone])
@pytest.mark.parametrize("setting", ENDING.values(), ids=ENDING)
def test_a_step_that_nobody_has_ended_is_told(setting: Setting, held: Callable[[Network], list[nn.Parameter]]) -> None:
    net = network(setting.make(graph("mixed")))
    optimizer = torch.optim.AdamW(held(net))
    step(net, optimizer)
    with pytest.warns(UserWarning, match=UNENDED) as told:
        step(net, optimizer)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    net.learner.on_learning_rate(1e-3)  # type: ignore[union-attr]
    net.learner.after_step()  # type: ignore[union-attr]
    backward(net, net)  # told, and now ended


def test_learners_of_other_packages_are_told_of_too() -> None:
    net = network(Counting(graph("mixed")))
    optimizer = torch.optim.AdamW(net.parameters())
    step(net, optimizer)
    with pytest.warns(UserWarning, match="learner 'Counting'"):
        step(net, optimizer)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ENDING])
def test_where_nothing_comes_after_a_step_nothing_is_told(name: str) -> None:
    net = network(SETTINGS[name].make(graph("mixed")))
    optimizer = torch.optim.AdamW(net.parameters())
    for _ in range(3):
        step(net, optimizer)


def test_only_a_step_in_training_is_told() -> None:
    net = network(MaskConnect(graph("vectors"), fan_in=3))
    net(**batch(net.graph))  # to look at the output, say
    net.load_state_dict(network(MaskConnect(graph("vectors"), fan_in=3, seed=5)).state_dict())
    backward(net, net)
    other = copy.deepcopy(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.step()
    backward(other, other)
    net.eval()(**batch(net.graph))
    with torch.no_grad():
        net.train()(**batch(net.graph))
    net.learner.after_step()  # type: ignore[union-attr]
    backward(net, net)


def test_a_loop_may_go_on_with_other_optimizers() -> None:
    """The step that the library has ended is the only one in which a call does nothing."""
    learner = MaskConnect(graph("vectors"), fan_in=3)
    net = network(learner)
    step(net, *topolearn.optimizers(net, lr=0.05))
    optimizer = torch.optim.SGD(weights_alone(net), lr=0.05)
    drawn = set()
    for _ in range(STEPS):
        step(net, optimizer)
        drawn.add(masks(net))
        learner.after_step()
    assert len(drawn) > 2


def test_the_warning_comes_once_in_a_program() -> None:
    net = network(MaskConnect(graph("vectors"), fan_in=3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(4):
            step(net, optimizer)
    assert len(told) == 1
