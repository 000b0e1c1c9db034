"""SparseMask against its formulas."""

from __future__ import annotations

import math

import pytest
import torch

from tests.learners.samples import batch, complete, graph, network, step, vectors
from topolearn import optimizers, prune
from topolearn.graph import (
    DropSubsetNodes,
    Edge,
    FinaliseDecoder,
    FixPoint,
    Graph,
    MergeDuplicateNodes,
    Node,
    UnitWeights,
    apply_passes,
)
from topolearn.learners import SearchSchedule, SparseMask


def decoder(stages: int = 9) -> Graph:
    """The candidates of a fully dense decoder: T_l = {E_i, i >= l} + {D_i, i > l} + {G}."""
    names = [f"e{i}" for i in range(1, stages + 1)] + ["g"]
    nodes = [Node(name, "input", {"size": (2,)}) for name in names]
    nodes += [Node(f"d{i}", "identity") for i in range(stages, 0, -1)]
    edges = []
    for stage in range(1, stages + 1):
        sources = [f"e{i}" for i in range(stage, stages + 1)] + [f"d{i}" for i in range(stages, stage, -1)] + ["g"]
        edges += [Edge(source, f"d{stage}", learnable=True) for source in sources]
    return Graph("decoder", nodes, tuple(edges), ("d1",)).declare_inputs().verify()


def set_gates(learner: SparseMask, *values: float) -> None:
    with torch.no_grad():
        learner.gate.copy_(torch.tensor(values))


# -- the loss ------------------------------------------------------------------------------------


def test_loss_of_the_nine_stage_decoder_at_the_start() -> None:
    searched = decoder()
    assert len(searched.edges) == 90
    learner = SparseMask(searched, penalty_strength=1.0).eval()
    assert learner.candidates.sizes == tuple(range(2, 19, 2))  # deepest first
    losses = learner.stage_losses().tolist()
    assert losses == pytest.approx([2 * math.log(2)] * 9, abs=1e-6)
    assert losses[0] == pytest.approx(1.386294, abs=1e-6)
    loss = learner.penalty()
    assert float(loss.detach()) == pytest.approx(12.476649, abs=1e-5)
    loss.backward()
    expected = [0, 0, 0.05556, 0.0625, 0.06, 0.05556, 0.05102, 0.04688, 0.04321]
    for indices, value in zip(searched.candidates.values(), expected, strict=True):
        assert learner.gate.grad is not None
        assert learner.gate.grad[list(indices)].tolist() == pytest.approx([value] * len(indices), abs=1e-5)


def test_loss_by_hand() -> None:
    learner = SparseMask(vectors(5), penalty_strength=0.3).eval()
    gates = [0.2, 1.9, 0.7, 1.0, 1.3]
    set_gates(learner, *gates)
    u = [v / 2 for v in gates]
    mean, share = sum(u) / 5, 2 / 5
    entropy = sum(-w * math.log(w) - (1 - w) * math.log(1 - w) for w in u) / 5
    cross = -share * math.log(mean) - (1 - share) * math.log(1 - mean)
    assert learner.stage_losses().tolist() == pytest.approx([entropy + cross])
    assert float(learner.penalty().detach()) == pytest.approx(0.3 * (entropy + cross), rel=1e-5)


@pytest.mark.parametrize(("candidates", "share"), [(1, 0.5), (2, 0.5), (4, 0.5), (5, 0.4), (18, 1 / 9)])
def test_share_of_open_gates(candidates: int, share: float) -> None:
    learner = SparseMask(vectors(candidates)).eval()
    set_gates(learner, *[2 * share] * candidates)  # where CE has its minimum, the entropy of the share
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert learner.stage_losses().tolist() == pytest.approx([2 * entropy], rel=1e-5)


def test_loss_and_gradient_are_finite_at_either_end() -> None:
    learner = SparseMask(vectors(4), penalty_strength=1.0).eval()
    for gates in ((0.0, 0.0, 0.0, 0.0), (2.0, 2.0, 2.0, 2.0), (0.0, 2.0, 0.0, 2.0)):
        set_gates(learner, *gates)
        loss = learner.penalty()
        (gradient,) = torch.autograd.grad(loss, learner.gate)
        assert math.isfinite(float(loss.detach()))
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loss_is_float32(dtype: torch.dtype) -> None:
    learner = SparseMask(decoder(), penalty_strength=1.0).eval().to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        loss = learner.penalty()
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(12.476649, abs=1e-4)


def test_lambda_grows_for_short_searches() -> None:
    learner = SparseMask(vectors())
    assert learner.strength == 0.01
    for steps, lr, expected in ((33_100, 0.05, 0.01), (3000, 0.05, 0.1), (300, 0.05, 1.0), (300, 0.1, 0.5)):
        learner.begin(SearchSchedule(steps, steps * lr / 2, lr, 0.9))
        assert learner.strength == pytest.approx(expected)
        assert learner.summary()["penalty_strength"] == learner.strength
    given = SparseMask(vectors(), penalty_strength=0.3)
    given.begin(SearchSchedule(300, 7.5, 0.05, 0.9))
    assert given.strength == 0.3


# -- the gates -----------------------------------------------------------------------------------


def test_starts_at_one_whatever_the_graph_says() -> None:
    learner = SparseMask(graph("mixed")).eval()
    given = learner.edge_weights().detach()
    assert set(given[learner.candidates.index].tolist()) == {1.0}


def test_noise_is_normal_and_in_training_only() -> None:
    searched = decoder()
    learner = SparseMask(searched, noise=0.1, seed=1)
    values = []
    for _ in range(60):
        values.append(learner.gates().detach() - 1)
        learner.after_step()
    drawn = torch.cat(values)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.01)
    assert float(drawn.std()) == pytest.approx(0.1, rel=0.05)
    assert float((drawn.abs() < 0.1).float().mean()) == pytest.approx(0.683, abs=0.02)
    learner.eval()
    assert learner.gates().tolist() == [1.0] * 90
    assert SparseMask(searched, noise=0.0).gates().tolist() == [1.0] * 90


