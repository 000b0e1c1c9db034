"""Penalties by cost, and searches that end at a budget."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import topolearn
from tests.learners.samples import batch, complete, graph, network, step, vectors
from tests.training.runs import run
from topolearn import optimizers
from topolearn.compiler.timing import measure
from topolearn.errors import OptionError
from topolearn.graph import Edge, Graph, KeepEdges, Node
from topolearn.graph.price import Alive, Prices, edge_shares, mac_prices
from topolearn.learners import Continuous, EdgeLearner, SearchSchedule, make_learner
from topolearn.learners.pricing import ARRIVAL, DECAY, MOST, Pricing

BOTH = pytest.mark.parametrize("name", ["continuous", "sparsemask"])


def priced(name: str, searched: Graph, **options: Any) -> tuple[EdgeLearner, Pricing]:
    learner = make_learner(name, searched, options)
    pricing = learner.pricing
    assert isinstance(pricing, Pricing)
    return learner, pricing


def begin(learner: EdgeLearner, steps: int) -> None:
    learner.begin(SearchSchedule(steps=steps, total_lr=0.05 * steps, peak_lr=0.1, momentum=0.9))


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": {"macs": 1.5}}, "'budget.macs' of learner"),
        ({"budget": {"macs": 0.0}}, "'budget.macs' of learner"),
        ({"budget": {"watts": 0.5}}, "unknown parameter 'budget.watts'"),
        ({"budget": {}}, "needs one of 'macs', 'params' and 'milliseconds', as {macs: 0.5}"),
        ({"budget": {"macs": 0.5, "milliseconds": 0.5}}, "needs one of 'macs', 'params' and 'milliseconds'"),
        ({"cost": "watts"}, "'cost' of learner"),
        ({"cost": "milliseconds", "budget": {"macs": 0.5}}, "do not go together; drop 'cost'"),
        ({"budget": {"macs": 0.1}}, "is less than the cheapest path through graph 'digits' costs; give at least 0.1"),
    ],
)
def test_options_that_do_not_fit(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        make_learner(name, graph("digits"), options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@BOTH
def test_the_least_budget_that_an_error_names_is_enough(name: str) -> None:
    with pytest.raises(OptionError, match="give at least") as caught:
        make_learner(name, graph("digits"), {"budget": {"macs": 0.1}})
    least = float(str(caught.value).rpartition(" ")[2])
    make_learner(name, graph("digits"), {"budget": {"macs": least}})
    with pytest.raises(OptionError):
        make_learner(name, graph("digits"), {"budget": {"macs": least - 0.001}})


def test_without_cost_nothing_is_priced() -> None:
    for name in ("continuous", "sparsemask"):
        learner = make_learner(name, graph("digits"))
        assert learner.pricing is None
        assert not any("pricing" in key for key in learner.state_dict())
        assert learner.spent() is None


@BOTH
def test_steering_cannot_be_captured(name: str) -> None:
    assert make_learner(name, graph("digits")).capturable
    assert not make_learner(name, graph("digits"), {"cost": "macs"}).capturable
    assert type(make_learner(name, graph("digits"))).capturable


def test_where_every_learnable_edge_is_weak_all_are_under_the_usual_pressure() -> None:
    nodes = [
        Node("image", "input", {"size": (3, 6, 6)}),
        Node("a", "conv", {"out_channels": 3}),
        Node("b", "relu"),
        Node("head", "classifier", {"classes": 3}),
    ]
    edges = (Edge("image", "a"), Edge("a", "b"), Edge("image", "b", learnable=True, weight=0.0), Edge("b", "head"))
    searched = Graph("shortcut", nodes, edges, ("head",)).declare_inputs().verify()
    learner, pricing = priced("continuous", searched, cost="macs")
    begin(learner, 1)
    learner.after_step()
    assert pricing.weight.tolist() == [1.0]


def test_the_penalty_of_an_edge_goes_by_its_share() -> None:
    """Three layers of equal siblings: an edge answers for a sixth of what it feeds and of what it reads."""
    searched = graph("digits")
    learner, pricing = priced("continuous", searched, cost="macs", penalty="uniform", penalty_strength=0.5)
    begin(learner, 100)
    shares = edge_shares(searched, priced_with_additions(searched), [True] * len(searched.edges))
    by_edge = {
        (searched.edges[i].src, searched.edges[i].dst): float(pricing.weight[place])
        for place, i in enumerate(learner.candidates.index.tolist())
    }
    dearest = max(shares)
    assert max(by_edge.values()) == 1.0
    for edge, share in zip(searched.edges, shares, strict=True):
        if edge.learnable:
            assert by_edge[edge.src, edge.dst] == pytest.approx(share / dearest, rel=1e-6)
    # The six edges into the last node answer for whole branches; those between layers share them.
    assert by_edge["c1", "join"] == 1.0 > 5 * by_edge["b1", "c1"] > 5 * by_edge["a1", "b1"] - 1e-6 > 0.0
    assert float(learner.penalty().detach()) == pytest.approx(0.5 * sum(by_edge.values()), rel=1e-6)


def priced_with_additions(searched: Graph) -> Prices:
    prices = mac_prices(searched)
    height, width = searched.image
    added = []
    for edge in searched.edges:
        x = searched.nodes[edge.dst].input
        assert x is not None
        assert isinstance(x.stride, int)
        added.append(float(x.channels * -(-height // x.stride) * -(-width // x.stride)))
    return Prices("macs", prices.nodes, tuple(a + b for a, b in zip(prices.edges, added, strict=True)))


def test_dear_gates_weigh_more_in_the_mean_that_is_pulled_down() -> None:
    searched = vectors(3)
    learner, pricing = priced("sparsemask", searched, cost="macs", noise=0.0)
    plain = make_learner("sparsemask", searched, {"noise": 0.0})
    assert torch.equal(learner.stage_losses(), plain.stage_losses())  # equal prices
    with torch.no_grad():
        pricing.weight.copy_(torch.tensor([1.0, 0.25, 0.25]))
        learner.gate.copy_(torch.tensor([0.4, 1.2, 1.6]))
    u = torch.tensor([0.2, 0.6, 0.8])
    mean = (0.2 + 0.25 * 0.6 + 0.25 * 0.8) / 1.5
    share = 0.5
    entropy = (-u * u.log() - (1 - u) * (1 - u).log()).mean()
    cross = -share * torch.tensor(mean).log() - (1 - share) * torch.tensor(1 - mean).log()
    assert learner.stage_losses().item() == pytest.approx(float(entropy + cross), rel=1e-5)
    with torch.no_grad():
        learner.gate.fill_(1.4)  # more open than they should be
    learner.stage_losses().sum().backward()
    assert learner.gate.grad is not None
    dear, *cheap = learner.gate.grad.tolist()
    assert dear > max(cheap), "the dear gate is pushed shut harder"


def test_the_allowance_falls_and_what_has_no_place_goes_to_zero() -> None:
    """Without any gradient, edges are driven to 0 one after another, until the rest fits."""
    searched = graph("digits")
    learner, pricing = priced("continuous", searched, budget={"macs": 0.6}, penalty_strength=0.0)
    numbers = torch.Generator().manual_seed(1)
    with torch.no_grad():
        learner.alpha.copy_(0.5 + torch.rand(len(learner.alpha), generator=numbers))
    start = learner.alpha.detach().clone()
    steps = 400
    begin(learner, steps)
    pushed = []
    for _ in range(steps):
        learner.after_step()
        pushed.append(int((pricing.shrinkage > 0).sum()))
    assert pushed[0] == 0 < pushed[steps // 2] < pushed[-1]
    assert int(pricing.steps) == steps
    topology = learner.topology()
    kept = torch.tensor([topology.keep[i] for i in learner.candidates.index.tolist()])
    end = learner.alpha.detach()
    assert bool((end[~kept] == 0).all())
    assert bool((end[kept] > 0).all())
    assert float(start[kept].mean()) > float(start[~kept].mean())
    # In time: a tenth of the search after the allowance has come down.
    assert len(set(pushed[round((ARRIVAL + DECAY) * steps) :])) == 1
    spent = learner.spent()
    assert spent is not None
    assert spent.full == searched.cost.macs
    assert spent.allowed == 0.6 * searched.cost.macs
    assert spent.reached == KeepEdges(topology)(searched).cost.macs
    assert 0.95 * spent.allowed <= spent.reached <= spent.allowed


def set_edges(learner: EdgeLearner, values: Tensor, given: Mapping[tuple[str, str], float]) -> None:
    """Fill in (L,) values by edge."""
    edges = [learner.graph.edges[i] for i in learner.candidates.index.tolist()]
    with torch.no_grad():
        for place, edge in enumerate(edges):
            values[place] = given.get((edge.src, edge.dst), float(values[place]))


def by_edge(learner: EdgeLearner, values: Tensor) -> dict[tuple[str, str], float]:
    edges = [learner.graph.edges[i] for i in learner.candidates.index.tolist()]
    return {(edge.src, edge.dst): value for edge, value in zip(edges, values.tolist(), strict=True)}


def test_an_edge_has_its_value_back_with_its_place() -> None:
    """There is room for n1 or n2. n1 is pushed out; when n2 has become weaker, its edges are as they were."""
    searched = complete(3, "conv_bn_relu")
    learner, pricing = priced("continuous", searched, budget={"macs": 0.8}, penalty_strength=0.0)
    assert isinstance(learner, Continuous)
    begin(learner, 100)
    set_edges(learner, learner.alpha, {("n1", "n2"): -0.25, ("n1", "n3"): 0.25, ("n2", "n3"): 0.5})
    for _ in range(95):
        learner.after_step()
    pushed = {("n1", "n2"): 0.0, ("n1", "n3"): 0.0}
    rest = {("image", "n1"): 1.0, ("image", "n2"): 1.0, ("image", "n3"): 1.0}
    assert by_edge(learner, learner.alpha) == rest | pushed | {("n2", "n3"): 0.5}
    set_edges(learner, learner.alpha, {("n1", "n3"): 0.375, ("n2", "n3"): 0.125})
    learner.end_draw()  # steers, without a step of the pressure
    assert by_edge(learner, learner.alpha) == rest | {("n1", "n2"): -0.25, ("n1", "n3"): 0.25, ("n2", "n3"): 0.125}
    assert {pair for pair, pressure in by_edge(learner, pricing.shrinkage).items() if pressure} == {("n2", "n3")}
    assert by_edge(learner, pricing.held)["n2", "n3"] == 0.125


@BOTH
def test_the_cut_restores_what_it_has_room_for(name: str) -> None:
    """All branches before the join were pushed to 0: the strongest of before come back, as strong as they were."""
    searched = graph("digits")
    learner, pricing = priced(name, searched, budget={"macs": 0.5})
    begin(learner, 100)
    before = {(f"c{number}", "join"): 0.25 * number for number in range(1, 7)}
    values = next(learner.parameters())
    set_edges(learner, values, dict.fromkeys(before, 0.0))
    set_edges(learner, pricing.held, before)
    set_edges(learner, pricing.shrinkage, dict.fromkeys(before, 0.01))
    topology = learner.topology()
    spent = pricing.spent(topology)
    assert spent is not None
    assert 0.95 * spent.allowed <= spent.reached <= spent.allowed
    into = searched.in_edges("join")
    kept = {searched.edges[i].src: topology.weights[i] for i in into if topology.keep[i]}
    count = len(kept)
    assert 0 < count < 6
    strongest = [f"c{number}" for number in range(6, 6 - count, -1)]
    # A mean over fewer.
    assert kept == {src: pytest.approx(before[src, "join"] * count / 6) for src in strongest}
    again, other = priced(name, searched, budget={"macs": 0.5})
    again.load_state_dict(learner.state_dict())
    assert again.topology() == topology
    assert torch.equal(other.held, pricing.held)


def test_pressure_grows_on_an_edge_that_holds_out_and_ends_when_it_fits() -> None:
    searched = complete(3, "conv_bn_relu")
    learner, pricing = priced("continuous", searched, budget={"macs": 0.8}, penalty_strength=0.0)
    steps = 1000
    begin(learner, steps)
    learnable = [(searched.edges[i].src, searched.edges[i].dst) for i in learner.candidates.index.tolist()]
    values = dict.fromkeys(learnable, 1.0) | {("n1", "n2"): 0.2, ("n1", "n3"): 0.3}
    pressures = []
    for number in range(steps):
        with torch.no_grad():  # something pulls it back in every step
            learner.alpha.copy_(torch.tensor([values[pair] for pair in learnable]))
        learner.after_step()
        pressures.append(float(pricing.shrinkage[learnable.index(("n1", "n3"))]))
        if number == 600:
            usual = 1.0 / (DECAY * steps)
            assert pressures[0] == 0.0
            assert min(pressure for pressure in pressures if pressure) == pytest.approx(usual)
            assert pressures[-1] == pytest.approx(MOST * usual)
            values |= {("n1", "n2"): 1.0, ("n1", "n3"): 1.0, ("n2", "n3"): 0.3}  # now n2 is the weak one
    assert pressures[-1] == 0.0
    assert float(pricing.shrinkage[learnable.index(("n2", "n3"))]) > 0.0


def test_edges_that_start_at_zero_keep_their_place() -> None:
    """Blocks in a row, as in a lifted network: long edges cost nothing, and only the dropped block's die with it."""
    nodes = [Node("image", "input", {"size": (4, 6, 6)})]
    edges: list[Edge] = []
    names = ["image"]
    for number in range(1, 5):
        nodes += [Node(f"f{number}", "conv_bn", {"out_channels": 4}), Node(f"a{number}", "relu")]
        edges += [Edge(names[-1], f"f{number}"), Edge(names[-1], f"a{number}")]
        edges.append(Edge(f"f{number}", f"a{number}", learnable=True))
        edges += [Edge(name, f"a{number}", learnable=True, weight=0.0) for name in names[:-1]]
        names.append(f"a{number}")
    nodes.append(Node("head", "classifier", {"classes": 3}))
    searched = Graph("blocks", nodes, (*edges, Edge("a4", "head")), ("head",)).declare_inputs().verify()
    learner, pricing = priced("continuous", searched, budget={"macs": 0.8}, penalty_strength=0.0)
    places = [(searched.edges[i].src, searched.edges[i].dst) for i in learner.candidates.index.tolist()]
    with torch.no_grad():
        learner.alpha[places.index(("f3", "a3"))] = 0.6
    begin(learner, 100)
    longer = [place for place, (src, _) in enumerate(places) if not src.startswith("f")]
    assert bool((pricing.weight[longer] < 0.1).all())
    for _ in range(100):
        learner.after_step()
        with torch.no_grad():
            learner.alpha[longer] += 0.002
    shrunk = [pair for pair, amount in zip(places, pricing.shrinkage.tolist(), strict=True) if amount > 0]
    assert shrunk == [("f3", "a3")]
    kept = [
        pair for pair, i in zip(places, learner.candidates.index.tolist(), strict=True) if learner.topology().keep[i]
    ]
    assert set(places) - set(kept) == {("f3", "a3")}


