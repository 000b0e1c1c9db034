"""Pruned networks compute what the masked network computes."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import topolearn
from tests.compiler import toys
from tests.compiler.test_equivalence import HAND_MADE, by_name
from tests.compiler.test_network import LAYOUT
from tests.strategies import graphs, relu_graphs, topologies
from topolearn.compiler import Network
from topolearn.compiler.network import copy_weights
from topolearn.format import loads
from topolearn.graph import Edge, Graph, Node, RemoveIdleRelus, Topology
from topolearn.learners import make_learner
from topolearn.ops import Shape


def closed(topology: Topology, graph: Graph) -> Topology:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no path from an input to")
        return topology.close(graph)


def any_topology(graph: Graph) -> st.SearchStrategy[Topology]:
    """A closed topology in which fixed edges may go too, and kept edges may have weight 0."""
    weights = st.sampled_from([0.0, 1.0, 0.25, -1.5, 3.0])
    count = len(graph.edges)
    return st.builds(
        lambda keep, values: closed(Topology(keep, values), graph),
        st.tuples(*[st.booleans()] * count),
        st.tuples(*[weights] * count),
    )


def masked(net: Network, topology: Topology) -> dict[str, torch.Tensor]:
    """Outputs of ``net`` with the edges that the topology drops at 0."""
    net.set_edge_weights(topology.edge_weights())
    return toys.as_dict(net, net(**toys.examples(net.graph)))


def check(net: Network, topology: Topology) -> Network:
    """Pruned equals masked, and is a network in every respect."""
    net.eval()
    small = topolearn.prune(net, topology)
    wanted = masked(net, topology)
    graph = small.graph.verify()
    assert not graph.candidates
    assert set(graph.inputs) <= set(net.graph.inputs)
    assert loads(graph.to_yaml()) == graph
    assert sum(p.numel() for p in small.parameters()) == graph.cost.params <= net.graph.cost.params
    assert graph.cost.macs <= net.graph.cost.macs
    inputs = {name: x for name, x in toys.examples(net.graph).items() if name in graph.inputs}
    found = toys.as_dict(small, small(**inputs))
    assert list(found) == list(wanted)
    for name, output in wanted.items():
        toys.same(found[name], output, 1e-5, name)
    state = net.state_dict()
    for name, value in small.state_dict().items():
        assert LAYOUT.match(name), name
        if name in state:  # an edge that now ends in a node of its own has another name
            assert torch.equal(value, state[name]), name
    return small


@given(data=st.data())
@settings(max_examples=60)
def test_random_graphs_and_choices_of_learnable_edges(data: st.DataObject) -> None:
    graph = data.draw(graphs(max_inputs=2, min_learnable=1))
    topology = closed(data.draw(topologies(graph)), graph)
    check(toys.build(graph, seed=data.draw(st.integers(0, 100))), topology)


@given(data=st.data())
@settings(max_examples=60)
def test_random_graphs_and_choices_of_any_edges(data: st.DataObject) -> None:
    graph = data.draw(graphs(max_inputs=2))
    check(toys.build(graph, seed=data.draw(st.integers(0, 100))), data.draw(any_topology(graph)))


@by_name
@given(data=st.data())
@settings(max_examples=15)
def test_hand_made_graphs(name: str, data: st.DataObject) -> None:
    graph = HAND_MADE[name]
    check(toys.build(graph), data.draw(any_topology(graph)))


@given(graph=relu_graphs(), training=st.booleans())
@settings(max_examples=150)
def test_relus_that_change_nothing_can_go(graph: Graph, training: bool) -> None:
    net = toys.build(graph, dtype=torch.float64)
    small = Network(RemoveIdleRelus()(graph).verify())
    copy_weights(net, small)
    inputs = toys.examples(graph, 3, torch.float64)
    wanted, found = (toys.as_dict(each, each.train(training)(**inputs)) for each in (net, small))
    assert list(found) == list(wanted)
    for name, output in wanted.items():
        toys.same(found[name], output, 1e-12, name)


@given(data=st.data())
@settings(max_examples=60)
def test_random_relus_and_choices_of_any_edges(data: st.DataObject) -> None:
    graph = data.draw(relu_graphs())
    check(toys.build(graph), data.draw(any_topology(graph)))


@pytest.mark.parametrize("reference", [True, False])
def test_pruning_twice_is_pruning_once(reference: bool) -> None:
    graph = toys.two_heads()
    net = toys.build(graph, reference=reference)
    net.set_edge_weights([0.5 if edge.src == "a" else 1.0 for edge in graph.edges])
    once = topolearn.prune(net)
    twice = topolearn.prune(once)
    assert twice.graph == once.graph
    assert type(twice.dag) is type(net.dag)
    assert all(torch.equal(value, twice.state_dict()[name]) for name, value in once.state_dict().items())


def test_the_original_is_left_alone() -> None:
    net = toys.build(toys.diamond())
    net.set_edge_weights([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = topolearn.prune(net)
    with torch.no_grad():
        for p in small.parameters():
            p.zero_()
    small(torch.randn(2, 3, 8, 8))
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in before.items())
    assert net.graph == toys.diamond()


@pytest.mark.parametrize("aggregate", ["sum", "mean", "normalised"])
@pytest.mark.parametrize("name", ["maskconnect", "continuous", "sparsemask"])
def test_a_learners_choice_is_carried_out(name: str, aggregate: str) -> None:
    graph = toys.diamond(aggregate)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = topolearn.compile(graph, make_learner(name, graph))
    toys.randomise(net)
    net.eval()
    topology = net.topology()
    small = topolearn.prune(net)
    image = toys.examples(graph)["image"]
    net.set_edge_weights(topology.edge_weights())
    torch.testing.assert_close(small(image), net(image), rtol=1e-5, atol=1e-5)
    assert small.learner is None


def cat() -> Graph:
    """A concat over sources that come as they are, over a projection, a resize, and with a weight."""
    return toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            Node("a", "conv_bn_relu", {"out_channels": 2}),
            Node("b", "conv_bn_relu", {"out_channels": 3}),
            Node("c", "conv_bn_relu", {"out_channels": 2, "stride": 2}),
            Node("gate", "conv_bn_relu", {"out_channels": 2}),
            Node("cat", "conv_bn_relu", {"out_channels": 4}, "concat", Shape(9, 1)),
            Node("head", "classifier", {"classes": 3}),
        ],
        [
            *(Edge("image", name) for name in ("a", "c", "gate")),
            Edge("image", "b", learnable=True),
            Edge("gate", "b", "align", learnable=True),
            Edge("a", "cat", weight=-0.5),
            Edge("b", "cat", "project"),
            Edge("c", "cat", "resize"),
            Edge("gate", "cat"),
            Edge("cat", "head"),
        ],
    )


@pytest.mark.parametrize("lost", ["a", "b", "c", "gate", "a b", "b c", "a b c", "b c gate"])
def test_a_concat_that_loses_sources(lost: str) -> None:
    graph = cat()
    gone = set(lost.split())
    keep = [not (edge.dst == "cat" and edge.src in gone) for edge in graph.edges]
    small = check(toys.build(graph), closed(Topology(tuple(keep), tuple(e.weight for e in graph.edges)), graph))
    node = small.graph.nodes["cat"]
    assert (node.aggregate, node.input) == ("sum", Shape(9, 1))
    assert not gone & {edge.src for edge in small.graph.edges if edge.dst == "cat"}
    # A projection keeps its weights, under the name of its new edge.
    assert ("edges.b__b_to_cat.unit.conv.weight" in small.state_dict()) == ("b" not in gone)


def test_a_source_of_a_concat_dies_with_its_learnable_edges() -> None:
    graph = cat()
    keep = [not edge.learnable for edge in graph.edges]
    small = check(toys.build(graph), closed(Topology(tuple(keep), tuple(e.weight for e in graph.edges)), graph))
    assert "b" not in small.graph.nodes
    assert small.graph.nodes["cat"].aggregate == "sum"


def test_a_mean_that_keeps_k_of_n_is_rescaled() -> None:
    graph = toys.diamond("mean")
    net = toys.build(graph).eval()
    weights = [edge.weight for edge in graph.edges]
    keep = [(edge.src, edge.dst) not in {("b", "join"), ("a", "c")} for edge in graph.edges]
    searched = torch.tensor([w if kept else 0.0 for w, kept in zip(weights, keep, strict=True)])
    # During a search all in-edges counted.
    image = toys.examples(graph)["image"]
    wanted = net.dag(image, net._divide(searched, None))
    small = topolearn.prune(net, Topology.of(graph, keep, weights))
    torch.testing.assert_close(small(image), wanted, rtol=1e-5, atol=1e-5)
    into = {edge.src: edge.weight for edge in small.graph.edges if edge.dst == "join"}
    assert into == {"a": pytest.approx(2 / 3), "c": pytest.approx(2 / 3)}


def test_what_only_fed_a_dead_node_goes_too() -> None:
    graph = toys.diamond()
    net = toys.build(graph)
    alive = {("image", "a"), ("a", "b"), ("b", "c"), ("a", "join"), ("join", "head")}
    net.set_edge_weights([float((edge.src, edge.dst) in alive) for edge in graph.edges])
    small = topolearn.prune(net)
    assert list(small.graph.nodes) == ["image", "a", "join", "head"]
    assert not any("nodes.b." in name or "nodes.c." in name for name in small.state_dict())


def test_device_precision_mode_and_notes_come_along() -> None:
    net = toys.build(toys.diamond()).double().eval()
    net.about = {"classes": ["x", "y", "z"]}
    small = topolearn.prune(net)
    assert {p.dtype for p in small.parameters()} == {torch.float64}
    assert not small.training
    assert small.about == net.about
    assert topolearn.prune(net.train()).training


def test_a_cut_output_keeps_its_strongest_path_with_a_warning() -> None:
    graph = toys.diamond()
    net = toys.build(graph).eval()
    net.set_edge_weights([0.0 if edge.learnable else 1.0 for edge in graph.edges])
    with pytest.warns(UserWarning, match="no path from an input to 'head' is left; keeping the strongest: image -> a"):
        small = topolearn.prune(net)
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 3)
