"""How epochs are dealt out, and what happens between two phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.runs import graph, run
from tests.training.toys import noisy, toy
from topolearn.compiler import Network, prune
from topolearn.errors import OptionError
from topolearn.graph.passes import UnitWeights
from topolearn.learners import Phase, make_learner
from topolearn.training.data import Data
from topolearn.training.phases import begin_phase, freeze_affine, recalibrate, schedule

LEARNERS = ("maskconnect", "continuous", "sparsemask", "fixed")


def dealt(learner: str, epochs: int, **shares: float) -> dict[str, int]:
    return {item.phase.name: item.epochs for item in schedule(make_learner(learner, graph()), epochs, shares)}


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
    assert dealt("maskconnect", 10) == {"search": 7, "fine_tune": 3}
    assert dealt("maskconnect", 10, search=1, fine_tune=1) == {"search": 5, "fine_tune": 5}
    assert dealt("maskconnect", 10, fine_tune=0.7) == {"search": 5, "fine_tune": 5}
    assert dealt("maskconnect", 40, search=30, fine_tune=10) == {"search": 30, "fine_tune": 10}
    assert dealt("sparsemask", 5, retrain=1e-9) == {"search": 4, "retrain": 1}
    assert dealt("continuous", 2, search=1e9) == {"search": 1, "fine_tune": 1}


def test_a_share_of_0_switches_a_phase_off() -> None:
    assert dealt("maskconnect", 10, fine_tune=0) == {"search": 10}
    assert dealt("maskconnect", 1, search=0) == {"fine_tune": 1}


@pytest.mark.parametrize(
    ("epochs", "shares", "text"),
    [
        (10, {"finetune": 0.5}, "learner 'maskconnect' has no phase 'finetune'; did you mean 'fine_tune'?"),
        (10, {"retrain": 0.5}, "learner 'maskconnect' has no phase 'retrain'; known: fine_tune, search"),
        (10, {"search": 0, "fine_tune": 0}, "every phase is switched off; give one a share above 0"),
        (1, {}, "1 epochs are too few for the phases search, fine_tune; give at least 2"),
    ],
)
def test_impossible_plans(epochs: int, shares: dict[str, float], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        schedule(make_learner("maskconnect", graph()), epochs, shares)
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
    # All masks are equal, and ties go to the latest candidates.
    assert [(edge.src, edge.dst) for edge in result.graph.edges if edge.dst in ("b2", "head")] == [
        ("a3", "b2"),
        ("b2", "head"),
    ]


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


def test_freeze_affine() -> None:
    net = trained()
    freeze_affine(net, True)
    frozen = [(norm.weight.requires_grad, norm.bias.requires_grad) for norm in norms(net)]
    assert set(frozen) == {(False, False)}
    freeze_affine(net, False)
    assert all(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize(("learner", "moves"), [("continuous", False), ("sparsemask", False), ("maskconnect", True)])
def test_scale_and_shift_move_only_where_the_plan_lets_them(learner: str, moves: bool) -> None:
    later = [phase.name for phase in make_learner(learner, graph()).phases() if not phase.search]
    result = run(learner=learner, epochs=1, training={"phases": dict.fromkeys(later, 0)})
    moved = [not bool((norm.weight == 1).all() and (norm.bias == 0).all()) for norm in norms(result.model)]
    assert moved
    assert all(moved) if moves else not any(moved)


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


def test_only_continuous_recalibrates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[str] = []
    monkeypatch.setattr("topolearn.training.trainer.recalibrate", lambda *_: calls.append("recalibrated"))
    for learner in LEARNERS:
        run(learner=learner, epochs=2)
        calls.append(learner)
    assert calls == ["maskconnect", "recalibrated", "continuous", "sparsemask", "fixed"]