@BOTH
@pytest.mark.parametrize("share", [0.35, 0.6])
def test_a_search_ends_at_its_budget(name: str, share: float) -> None:
    searched = graph("digits")
    torch.manual_seed(0)
    learner, _ = priced(name, searched, budget={"macs": share})
    net = network(searched, learner)
    begin(learner, 60)
    chosen = optimizers(net, lr=0.02)
    for number in range(60):
        step(net, chosen, number % 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is cut off
        small = topolearn.prune(net)
    allowed = share * searched.cost.macs
    assert 0.95 * allowed <= small.graph.cost.macs <= allowed
    spent = learner.spent()
    assert spent is not None
    assert spent.reached == small.graph.cost.macs
    masked = topolearn.compile(searched)
    masked.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("learner.")})
    masked.set_edge_weights(net.topology().edge_weights())
    x = batch(searched, 3)
    torch.testing.assert_close(small.eval()(**x), masked.eval()(**x))


def test_milliseconds_are_measured_once_and_kept() -> None:
    searched = complete(3, "conv_bn_relu")
    learner, pricing = priced("continuous", searched, budget={"milliseconds": 0.9})
    assert not bool(pricing.measured.any())
    begin(learner, 10)
    measured = pricing.measured.clone()
    nodes = dict(zip(searched.nodes, measured.tolist(), strict=False))
    assert nodes["image"] == 0.0
    assert nodes["n1"] == nodes["n2"] == nodes["n3"] > 0.0, "equal nodes are measured once"
    assert bool((measured[len(nodes) :] > 0).all())
    again, other = priced("continuous", searched, budget={"milliseconds": 0.9})
    again.load_state_dict(learner.state_dict())
    assert other.prices == pricing.prices
    spent = learner.spent()
    assert spent is not None
    assert spent.kind == "milliseconds"
    assert spent.full == pytest.approx(float(measured.sum()))
    assert spent.reached <= spent.allowed == pytest.approx(0.9 * spent.full)


