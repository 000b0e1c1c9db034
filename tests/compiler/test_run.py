"""How a forward pass adds up is chosen once, and all ways of it give the same sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.compiler import toys
from topolearn.compiler.lowering import plain_plan
from topolearn.compiler.run import EagerRun, RecordedRun, Run, TracedRun, start_run
from topolearn.compiler.schedule import make_schedule
from topolearn.compiler.weights import InEdges, NumberWeights, TensorWeights

GRAPH = toys.diamond()
SCHEDULE = make_schedule(plain_plan(GRAPH))
NUMBERS = [0.5, -2.0, 1.0, 0.0, 3.0, 1.0, 1.0, 1.0]


def start(weights: Tensor | list[float]) -> Run:
    return start_run(SCHEDULE, weights, (8, 8))


def test_it_is_chosen_by_who_asks_and_what_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    learned = torch.tensor(NUMBERS, requires_grad=True)
    run = start(NUMBERS)
    assert isinstance(run, RecordedRun)
    assert isinstance(run.weights, NumberWeights)
    assert (run.ledger, run.learned, run.norm_weights) == (None, None, None)
    run = start(learned.detach())
    assert isinstance(run, RecordedRun)
    assert (run.ledger, run.learned, run.norm_weights) == (None, None, run.weights)
    run = start(learned)
    assert isinstance(run, RecordedRun)
    assert isinstance(run.weights, TensorWeights)
    assert run.ledger is not None
    assert run.learned is run.weights.weights is not learned
    with torch.no_grad():
        for weights in (NUMBERS, learned):
            assert isinstance(start(weights), EagerRun)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for weights in (NUMBERS, learned):
        run = start(weights)
        assert isinstance(run, TracedRun)
        assert run.norm_weights is None
    assert isinstance(run.weights, TensorWeights)
    assert run.weights.numbers is None


@pytest.mark.parametrize("places", [[0, 1, 2], [2, 0]], ids=["all", "some"])
@pytest.mark.parametrize("constant", [True, False], ids=["numbers", "tensor"])
def test_all_ways_give_the_same_sum(places: list[int], constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    row = list(GRAPH.nodes).index("join")
    edges = InEdges(row, tuple(GRAPH.in_edges("join")), (1, 2, 3), (True,) * 3).at(places)
    values = [torch.randn(2, 6, 4, 4, dtype=torch.float64) for _ in range(3)]
    wanted = sum(NUMBERS[GRAPH.in_edges("join")[i]] * values[i] for i in places)
    weights = NUMBERS if constant else torch.tensor(NUMBERS, dtype=torch.float64, requires_grad=True)

    def added(kind: type[Run]) -> Tensor:
        run = start(weights)
        assert isinstance(run, kind)
        run.values[1:4] = values
        return run.add(edges)

    sums = [added(RecordedRun)]
    with torch.no_grad():
        sums.append(added(EagerRun))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    sums.append(added(TracedRun))
    for found in sums:
        torch.testing.assert_close(found.detach(), wanted)
