"""Optimisers of a network and its learner, and learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import topolearn
from tests.training.runs import graph, run
from topolearn.compiler import Network
from topolearn.errors import OptionError
from topolearn.learners import make_learner
from topolearn.recipes import TrainOptions
from topolearn.training import lr_factor, optimizers
from topolearn.training.phases import schedule as phases_of

# -- schedules ----------------------------------------------------------------------------------


def factors(steps: int, warmup: int = 0, **options: Any) -> list[float]:
    return [lr_factor(TrainOptions(**options), step, steps, warmup) for step in range(steps)]


def test_cosine() -> None:
    assert factors(4) == pytest.approx([1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])


def test_step() -> None:
    assert factors(8, schedule="step") == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert factors(5, schedule="step", milestones=[0.4]) == pytest.approx([1, 1, 0.1, 0.1, 0.1])
    options = TrainOptions(schedule="step")
    assert [lr_factor(options, step, 4, milestones=(0.25,)) for step in range(4)] == pytest.approx([1, 0.1, 0.1, 0.1])
    assert [lr_factor(options, step, 4, milestones=()) for step in range(4)] == [1, 1, 1, 1], "no milestone at all"


def test_poly() -> None:
    assert factors(4, schedule="poly", power=2) == pytest.approx([1, 9 / 16, 1 / 4, 1 / 16])
    assert factors(2, schedule="poly")[1] == pytest.approx(0.5**0.9)


def test_constant() -> None:
    assert factors(3, schedule="constant") == [1, 1, 1]


def test_warmup_is_linear_and_the_schedule_starts_after_it() -> None:
    assert factors(8, warmup=4) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5])
    assert factors(3, warmup=6, schedule="constant") == pytest.approx([1 / 6, 2 / 6, 3 / 6]), "longer than the phase"


def test_cosine_to_a_floor() -> None:
    half = 0.5 + 0.5**1.5
    assert factors(4, lr_floor=0.2) == pytest.approx([1, 0.2 + 0.8 * half, 0.6, 0.2 + 0.8 * (1 - half)])
    assert lr_factor(TrainOptions(lr_floor=0.2), 4, 4) == pytest.approx(0.2)
    assert lr_factor(TrainOptions(lr_floor=0.2), 9, 4) == pytest.approx(0.2), "a loader may give more batches"


def test_warmup_in_steps_and_a_floor_by_the_formula() -> None:
    """200 steps of warm-up, then cosine to a tenth at step 1,200."""
    options = TrainOptions(warmup_steps=200, lr_floor=0.1)
    (phase,) = phases_of(make_learner("fixed", graph()), 12, options.phases)
    for step in (0, 1, 99, 198, 199):
        assert phase.lr_factor(options, step, 100) == pytest.approx((step + 1) / 200)
    for step in (200, 201, 450, 700, 1000, 1199):
        wanted = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - 200) / 1000))
        assert phase.lr_factor(options, step, 100) == pytest.approx(wanted)
    assert phase.lr_factor(options, 700, 100) == pytest.approx(0.55)


def test_warmup_in_steps_wins_over_epochs_and_comes_once() -> None:
    options = TrainOptions(warmup_steps=3, warmup_epochs=5.0)
    search, tune = phases_of(make_learner("maskconnect", graph()), 4, options.phases)
    assert [search.lr_factor(options, step, 5) for step in range(3)] == pytest.approx([1 / 3, 2 / 3, 1])
    gone = tune.before * 5  # both are on one schedule, which goes on
    assert tune.lr_factor(options, 0, 5) == pytest.approx(0.5 * (1 + math.cos(math.pi * (gone - 3) / (20 - 3))))
    none = TrainOptions(warmup_steps=0, warmup_epochs=5.0)
    assert search.lr_factor(none, 0, 5) == 1


@pytest.mark.parametrize("schedule", ["cosine", "step", "poly", "constant"])
def test_factors_stay_between_0_and_1(schedule: str) -> None:
    options = TrainOptions(schedule=schedule)  # type: ignore[arg-type]
    for steps in (1, 2, 7):
        # A loader may give more batches than it says.
        assert all(0 <= lr_factor(options, step, steps) <= 1 for step in range(2 * steps + 1))
        assert lr_factor(options, 0, steps) == 1


def test_rates_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps an epoch: one warm-up, then a schedule that runs through the search and the fine-tuning."""
    rates: list[list[float]] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append([float(group["lr"]) for group in self.param_groups])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    training = {"schedule": "poly", "power": 1.0, "warmup_epochs": 0.8, "phases": {"search": 2, "fine_tune": 1}}
    run(learner="maskconnect", epochs=3, lr=0.5, update="literal", lr_scale=10.0, training=training)
    weights, masks = rates[:20:2], rates[1:20:2]  # two optimisers take turns in the search
    whole = [0.25, 0.5, 0.75, 1, *(1 - i / 11 for i in range(11))]
    search = whole[:10]
    assert [rate for (rate,) in weights] == pytest.approx([0.5 * factor for factor in search])
    assert [rate for (rate,) in masks] == pytest.approx([5 * factor for factor in search])
    # No masks any more.
    assert [rate for (rate,) in rates[20:]] == pytest.approx([0.5 * factor for factor in whole[10:]])