@pytest.mark.parametrize("name", ["mixed", "branches", "decoder", "vectors"])
def test_every_kind_of_node_and_edge_can_be_measured(name: str) -> None:
    searched = graph(name)
    prices = measure(searched)
    assert list(prices.nodes) == list(searched.nodes)
    assert len(prices.edges) == len(searched.edges)
    assert all(price > 0.0 for node, price in prices.nodes.items() if searched.nodes[node].op != "input")
    assert all(price > 0.0 for price in prices.edges)
    assert Alive.of(searched, [True] * len(searched.edges)).price(prices) > 0.0


@BOTH
def test_fit_states_what_was_allowed_and_reached(name: str) -> None:
    result = run(learner={"name": name, "budget": {"macs": 0.7}})
    assert result.spent is not None
    assert result.spent.full == result.searched.cost.macs
    assert result.spent.reached == result.graph.cost.macs <= result.spent.allowed
    assert result.history[-1]["spent"]["allowed"] == result.spent.allowed
    searched = [record for record in result.history if record["phase"] == "search"]
    assert all(0.0 < record["macs_share"] <= 0.7 for record in searched)


@BOTH
def test_a_budget_of_time_is_checked_before_anything_is_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def stopwatch(searched: Graph, device: torch.device) -> Prices:
        measured.append(searched.name)
        return Prices("milliseconds", dict.fromkeys(searched.nodes, 1.0), (0.0,) * len(searched.edges))

    monkeypatch.setattr("topolearn.compiler.timing.measure", stopwatch)
    out = tmp_path / "run"
    with pytest.raises(OptionError) as caught:
        run(out, {"name": name, "budget": {"milliseconds": 0.4}})
    assert not out.exists()
    # Image, stem, an a, a b, and the head, of eight nodes; and a tenth more, because a clock never says the same twice.
    assert str(caught.value) == (
        "budget {milliseconds: 0.4} is less than the cheapest path through graph 'tiny' costs; give at least 0.688"
    )
    measured.clear()
    result = run(out, {"name": name, "budget": {"milliseconds": 0.688}})
    assert measured == ["tiny"], "once, for the check and the search"
    assert result.spent is not None
    assert (result.spent.full, result.spent.reached) == (8.0, 5.0)
