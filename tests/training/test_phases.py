"""How epochs are dealt out, and what happens between two phases."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import topolearn
from tests.data.toys import noisy, toy
from tests.training.runs import Stopping, assert_same, graph, history, pair, run, send
from topolearn.compiler import Network, prune
from topolearn.data import Data
from topolearn.errors import CheckpointError, OptionError
from topolearn.format import loads
from topolearn.graph.passes import UnitWeights
from topolearn.learners import Phase, make_learner
from topolearn.recipes.train_options import PhaseOptions, TrainOptions
from topolearn.runs.checkpoint import Position
from topolearn.runs.searched import load_searched
from topolearn.samples.seeds import mix
from topolearn.training.optim import lr_factor
from topolearn.training.phases import Scheduled, begin_phase, evaluations_left, freeze_affine, recalibrate, schedule

LEARNERS = ("maskconnect", "continuous", "sparsemask", "fixed")


def planned(learner: str, epochs: int, phases: dict[str, Any]) -> tuple[Scheduled, ...]:
    return schedule(make_learner(learner, graph()), epochs, TrainOptions(phases=phases).phases)


def dealt(learner: str, epochs: int, **shares: float) -> dict[str, int]:
    return {item.phase.name: item.epochs for item in planned(learner, epochs, shares)}


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
def test_the_evaluations_that_are_left_are_counted(every: int) -> None:
    plan = planned("maskconnect", 11, {})
    epochs = [(number, epoch) for number, item in enumerate(plan) for epoch in range(item.epochs)]
    evaluated = [plan[number].is_evaluated(epoch, i, every) for i, (number, epoch) in enumerate(epochs)]
    assert len(plan) == 2
    for done, (phase, epoch) in enumerate(epochs):
        assert evaluations_left(plan, Position(phase=phase, epoch=epoch, epochs=done), every) == sum(evaluated[done:])
    assert evaluations_left(plan, Position(phase=2, epochs=11), every) == 0
    assert evaluations_left(plan, Position(phase=1, epoch=plan[1].epochs, epochs=11), every) == 0
    many = planned("maskconnect", 10**12, {})
    assert evaluations_left(many, Position(), 1) == 10**12, "at once"


@pytest.mark.parametrize("learner", LEARNERS)
def test_every_total_is_dealt_out_whole(learner: str) -> None:
    plan = make_learner(learner, graph()).phases()
    total = sum(phase.share for phase in plan)
    for epochs in (*range(len(plan), 60), 164, 1000):
        counts = dealt(learner, epochs)
        assert list(counts) == [phase.name for phase in plan]
        assert sum(counts.values()) == epochs
        for phase in plan:
            assert counts[phase.name] >= 1
            if epochs >= 10:
                assert abs(counts[phase.name] - phase.share / total * epochs) < 1


def test_shares_replace_the_plan() -> None:
    assert dealt("maskconnect", 10) == {"search": 5, "fine_tune": 5}
    assert dealt("maskconnect", 10, search=3, fine_tune=2) == {"search": 6, "fine_tune": 4}
    assert dealt("maskconnect", 10, fine_tune=0.75) == {"search": 4, "fine_tune": 6}
    assert dealt("maskconnect", 40, search=30, fine_tune=10) == {"search": 30, "fine_tune": 10}
    assert dealt("sparsemask", 5, retrain=1e-9) == {"search": 4, "retrain": 1}
    assert dealt("continuous", 2, search=1e9) == {"search": 1, "fine_tune": 1}


def test_a_share_of_0_switches_a_phase_off() -> None:
    assert dealt("maskconnect", 10, fine_tune=0) == {"search": 10}
    assert dealt("maskconnect", 1, search=0) == {"fine_tune": 1}


def test_a_phase_may_have_a_learning_rate_and_milestones_of_its_own() -> None:
    search, tune = planned("maskconnect", 164, {"search": 0.75, "fine_tune": {"share": 0.25, "lr": 0.1}})
    assert (search.epochs, search.phase.lr, search.milestones) == (123, 1.0, None)
    assert (tune.epochs, tune.phase.lr, tune.milestones) == (41, 0.1, None)
    search, tune = planned("maskconnect", 10, {"search": {"milestones": [0.5]}, "fine_tune": {"milestones": []}})
    assert (search.epochs, search.phase.lr, search.milestones) == (5, 1.0, (0.5,))
    assert (tune.epochs, tune.phase.lr, tune.milestones) == (5, 1.0, ()), "what is not given is the plan's"
    (tune,) = planned("maskconnect", 3, {"search": {"share": 0, "lr": 0.3}, "fine_tune": {"lr": 0.5}})
    assert (tune.phase.name, tune.epochs, tune.phase.lr) == ("fine_tune", 3, 0.5)


def spans(*scheduled: Scheduled) -> list[tuple[int, int, bool]]:
    return [(each.before, each.span, each.opens) for each in scheduled]


def test_a_schedule_runs_through_phases_that_continue_it() -> None:
    assert spans(*planned("maskconnect", 10, {"search": 0.4, "fine_tune": 0.6})) == [(0, 10, True), (4, 10, True)]
    for own in ({"lr": 0.5}, {"milestones": [0.5]}):
        assert spans(*planned("maskconnect", 10, {"fine_tune": own})) == [(0, 5, True), (0, 5, False)]
    assert spans(*planned("maskconnect", 10, {"search": 0})) == [(0, 10, True)]
    search, tune = planned("maskconnect", 10, {"search": {"lr": 0.3, "milestones": [0.25]}})
    assert (tune.phase.lr, tune.milestones) == (search.phase.lr, search.milestones) == (0.3, (0.25,))
    assert spans(*planned("sparsemask", 10, {"search": 1, "retrain": 1})) == [(0, 5, True), (0, 5, False)]


def test_one_schedule_in_two_phases_gives_the_rates_of_one_phase() -> None:
    options = TrainOptions(schedule="step", milestones=(0.3, 0.8), warmup_epochs=0.5)
    search, tune = planned("maskconnect", 10, {"search": 0.4, "fine_tune": 0.6})
    rates = [search.lr_factor(options, step, 7) for step in range(28)]
    rates += [tune.lr_factor(options, step, 7) for step in range(42)]
    assert rates == [lr_factor(options, step, 70, warmup=4) for step in range(70)]


def test_a_phase_with_its_own_rate_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    phases = {"search": {"share": 3, "milestones": [0.4]}, "fine_tune": {"share": 2, "lr": 0.1, "milestones": [0.5]}}
    training = {"schedule": "step", "phases": phases}
    run(tmp_path / "whole", training=training)
    with pytest.raises(KeyboardInterrupt):  # in the middle of the fine-tuning, past its milestone
        run(tmp_path / "parts", training=training, loss=Stopping(lambda: send(signal.SIGINT), at=[22]))
    other = phases | {"fine_tune": phases["fine_tune"] | {"lr": 0.2}}
    with pytest.raises(CheckpointError, match=r"began with training\.phases\.fine_tune\.lr 0\.1, not 0\.2"):
        run(tmp_path / "parts", training=training | {"phases": other}, resume=True)
    run(tmp_path / "parts", training=training, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "parts")
    rates = [record["lr"] for record in history(tmp_path / "parts") if record["phase"] == "fine_tune"]
    assert rates == pytest.approx([0.005, 0.0005])


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        (0.25, 0.25),
        (1, 1.0),
        ({"share": 0.25}, 0.25),
        ({"share": 0.25, "lr": None}, 0.25),
        ({"lr": 1}, {"lr": 1.0}),
        ({"share": 0, "milestones": [0.5]}, {"share": 0.0, "milestones": (0.5,)}),
        ({}, {}),
    ],
)
def test_phase_options_in_their_shortest_form(given: Any, plain: Any) -> None:
    options = TrainOptions(phases={"search": given})
    assert options.model_dump()["phases"] == {"search": plain}
    again = TrainOptions(**options.model_dump())
    assert again == options
    assert hash(again) == hash(options)
    assert PhaseOptions.model_validate(options.phases["search"]) == options.phases["search"]


@pytest.mark.parametrize(
    ("epochs", "shares", "text"),
    [
        (10, {"finetune": 0.5}, "learner 'maskconnect' has no phase 'finetune'; did you mean 'fine_tune'?"),
        (10, {"retrain": 0.5}, "learner 'maskconnect' has no phase 'retrain'; known: fine_tune, search"),
        (10, {"search": 0, "fine_tune": 0}, "every phase is switched off; give one a share above 0"),
        (
            1,
            {},
            "1 epoch is too few for the phases search, fine_tune; give at least 2, or skip a phase: set"
            " 'phases.fine_tune' to 0",
        ),
    ],
)
def test_impossible_plans(epochs: int, shares: dict[str, float], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        planned("maskconnect", epochs, shares)
    assert str(caught.value) == text


def test_phases_of_a_run() -> None:
    result = run(learner="maskconnect", epochs=3, training={"phases": {"search": 2, "fine_tune": 1}})
    assert [(record["phase"], record.get("epoch")) for record in result.history] == [
        ("search", 1),
        ("search", 2),
        ("fine_tune", 1),
        ("result", None),
    ]
    assert set(result.searched_metrics) == {"loss", "accuracy"}
    # A phase has a schedule of its own: the fine-tuning of MaskConnect peaks at a fifth of the rate.
    first_rates = [record["lr"] for record in result.history if record.get("epoch") == 1]
    assert first_rates[1] < 0.2 * 0.05


def test_search_alone_is_pruned_in_the_end() -> None:
    result = run(learner="maskconnect", epochs=2, training={"phases": {"fine_tune": 0}})
    assert [record["phase"] for record in result.history] == ["search", "search", "result"]
    assert len(result.graph.edges) < len(result.searched.edges)
    assert not any(edge.learnable for edge in result.graph.edges)
    assert result.searched_metrics == pytest.approx(result.metrics, abs=1e-5), "pruning changed the function"


def test_without_a_search_the_start_decides() -> None:
    result = run(learner="maskconnect", epochs=1, training={"phases": {"search": 0}}, fan_in=1)
    assert result.searched_metrics == {}
    # All masks are equal, and ties go by an order of the seed's.
    start = make_learner("maskconnect", graph(), {"fan_in": 1, "seed": 0})
    assert result.graph.nodes.keys() == prune(Network(graph(), start)).graph.nodes.keys()
    assert len(result.graph.nodes) < len(graph().nodes)


# -- what a phase starts from -------------------------------------------------------------------


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def trained() -> Network:
    torch.manual_seed(3)
    net = Network(graph(), make_learner("sparsemask", graph()))
    with torch.no_grad():
        net.learner.gate.uniform_(0.1, 2)  # type: ignore[union-attr]
        for norm in norms(net):
            norm.running_mean.normal_()  # type: ignore[union-attr]
    return prune(net)


def test_carried_weights_are_the_same_network() -> None:
    net = trained()
    assert begin_phase(net, Phase("fine_tune", 1.0), seed=1) is net


def test_fresh_weights_by_seed() -> None:
    net = trained()
    fresh, again, other = (begin_phase(net, Phase("retrain", 1.0, weights="fresh"), seed=seed) for seed in (1, 1, 2))
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    name = next(name for name, _ in net.named_parameters())
    assert not torch.equal(fresh.state_dict()[name], net.state_dict()[name])
    assert not torch.equal(fresh.state_dict()[name], other.state_dict()[name])


def test_passes_change_the_graph_and_keep_the_weights() -> None:
    net = trained()
    assert any(edge.weight != 1 for edge in net.graph.edges)
    begun = begin_phase(net, Phase("retrain", 1.0, passes=(UnitWeights(),)), seed=1)
    assert all(edge.weight == 1 for edge in begun.graph.edges)
    for name, value in net.state_dict().items():
        assert torch.equal(begun.state_dict()[name], value), name


def frozen(net: Network) -> set[str]:
    """Batch normalisations that train neither scale nor shift."""
    found = set()
    for name, norm in net.named_modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.affine:
            assert norm.weight.requires_grad == norm.bias.requires_grad
            if not norm.weight.requires_grad:
                found.add(name)
    return found


BRANCHES = """
topolearn: 1
name: branches
inputs: {image: [3, 8, 8]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 8}
  unread: {op: relu_conv_bn, out_channels: 8}
  plain: {op: conv_relu, out_channels: 8}
  before: {op: bn_relu_conv, out_channels: 8}
  norm: {op: batch_norm}
  unit: {op: relu_sepconv_bn, out_channels: 8}
  block: {op: resnet.bottleneck, channels: 16}
  branch: {op: resnet.bottleneck_branch, channels: 8, width: 4, squeeze: 2}
  mobile: {op: mobilenetv2.inverted_bottleneck, out_channels: 8}
  grouped: {op: resnext.branch, width: 4, out_channels: 8, residual_scale: 1}
  sum: {op: relu, input: {channels: 8, stride: 1}}
  head: {op: classifier, classes: 4}
