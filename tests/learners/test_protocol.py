"""What every learner promises, on every graph with learnable edges."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import Tensor

from tests.learner_settings import SETTINGS, Setting
from tests.learners.samples import GRAPHS, TINY, batch, graph, loss_of, network, step, trained
from topolearn import optimizers, prune
from topolearn.compiler import Network
from topolearn.format import dumps, loads
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner

EACH = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
EVERYWHERE = pytest.mark.parametrize("name", GRAPHS)
SMALL = pytest.mark.parametrize("name", ["vectors", *TINY])
DRAWING = pytest.mark.parametrize(
    "setting", [s for s in SETTINGS.values() if s.draws], ids=[k for k, s in SETTINGS.items() if s.draws]
)


def weights(learner: EdgeLearner) -> list[float]:
    return learner.edge_weights().tolist()


def penalty_of(learner: EdgeLearner) -> float:
    return float(learner.penalty().detach())


def candidates(searched: Graph) -> list[int]:
    return [i for i, edge in enumerate(searched.edges) if edge.learnable]


@EACH
@EVERYWHERE
def test_searches_and_prunes_any_graph(setting: Setting, name: str) -> None:
    searched = graph(name)
    learner = setting.make(searched)
    net = network(searched, learner)
    chosen = optimizers(net, lr=0.05)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    for number in range(2):
        step(net, chosen, number)
    gates = [key for key, _ in net.named_parameters() if key.startswith("learner.")]
    assert bool(gates) == setting.learns
    moved = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    if any(len(found) > 1 for found in searched.candidates.values()):
        assert moved.issuperset(gates)
    assert any(key.startswith(("nodes.", "edges.")) for key in moved)

    topology = net.topology()
    assert topology.close(searched) == topology
    assert net.topology() == topology
    kept = [i for i, keep in enumerate(topology.keep) if keep]
    assert all(topology.keep[i] == (edge.weight != 0) for i, edge in enumerate(searched.edges) if not edge.learnable)
    small = prune(net)
    small.graph.verify()
    assert loads(dumps(small.graph)) == small.graph
    assert not small.graph.candidates
    assert len(small.graph.edges) <= len(kept)
    inputs = batch(searched, 7)
    left = {key: value for key, value in inputs.items() if key in small.graph.inputs}
    masked = Network(net.graph)
    masked.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("learner.")})
    masked.set_edge_weights(topology.edge_weights())
    both = zip(as_list(masked.eval()(**inputs)), as_list(small.eval()(**left)), strict=True)
    for one, other in both:
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def as_list(outputs: Tensor | dict[str, Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs.values())


@pytest.mark.parametrize(
    "setting", [s for s in SETTINGS.values() if s.binary], ids=[k for k, s in SETTINGS.items() if s.binary]
)
@SMALL
def test_a_binary_search_network_is_its_pruned_one(setting: Setting, name: str) -> None:
    net = trained(name, setting.make(graph(name)), 3).eval()
    small = prune(net)
    inputs = batch(net.graph, 7)
    left = {key: value for key, value in inputs.items() if key in small.graph.inputs}
    for one, other in zip(as_list(net(**inputs)), as_list(small(**left)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@EACH
@EVERYWHERE
def test_one_weight_per_edge_and_fixed_edges_at_their_weights(setting: Setting, name: str) -> None:
    searched = graph(name)
    learner = setting.make(searched)
    for mode in (True, False):
        learner.train(mode)
        given = learner.edge_weights().detach()
        assert given.shape == (len(searched.edges),)
        assert given.dtype == torch.float32
        active = learner.active()
        assert active is None or (active.shape == given.shape and active.dtype == torch.bool)
        for i, edge in enumerate(searched.edges):
            if not edge.learnable:
                assert float(given[i]) == edge.weight
        if setting.binary:
            assert active is not None
            assert {float(given[i]) for i in candidates(searched)} <= {0.0, 1.0}
            assert torch.equal(active, given != 0)
        penalty = learner.penalty().detach()
        assert penalty.shape == ()
        assert penalty.dtype == torch.float32
        several = any(len(found) > 1 for found in searched.candidates.values())
        assert float(penalty) > 0 if setting.penalises and several else float(penalty) >= 0


@EACH
@SMALL
def test_gradients_of_inactive_edges_are_numbers(setting: Setting, name: str) -> None:
    searched = graph(name)
    learner = setting.make(searched)
    net = network(searched, learner)
    loss_of(net(**batch(searched))).backward()
    for _, parameter in learner.named_parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())
    for node in net.nodes.parameters():
        assert node.grad is not None


@DRAWING
def test_a_draw_lasts_until_after_step(setting: Setting) -> None:
    learner = setting.make(graph("vectors"))
    first = weights(learner)
    penalty = penalty_of(learner)
    assert weights(learner) == first
    assert penalty_of(learner) == penalty
    learner.eval()
    clean = weights(learner)
    learner.train()
    assert weights(learner) == first
    assert penalty_of(learner) == penalty
    others = []
    for _ in range(8):
        learner.after_step()
        others.append(weights(learner))
    assert any(other != first for other in others)
    learner.eval()
    assert weights(learner) == clean


@DRAWING
def test_penalty_first_or_weights_first_is_the_same_draw(setting: Setting) -> None:
    one, other = setting.make(graph("vectors")), setting.make(graph("vectors"))
    penalty, given = penalty_of(one), weights(one)
    assert weights(other) == given
    assert penalty_of(other) == penalty


@EACH
def test_eval_draws_nothing(setting: Setting) -> None:
    learner = setting.make(graph("mixed")).eval()
    learner.on_learning_rate(0.0)  # a step that moved nothing
    before = copy.deepcopy(learner.state_dict())
    first, active = weights(learner), learner.active()
    learner.penalty()
    learner.after_step()
    assert weights(learner) == first
    again = learner.active()
    assert (active is None and again is None) or (active is not None and torch.equal(active, again))
    assert same_state(before, learner.state_dict())


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@EACH
@SMALL
def test_topology_leaves_the_learner_alone(setting: Setting, name: str) -> None:
    net = trained(name, setting.make(graph(name)), 2)
    learner = net.learner
    assert learner is not None
    learner.edge_weights()
    drawn, before = weights(learner), copy.deepcopy(learner.state_dict())
    for mode in (True, False):
        net.train(mode)
        modes = [module.training for module in net.modules()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            first = learner.topology()
            assert learner.topology() == first
        assert [module.training for module in net.modules()] == modes
    net.train()
    assert same_state(before, learner.state_dict())
    assert weights(learner) == drawn


@EACH
@pytest.mark.parametrize("mid_draw", [False, True])
def test_state_restores_the_learner_and_its_next_draws(setting: Setting, mid_draw: bool) -> None:
    net = trained("mixed", setting.make(graph("mixed")), 3)
    learner = net.learner
    assert learner is not None
    if mid_draw:
        learner.edge_weights()
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    options = {"seed": 99} if "seed" in learner.options_type.model_fields and setting.learns else {}
    restored = setting.make(graph("mixed"), **options)
    restored.edge_weights()  # a draw of its own, which the state replaces
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        assert weights(restored) == weights(learner)
        assert penalty_of(restored) == penalty_of(learner)
        for each in (restored, learner):
            each.on_learning_rate(0.05)
            each.after_step()
    assert restored.topology() == learner.topology()


@EACH
def test_equal_seeds_give_equal_searches(setting: Setting) -> None:
    runs = [trained("mixed", setting.make(graph("mixed")), 3).state_dict() for _ in range(2)]
    assert same_state(*runs)


@EACH
def test_a_copy_is_independent(setting: Setting) -> None:
    net = trained("mixed", setting.make(graph("mixed")), 2)
    learner = net.learner
    assert learner is not None
    learner.edge_weights()
    twin = copy.deepcopy(net)
    other = twin.learner
    assert other is not None
    assert other is not learner
    assert weights(other) == weights(learner)
    before = copy.deepcopy(learner.state_dict())
    parameters = [p.detach().clone() for p in learner.parameters()]
    chosen = optimizers(twin, lr=0.1)
    for number in range(3):
        step(twin, chosen, number)
    assert same_state(before, learner.state_dict())
    assert all(torch.equal(p, q) for p, q in zip(learner.parameters(), parameters, strict=True))
    chosen = optimizers(net, lr=0.1)
    for number in range(3):
        step(net, chosen, number)
    assert other.topology() == learner.topology()
    learner.after_step()
    other.after_step()
    assert weights(other) == weights(learner)


@EACH
@SMALL
def test_float64(setting: Setting, name: str) -> None:
    searched = graph(name)
    learner = setting.make(searched)
    net = network(searched, learner).to(torch.float64)
    chosen = optimizers(net, lr=0.05)
    for number in range(2):
        outputs = net(**batch(searched, number, dtype=torch.float64))
        loss = loss_of(outputs) + learner.penalty()
        assert loss.dtype == torch.float64
        loss.backward()
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        learner.after_step()
    assert learner.edge_weights().dtype == torch.float64
    small = prune(net).eval()
    left = {key: value for key, value in batch(searched, 5, dtype=torch.float64).items() if key in small.graph.inputs}
    assert all(y.dtype == torch.float64 for y in as_list(small(**left)))


@EACH
def test_fixed_weights_survive_float64(setting: Setting) -> None:
    learner = setting.make(graph("mixed")).to(torch.float64)
    given = weights(learner)
    assert [given[i] for i, e in enumerate(graph("mixed").edges) if not e.learnable] == [
        e.weight for e in graph("mixed").edges if not e.learnable
    ]


@EACH
def test_works_under_autocast(setting: Setting) -> None:
    learner = setting.make(graph("mixed"))
    net = network(graph("mixed"), learner)
    chosen = optimizers(net, lr=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = net(**batch(graph("mixed")))
        penalty = learner.penalty()
    assert penalty.dtype == torch.float32
    (loss_of({k: v.float() for k, v in outputs.items()}) + penalty).backward()
    for optimizer in chosen:
        optimizer.step()
    learner.after_step()
    assert all(bool(torch.isfinite(p).all()) for p in net.parameters())


@EACH
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_learns_with_either_optimizer(setting: Setting, name: str) -> None:
    learner = setting.make(graph("mixed"))
    net = network(graph("mixed"), learner)
    chosen = optimizers(net, lr=0.05, name=name)
    held = {id(p) for o in chosen for group in o.param_groups for p in group["params"]}
    assert {id(p) for p in net.parameters()} == held
    losses = [step(net, chosen) for _ in range(12)]
    assert losses[-1] < losses[0]


@EACH
def test_learners_own_parameters_never_decay(setting: Setting) -> None:
    learner = setting.make(graph("mixed"))
    net = network(graph("mixed"), learner)
    own = {id(p) for p in learner.parameters()}
    for optimizer in optimizers(net, lr=0.05, weight_decay=0.5):
        for group in optimizer.param_groups:
            if own & {id(p) for p in group["params"]}:
                assert own >= {id(p) for p in group["params"]}
                assert group["weight_decay"] == 0.0


@EACH
def test_summary_and_phases_are_there(setting: Setting) -> None:
    learner = setting.make(graph("mixed"))
    assert all(isinstance(value, float) for value in learner.summary().values())
    phases = learner.phases()
    assert sum(phase.share for phase in phases) == pytest.approx(1)
    assert any(phase.search for phase in phases if phase.share) == setting.learns