def test_rates_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search at 1, 1/10, 1/100 of the rate; after the freeze the last two plateaux again."""
    rates: list[float] = []
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    phases = {"search": 3, "fine_tune": {"share": 1, "lr": 0.1, "milestones": [0.5]}}
    run(learner="maskconnect", epochs=4, lr=0.1, training={"schedule": "step", "phases": phases})
    search, tuning = rates[:30:2], rates[30:]  # the weights' and the masks' optimisers take turns
    assert search == pytest.approx([0.1] * 8 + [0.01] * 4 + [0.001] * 3)
    assert tuning == pytest.approx([0.01] * 3 + [0.001] * 2)


# -- optimisers ---------------------------------------------------------------------------------


def network(learner: str, **options: Any) -> Network:
    return Network(graph(), make_learner(learner, graph(), options))


def held(optimizer: torch.optim.Optimizer) -> list[int]:
    return [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize("learner", ["maskconnect", "continuous", "sparsemask", "fixed"])
def test_every_parameter_is_in_one_group(learner: str, name: str) -> None:
    net = network(learner)
    made = optimizers(net, lr=0.1, name=name)
    assert sorted(parameter for optimizer in made for parameter in held(optimizer)) == sorted(
        id(parameter) for parameter in net.parameters()
    )


def test_maskconnect_gets_a_plain_sgd_of_its_own() -> None:
    net = network("maskconnect", update="literal", lr_scale=50.0)
    weights, masks = optimizers(net, lr=0.1, name="adamw", weight_decay=0.3)
    assert isinstance(weights, torch.optim.AdamW)
    assert isinstance(masks, torch.optim.SGD)
    (group,) = masks.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (5.0, 0.0, 0.0)
    assert group["params"][0] is net.learner.mask  # type: ignore[union-attr]
    assert weights.param_groups[0]["weight_decay"] == 0.3


@pytest.mark.parametrize("learner", ["continuous", "sparsemask"])
def test_other_learners_share_the_weights_optimiser(learner: str) -> None:
    net = network(learner)
    (only,) = optimizers(net, lr=0.1, momentum=0.8, weight_decay=0.3)
    weights, gates = only.param_groups
    assert (weights["weight_decay"], gates["weight_decay"]) == (0.3, 0.0)
    assert (weights["momentum"], gates["momentum"]) == (0.8, 0.8)
    assert (weights["lr"], gates["lr"]) == (0.1, 0.1)
    assert [id(parameter) for parameter in gates["params"]] == [id(p) for p in net.learner.parameters()]  # type: ignore[union-attr]


def test_the_learner_hears_its_rate_after_each_step() -> None:
    net = network("continuous", proximal=True)
    (only,) = topolearn.optimizers(net, lr=0.1)
    net.learner.edge_weights().sum().backward()  # type: ignore[union-attr]
    only.param_groups[1]["lr"] = 0.07
    only.step()
    assert net.learner._lr == 0.07  # type: ignore[union-attr]


def test_momentum_is_0_9_for_sgd() -> None:
    net = network("fixed")
    assert optimizers(net, lr=0.1)[0].param_groups[0]["momentum"] == 0.9
    assert optimizers(net, lr=0.1, momentum=0.0)[0].param_groups[0]["momentum"] == 0.0


def test_nodes_have_rates_of_their_own() -> None:
    net = network("continuous")
    ids = [name for name in net.nodes if list(net.nodes[name].parameters())]
    slow, slower = ids[:2], ids[2]
    (only,) = optimizers(net, lr=0.1, weight_decay=0.3, node_lr={**dict.fromkeys(slow, 0.5), slower: 0.1, "gone": 2.0})
    assert [group["lr"] for group in only.param_groups] == pytest.approx([0.1, 0.05, 0.01, 0.1])
    assert [group["weight_decay"] for group in only.param_groups] == [0.3, 0.3, 0.3, 0.0]
    of = [[id(parameter) for parameter in group["params"]] for group in only.param_groups]
    assert sorted(of[1]) == sorted(id(p) for name in slow for p in net.nodes[name].parameters())
    assert of[2] == [id(p) for p in net.nodes[slower].parameters()]
    assert sorted(held(only)) == sorted(id(p) for p in net.parameters())


def ids_of(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    return [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]


def test_matrices_alone_decay() -> None:
    net = network("continuous")
    (only,) = optimizers(net, lr=0.1, name="adamw", weight_decay=0.3, decay="matrices")
    matrices, others, gates = only.param_groups
    assert all(parameter.dim() >= 2 for parameter in matrices["params"])
    assert all(parameter.dim() < 2 for parameter in others["params"])
    assert [group["weight_decay"] for group in only.param_groups] == [0.3, 0.0, 0.0]
    assert [id(parameter) for parameter in gates["params"]] == [id(p) for p in net.learner.parameters()]  # type: ignore[union-attr]
    assert sorted(held(only)) == sorted(id(p) for p in net.parameters())


def test_matrices_alone_decay_at_the_rates_of_nodes() -> None:
    net = network("continuous")
    slow = next(name for name in net.nodes if {p.dim() >= 2 for p in net.nodes[name].parameters()} == {True, False})
    (only,) = optimizers(net, lr=0.1, weight_decay=0.3, decay="matrices", node_lr={slow: 0.5})
    assert [group["lr"] for group in only.param_groups] == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.1])
    assert [group["weight_decay"] for group in only.param_groups] == [0.3, 0.0, 0.3, 0.0, 0.0]
    own = list(net.nodes[slow].parameters())
    assert sorted(ids_of(only)[2]) == sorted(id(p) for p in own if p.dim() >= 2)
    assert sorted(ids_of(only)[3]) == sorted(id(p) for p in own if p.dim() < 2)
    assert sorted(held(only)) == sorted(id(p) for p in net.parameters())


def test_weights_without_matrices_or_without_others_are_one_group() -> None:
    (flat,) = optimizers(nn.BatchNorm2d(3), lr=0.1, weight_decay=0.3, decay="matrices")
    assert [group["weight_decay"] for group in flat.param_groups] == [0.0]
    (full,) = optimizers(nn.Linear(2, 3, bias=False), lr=0.1, weight_decay=0.3, decay="matrices")
    assert [group["weight_decay"] for group in full.param_groups] == [0.3]


def made_by_a_run(monkeypatch: pytest.MonkeyPatch, **training: Any) -> list[dict[str, Any]]:
    """The groups of the first optimiser that a run makes, at the first step."""
    found: list[dict[str, Any]] = []
    kind = torch.optim.AdamW if training.get("optimizer") == "adamw" else torch.optim.SGD
    step = kind.step

    def spy(self: torch.optim.Optimizer, *args: Any) -> Any:
        found.extend(self.param_groups if not found else [])
        return step(self, *args)

    monkeypatch.setattr(kind, "step", spy)
    run(learner="continuous", epochs=2, training=training)
    return found


def test_betas_reach_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = made_by_a_run(monkeypatch, optimizer="adamw", betas=(0.9, 0.95), weight_decay=0.1, decay="matrices")
    assert {group["betas"] for group in groups} == {(0.9, 0.95)}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.0]


def test_the_defaults_are_what_they_were_before_there_was_text(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, gates = made_by_a_run(monkeypatch)
    settings = {
        "momentum": 0.9,
        "dampening": 0,
        "nesterov": False,
        "maximize": False,
        "foreach": None,
        "differentiable": False,
        "fused": None,
    }
    for group, decay in ((weights, 1e-4), (gates, 0.0)):
        found = {key: value for key, value in group.items() if key not in ("params", "lr")}
        assert found == {**settings, "weight_decay": decay}
    weights, _ = made_by_a_run(monkeypatch, optimizer="adamw")
    assert (weights["betas"], weights["weight_decay"]) == ((0.9, 0.999), 1e-4)


def test_a_network_without_a_learner_and_any_module() -> None:
    for module in (Network(graph()), nn.Linear(2, 3)):
        (only,) = optimizers(module, lr=0.1)
        assert sorted(held(only)) == sorted(map(id, module.parameters()))


def test_frozen_weights_are_left_out() -> None:
    net = Network(graph())
    next(net.parameters()).requires_grad_(False)
    assert len(held(optimizers(net, lr=0.1)[0])) == len(list(net.parameters())) - 1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"name": "sdg"}, "unknown optimizer 'sdg'; did you mean 'sgd'?"),
        ({"optimizer": "adamw"}, "unknown option 'optimizer' of optimizer 'sgd'; choose the optimizer with 'name'"),
        ({"momentun": 0.9}, "unknown option 'momentun' of optimizer 'sgd'; did you mean 'momentum'?"),
        ({"name": "adamw", "momentum": 0.9}, "unknown option 'momentum' of optimizer 'adamw'; known: amsgrad"),
        ({"momentum": -1.0}, "optimizer 'sgd': Invalid momentum value: -1.0"),
        ({"lr": -1.0}, "optimizer 'sgd': Invalid learning rate: -1.0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        optimizers(network("fixed"), **{"lr": 0.1} | settings)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


# -- options of a run that act on a step --------------------------------------------------------


def test_clipping_is_for_the_weights_and_not_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: dict[str, list[float]] = {"weights": [], "masks": []}
    step = torch.optim.SGD.step

    def spy(self: torch.optim.SGD, *args: Any) -> Any:
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        kind = "masks" if len(gradients) == 1 else "weights"
        norms[kind].append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    run(learner="maskconnect", epochs=1, training={"clip_grad_norm": 1e-3, "phases": {"fine_tune": 0}})
    assert len(norms["weights"]) == len(norms["masks"]) == 5
    assert max(norms["weights"]) <= 1.001e-3
    assert max(norms["masks"]) > 1e-2


def test_adamw_runs() -> None:
    result = run(learner="continuous", epochs=2, lr=0.001, training={"optimizer": "adamw", "weight_decay": 0.05})
    assert result.metrics["loss"] < 3


def test_weight_decay_is_heeded() -> None:
    def norm(decay: float) -> float:
        model = run(learner="fixed", epochs=1, training={"weight_decay": decay}).model
        return sum(float(parameter.detach().square().sum()) for parameter in model.parameters())

    assert norm(1.0) < 0.9 * norm(0.0)
