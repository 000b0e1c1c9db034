"""``fit`` with learners that score: score, prune, fine-tune; also after an interruption."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import topolearn
from tests.data.toys import toy
from tests.learners.test_scoring import branches, residual
from tests.training.runs import assert_same, quick_fit
from topolearn.compiler import Network
from topolearn.errors import OptionError
from topolearn.graph import Graph
from topolearn.runs import FitResult
from topolearn.runs.result import read_result
from topolearn.samples.base import AnyBatch
from topolearn.studies.reprune import reprune
from topolearn.training.scoring_batches import ScoringBatches
from topolearn.training.trainer import Trainer

SCORERS = ("ablation", "taylor", "similarity", "random_blocks")
BUDGET = {"macs": 0.65}


def graph() -> Graph:
    return residual(channels=3, size="8, 6", classes=4)


@pytest.fixture(scope="module")
def given() -> Network:
    """A network that has been trained, with its statistics."""
    torch.manual_seed(1)
    start = topolearn.compile(graph())
    trained = quick_fit(start, {"name": "fixed", "rule": "full"}, toy(), epochs=2, batch_size=8, lr=0.1)
    start.load_state_dict(trained.model.state_dict())
    return start


def shrunk(given: Network, learner: str, out: Path | None = None, **options: Any) -> FitResult:
    learner_options = {"budget": BUDGET} | ({} if learner == "random_blocks" else {"batches": 2})
    settings = {"epochs": 2, "batch_size": 8, "lr": 0.01, "out": out} | options
    training = {"judge_given": False} | dict(settings.pop("training", {}))
    return quick_fit(given, learner, toy(), training=training, **settings, **learner_options)


@pytest.mark.parametrize("learner", SCORERS)
def test_score_prune_and_fine_tune(given: Network, learner: str, tmp_path: Path) -> None:
    before = copy.deepcopy(given.state_dict())
    result = shrunk(given, learner, tmp_path / "run")
    assert [record["phase"] for record in result.history] == ["fine_tune", "fine_tune", "result"]
    assert result.spent is not None
    assert result.graph.cost.macs == result.spent.reached <= 0.65 * given.graph.cost.macs
    assert sum(name.startswith("f") for name in result.graph.nodes) == 3
    for metrics in (result.given_metrics, result.removed_metrics, result.metrics):
        assert set(metrics) == {"loss", "accuracy"}
    assert not result.searched_metrics
    table = repr(result)
    assert "given  as removed" in table
    assert "end of search" not in table
    assert repr(read_result(tmp_path / "run")) == table
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())


def test_the_metrics_as_removed_are_those_of_the_pruned_network(given: Network) -> None:
    """With a learning rate of next to nothing, fine-tuning changes only the statistics, and not without a step."""
    result = shrunk(given, "taylor", lr=1e-12, epochs=1)
    assert result.metrics["loss"] == pytest.approx(result.removed_metrics["loss"], rel=0.2)
    assert result.given_metrics["loss"] != pytest.approx(result.removed_metrics["loss"], rel=1e-3)


def test_a_search_state_is_kept_to_prune_again(given: Network, tmp_path: Path) -> None:
    shrunk(given, "ablation", tmp_path / "run")
    with pytest.warns(UserWarning, match="cannot be found"):
        smaller = reprune(tmp_path / "run", tmp_path / "smaller", {"budget.macs": "0.45"})
    assert sum(name.startswith("f") for name in smaller.graph.nodes) == 2


def test_adapting_comes_before_scoring(given: Network, tmp_path: Path) -> None:
    fresh = topolearn.compile(graph())
    result = shrunk(fresh, "taylor", epochs=3, training={"phases": {"adapt": 1, "fine_tune": 2}})
    assert [record["phase"] for record in result.history] == ["adapt", "fine_tune", "fine_tune", "result"]
    assert result.given_metrics["loss"] == result.history[0]["val_loss"]
    with pytest.warns(UserWarning, match="is not trained for these data, so the scores say little"):
        shrunk(fresh, "taylor", epochs=1)


@pytest.mark.parametrize("learner", ["ablation", "taylor"])
@pytest.mark.parametrize("adapt", [False, True])
def test_an_interrupted_run_scores_on(
    given: Network, learner: str, adapt: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"training": {"phases": {"adapt": 1, "fine_tune": 1}}} if adapt else {}
    shrunk(given, learner, tmp_path / "whole", **options)
    evaluations = {"of both": 0}
    real_loss, real_pause = ScoringBatches.loss, Trainer.between_scores

    def counted(self: ScoringBatches, edge_weights: Tensor, batch: int) -> Tensor:
        evaluations["of both"] += 1
        return real_loss(self, edge_weights, batch)

    def interrupted(self: Trainer, done: str, due: bool) -> None:
        self.interrupt.asked = True
        real_pause(self, done, due)

    monkeypatch.setattr(ScoringBatches, "loss", counted)
    monkeypatch.setattr(Trainer, "between_scores", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shrunk(given, learner, tmp_path / "parts", **options)
    first = evaluations["of both"]
    monkeypatch.setattr(Trainer, "between_scores", real_pause)
    result = shrunk(given, learner, tmp_path / "parts", resume=True, **options)
    assert 0 < first < evaluations["of both"] == {"ablation": 2 * (1 + 5 + 4), "taylor": 2}[learner]
    assert result.given_metrics
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_budget_is_needed(given: Network, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="learner 'taylor' needs a budget"):
        quick_fit(given, "taylor", toy(), epochs=1, out=tmp_path / "run", training={"judge_given": False})
    assert not (tmp_path / "run").exists()


# -- the batches ------------------------------------------------------------------------------------


def trial(net: Network) -> ScoringBatches:
    return ScoringBatches(net, toy(), F.cross_entropy, 8, 0, torch.device("cpu"), "float32", lambda done, due: None)


def test_losses_are_those_of_a_frozen_network_with_batch_statistics(given: Network) -> None:
    net = copy.deepcopy(given).train()
    state = copy.deepcopy(net.state_dict())
    modes = [module.training for module in net.modules()]
    weights = torch.tensor([edge.weight for edge in net.graph.edges])
    weights[branches(net.graph)[1]] = 0.0
    batches = trial(net)
    found = batches.loss(weights, 1).detach()
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    inputs, targets = batches.batch(1)
    frozen = copy.deepcopy(given).train()
    frozen.set_edge_weights(weights)
    assert float(found) == pytest.approx(float(F.cross_entropy(frozen(inputs), targets).detach()), rel=1e-6)
    assert not torch.equal(batches.batch(0)[0], inputs)


def test_an_overflow_leaves_no_trace(given: Network) -> None:
    net = copy.deepcopy(given)
    state = copy.deepcopy(net.state_dict())
    batches = trial(net)
    batches._batches = [(inputs * 1e38, targets) for inputs, targets in (batches.batch(0),)]
    weights = torch.tensor([edge.weight for edge in net.graph.edges])
    assert not batches.loss(weights, 0).isfinite()
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize(("wanted", "read"), [(3, 3), (50, 8)])
def test_each_batch_is_read_once(wanted: int, read: int, given: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    data, batches = toy(), trial(given)
    whole = list(data.train_batches(8, seed=0, epoch=0))
    reads: list[int] = []

    def counted(*_: Any, **__: Any) -> Iterator[AnyBatch]:
        for number, batch in enumerate(whole):
            reads.append(number)
            yield batch

    monkeypatch.setattr(batches.data, "train_batches", counted)
    for _ in range(2):
        for number in range(wanted):
            assert torch.equal(batches.batch(number)[0], whole[number % len(whole)][0])
    assert reads == list(range(min(wanted, len(whole))))
    assert len(reads) <= read


def test_gradients_reach_edge_weights(given: Network) -> None:
    batches = trial(given)
    weights = torch.tensor([edge.weight for edge in given.graph.edges], dtype=torch.float64, requires_grad=True)
    net = copy.deepcopy(given).double()
    batches = ScoringBatches(net, toy(), F.cross_entropy, 8, 0, torch.device("cpu"), "float32", lambda done, due: None)
    batches._batches = [(inputs.double(), targets) for inputs, targets in (batches.batch(0), batches.batch(1))]
    (gradient,) = torch.autograd.grad(batches.loss(weights, 0), weights)
    for i in branches(net.graph):
        steps = []
        for sign in (1, -1):
            moved = weights.detach().clone()
            moved[i] += sign * 1e-6
            steps.append(float(batches.loss(moved, 0).detach()))
        assert float(gradient[i]) == pytest.approx((steps[0] - steps[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_watching_shows_what_nodes_add_up(given: Network) -> None:
    seen: dict[str, Mapping[int, Tensor]] = {}
    trial(given).watch(0, seen.__setitem__)
    assert list(seen) == [f"s{i}" for i in range(1, 6)]
    first = seen["s1"]
    (shortcut, branch) = first
    assert given.graph.edges[shortcut].src == "image"
    assert torch.equal(first[shortcut], trial(given).batch(0)[0])
    assert first[branch].shape == first[shortcut].shape