def test_gates_are_clamped_with_their_noise() -> None:
    learner = SparseMask(vectors(4), noise=0.5)
    seen = []
    for _ in range(20):
        set_gates(learner, 0.0, 2.0, 0.01, 1.99)
        seen.append(learner.gates().detach())
        learner.after_step()
    drawn = torch.stack(seen)
    assert float(drawn.min()) == 0.0
    assert float(drawn.max()) == 2.0
    assert len(drawn.unique()) > 10


def test_gates_are_clamped_after_a_step() -> None:
    learner = SparseMask(vectors(4))
    set_gates(learner, -0.3, 0.5, 2.0, 2.7)
    clean = learner.topology()
    learner.after_step()
    assert learner.gate.tolist() == [0.0, 0.5, 2.0, 2.0]
    assert learner.topology() == clean


def test_a_shut_gate_can_open_again() -> None:
    learner = SparseMask(vectors(4), seed=2)
    set_gates(learner, 0.0, 0.0, 0.0, 0.0)
    pulled = torch.zeros(4)
    for _ in range(12):
        (gradient,) = torch.autograd.grad(learner.edge_weights().sum(), learner.gate)
        pulled += gradient
        learner.after_step()
    assert bool((pulled > 0).all())  # noise lifts it off the bound in half of the steps
    assert bool((pulled < 12).all())


def test_without_noise_a_symmetric_start_stays_symmetric() -> None:
    for noise, binary in ((0.0, False), (0.1, True)):
        learner = SparseMask(vectors(8), penalty_strength=1.0, noise=noise)
        optimizer = torch.optim.SGD(learner.param_groups(0.05), momentum=0.9)
        for _ in range(300):
            learner.penalty().backward()
            optimizer.step()
            optimizer.zero_grad()
            learner.after_step()
        gates = learner.gate.detach()
        if binary:
            assert bool(((gates < 0.2) | (gates > 1.8)).all())
            assert 1 <= int((gates > 1.8).sum()) <= 3  # two of eight
        else:
            assert len(gates.unique()) == 1


def test_trained_by_the_optimizer_of_the_weights() -> None:
    searched = vectors()
    learner = SparseMask(searched)
    (optimizer,) = optimizers(network(searched, learner), lr=0.05, momentum=0.8, weight_decay=0.1)
    own = optimizer.param_groups[1]
    assert own["params"] == [learner.gate]
    assert (own["lr"], own["momentum"], own["weight_decay"]) == (0.05, 0.8, 0.0)


# -- the end of the search -----------------------------------------------------------------------


def test_keeps_what_is_above_the_threshold_at_its_clean_gate() -> None:
    learner = SparseMask(vectors(6), threshold=0.1)
    set_gates(learner, 0.0, 0.2, 0.21, 1.0, 2.0, 0.1999)
    topology = learner.topology()
    assert list(topology.keep) == [False, False, True, True, True, False]
    assert SparseMask(vectors(6)).options.threshold == 0.001


@pytest.mark.parametrize("aggregate", ["sum", "mean", "normalised"])
def test_pruned_is_masked(aggregate: str) -> None:
    searched = complete(5, "relu_conv_bn", aggregate)
    learner = SparseMask(searched)
    net = network(searched, learner)
    open_gates = {0: 0.7, 1: 2.0, 3: 0.3, 5: 1.1, 8: 1.9, 9: 2.0, 10: 0.5, 13: 1.3, 14: 0.1}  # one per node at least
    set_gates(learner, *[open_gates.get(i, 0.0) for i in range(15)])
    image = torch.randn(4, 3, 4, 4)
    net(image)
    small = prune(net.eval())
    assert len(small.graph.edges) < len(searched.edges)
    torch.testing.assert_close(small(image), net(image), atol=1e-5, rtol=1e-5)


def test_a_path_is_always_left() -> None:
    learner = SparseMask(complete(3))
    set_gates(learner, *[0.0] * 6)
    with pytest.warns(UserWarning, match="no path from an input to 'head' is left"):
        small = prune(network(learner.graph, learner))
    assert small.graph.verify().outputs == ("head",)


def test_retrains_without_gates() -> None:
    searched = graph("decoder")
    learner = SparseMask(searched)
    net = network(searched, learner)
    step(net, optimizers(net, lr=0.05))
    search, retrain = learner.phases()
    assert search.search
    assert search.freeze_affine
    assert retrain.weights == "fresh"
    merging = FixPoint((MergeDuplicateNodes(), DropSubsetNodes()))
    assert retrain.passes == (merging, FinaliseDecoder(), UnitWeights.after_search(searched))
    bare = apply_passes(prune(net).graph, *retrain.passes)
    assert {edge.weight for edge in bare.edges} == {1.0}
    assert bool(torch.isfinite(network(bare, None).eval()(**batch(bare))).all())


@pytest.mark.parametrize(
    ("options", "merging"),
    [
        ({"merge_duplicates": False}, (FixPoint((DropSubsetNodes(),)),)),
        ({"drop_subsets": False}, (FixPoint((MergeDuplicateNodes(),)),)),
        ({"merge_duplicates": False, "drop_subsets": False}, ()),
    ],
)
def test_either_way_of_merging_can_be_switched_off(options: dict[str, bool], merging: tuple[FixPoint, ...]) -> None:
    searched = graph("decoder")
    _, retrain = SparseMask(searched, **options).phases()
    assert retrain.passes == (*merging, FinaliseDecoder(), UnitWeights.after_search(searched))