edges:
  - {from: image, to: stem}
  - {from: stem, to: [unread, plain, before, norm, unit, block, branch, mobile, grouped]}
  - {from: unread, to: sum}
  - {from: [plain, before, norm, unit, branch, mobile, grouped], to: sum, learnable: true}
  - {from: block, to: sum, op: project, affine: true, learnable: true}
  - {from: sum, to: head}
outputs: [head]
"""


def test_freeze_affine() -> None:
    net = Network(loads(BRANCHES))
    freeze_affine(net, "weighted")
    # What ends a branch that a learnable edge weights; neither what comes before it, nor a shortcut's own.
    assert frozen(net) == {
        "nodes.norm",
        "nodes.unit.bn",
        "nodes.block.residual.2.bn",
        "nodes.branch.layers.3.bn",
        "nodes.mobile.layers.2.bn",
        "nodes.grouped.residual.2.bn",
        "edges.block__sum.unit.bn",
    }
    freeze_affine(net, "all")
    assert len(frozen(net)) == len(norms(net)) > 7
    freeze_affine(net, None)
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_norms_in_front_of_what_a_learnable_edge_weights_are_trained() -> None:
    net = Network(topolearn.load_graph("resnet38-preact-cifar100"))
    assert len(norms(net)) == 2 * 18 + 1
    freeze_affine(net, "weighted")
    assert frozen(net) == set()


@pytest.mark.parametrize(("learner", "moving"), [("continuous", "stem"), ("sparsemask", ""), ("maskconnect", "all")])
def test_scale_and_shift_move_only_where_the_plan_lets_them(learner: str, moving: str) -> None:
    later = [phase.name for phase in make_learner(learner, graph()).phases() if not phase.search]
    result = run(learner=learner, epochs=1, training={"phases": dict.fromkeys(later, 0)})
    units = {name: unit for name, unit in result.model.nodes.items() if norms(unit)}
    moved = {
        name
        for name, unit in units.items()
        if not all(bool((norm.weight == 1).all() & (norm.bias == 0).all()) for norm in norms(unit))
    }
    assert len(units) > 2
    # The stem's out-edges are fixed, those of all others learned.
    assert moved == (units.keys() if moving == "all" else {moving} - {""})


@pytest.mark.parametrize("make", [toy, noisy])
def test_recalibrated_statistics_are_those_of_the_batches(make: Any) -> None:
    net, data = trained(), make()
    assert isinstance(data, Data)
    before = {name: value.clone() for name, value in net.named_parameters()}
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, []).append(  # type: ignore[misc]
                (args[0].mean((0, 2, 3)), args[0].var((0, 2, 3), unbiased=True))
            )
        )
        for name, module in net.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    recalibrate(net, data, 4, seed=7)
    for handle in handles:
        handle.remove()
    assert seen
    for name, norm in ((name, module) for name, module in net.named_modules() if name in seen):
        assert len(seen[name]) == data.steps(4)
        mean, var = (torch.stack(each).mean(0) for each in zip(*seen[name], strict=True))
        torch.testing.assert_close(norm.running_mean, mean)
        torch.testing.assert_close(norm.running_var, var)
        assert norm.momentum == 0.1
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters())


def test_recalibration_is_repeatable_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topolearn.training.phases.RECALIBRATION_BATCHES", 2)
    first, second = trained(), trained()
    recalibrate(first, toy(), 4, seed=7)
    recalibrate(second, toy(), 4, seed=7)
    assert all(int(norm.num_batches_tracked) == 2 for norm in norms(first))  # type: ignore[arg-type]
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_only_continuous_recalibrates(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr("topolearn.training.trainer.recalibrate", lambda *_: calls.append("recalibrated"))
    for learner in LEARNERS:
        run(learner=learner, epochs=2)
        calls.append(learner)
    assert calls == ["maskconnect", "recalibrated", "continuous", "sparsemask", "fixed"]


@pytest.mark.parametrize("phases", [{}, {"fine_tune": 0}, {"search": 0}])
def test_recalibrates_once_whatever_phases_there_are(phases: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    pruned: list[bool] = []
    monkeypatch.setattr(
        "topolearn.training.trainer.recalibrate", lambda net, *_: pruned.append(net.graph.candidates == {})
    )
    run(learner="continuous", epochs=2, training={"phases": phases})
    assert pruned == [True]


def test_without_a_fine_tuning_the_statistics_are_those_of_the_pruned_network(tmp_path: Path) -> None:
    run(tmp_path, {"name": "continuous", "threshold": 0.99}, epochs=2, training={"phases": {"fine_tune": 0}})
    net = prune(load_searched(tmp_path).net)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    recalibrate(net, pair(), 4, mix("recalibrate", 0))
    written = topolearn.load_model(tmp_path).state_dict()
    assert written.keys() == before.keys()
    assert all(torch.equal(value, written[name]) for name, value in net.state_dict().items())
    assert any(not torch.equal(value, written[name]) for name, value in before.items())
