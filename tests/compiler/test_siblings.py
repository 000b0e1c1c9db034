"""Nodes that do the same work side by side run as one, and nobody can tell."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import topolearn
from tests.compiler import toys
from tests.strategies import layered_graphs
from topolearn.compiler import Network
from topolearn.compiler.plan import SiblingStep
from topolearn.graph import Edge, Graph, Node, Topology
from topolearn.ops import Shape


def sets(net: Network) -> set[tuple[str, ...]]:
    """The sets of nodes that run as one."""
    steps = [step for level in net.dag.plan.levels for step in level]
    return {step.nodes for step in steps if isinstance(step, SiblingStep) and len(step.nodes) > 1}


def agree(graph: Graph, training: bool = True, seed: int = 0) -> Network:
    """Compiled and reference agree: weights as a tensor, then frozen; returns the compiled network."""
    compiled, reference = toys.pair(graph, seed=seed)
    inputs = toys.examples(graph, 3, torch.float64, seed)
    weights = toys.edge_weights(graph, seed=seed)
    for net in (compiled, reference):
        net.train(training)
    toys.assert_equal(toys.step(compiled, inputs, weights), toys.step(reference, inputs, weights))
    for net in (compiled, reference):
        net.set_edge_weights(weights * -0.7)  # fixed edges too
    toys.assert_equal(toys.step(compiled, inputs), toys.step(reference, inputs))
    return compiled


OPS = {
    "branch": ("resnext.branch", {"width": 2, "out_channels": 4, "residual_scale": 3.0}, {}),
    "projecting": ("resnext.branch", {"width": 2, "out_channels": 6, "stride": 2}, {}),
    "sharing": ("resnext.branch", {"width": 2, "out_channels": 6, "stride": 2}, {"share": {"projection": "p"}}),
    "basic": ("resnet.basic", {"channels": 6, "stride": 2}, {}),
    "grouped": ("resnet.bottleneck", {"channels": 8, "stride": 2, "groups": 2, "width": 4}, {}),
    "preact": ("resnet.preact", {"channels": 6, "stride": 2}, {}),
    "preact projecting": ("resnet.preact", {"channels": 6, "shortcut": "projection"}, {}),
    "basic branch": ("resnet.basic_branch", {"channels": 4}, {}),
    "dilated": ("resnet.bottleneck_branch", {"channels": 4, "width": 3, "dilation": 2}, {"aggregate": "sum"}),
    "squeeze": ("resnet.bottleneck_branch", {"channels": 6, "width": 4, "groups": 2, "squeeze": 2, "stride": 2}, {}),
    "depthwise": ("mobilenetv2.inverted_bottleneck", {"out_channels": 4, "expansion": 2}, {}),
    "sepconv": ("relu_sepconv_bn", {"out_channels": 4}, {"aggregate": "sum"}),
    "bias": ("conv_relu", {"out_channels": 4, "kernel": 1}, {}),
    "norm first": ("bn_relu_conv", {"out_channels": 4}, {}),
    "normalised": ("conv_bn_relu", {"out_channels": 4}, {"aggregate": "normalised"}),
    "pool": ("max_pool", {"kernel": 3, "stride": 1}, {}),
    "identity": ("identity", {}, {"aggregate": "normalised"}),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", OPS)
def test_siblings_compute_what_they_compute_alone(name: str, training: bool) -> None:
    op, params, node = OPS[name]
    net = agree(toys.layers(op, params, **node), training)
    assert sets(net) == {("a1", "a2", "a3"), ("b1", "b2", "b3")}


@given(graph=layered_graphs(), seed=st.integers(0, 1000), training=st.booleans())
@settings(max_examples=60)
def test_random_layers_agree_with_the_reference(graph: Graph, seed: int, training: bool) -> None:
    agree(graph, training, seed)


@pytest.mark.filterwarnings("ignore:no path from an input")
@given(graph=layered_graphs(), seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_what_is_pruned_computes_what_was_masked(graph: Graph, seed: int) -> None:
    net = toys.build(graph, dtype=torch.float64, seed=seed).eval()
    weights = toys.edge_weights(graph, seed=seed).tolist()
    topology = Topology(tuple(w != 0 for w in weights), tuple(weights)).close(graph)
    pruned = topolearn.prune(net, topology)
    net.set_edge_weights(topology.edge_weights())
    inputs = toys.examples(graph, 2, torch.float64, seed)
    torch.testing.assert_close(net(**inputs), pruned(**inputs), rtol=0, atol=1e-10)


def uneven() -> Graph:
    """What is left of two layers of four after pruning: three and two, each with sources of its own."""
    op, params = "resnext.branch", {"width": 2, "out_channels": 4}
    graph = toys.layers(op, params, width=4)
    kept = {("a1", "b2"), ("a2", "b2"), ("a2", "b4"), ("a4", "b4")}
    keep = [not edge.learnable or (edge.src, edge.dst) in kept for edge in graph.edges]
    return topolearn.prune(topolearn.compile(graph), Topology(tuple(keep), (1.0,) * len(keep)).close(graph)).graph


def test_uneven_groups_of_a_pruned_graph_run_as_one_too() -> None:
    assert sets(agree(uneven())) == {("a1", "a2", "a4"), ("b2", "b4")}


def test_what_was_made_in_inference_mode_trains() -> None:
    graph = uneven()
    into = set(graph.in_edges("b4"))
    edges = [dataclasses.replace(edge, learnable=i in into) for i, edge in enumerate(graph.edges)]
    graph = graph.replace(edges=tuple(edges)).verify()
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, 3, torch.float64), toys.edge_weights(graph)
    for own in (weights, None):  # as a tensor, and frozen
        with torch.inference_mode():
            compiled.eval().dag(inputs["image"], compiled.effective_weights() if own is None else own)
        toys.assert_equal(toys.step(compiled.train(), inputs, own), toys.step(reference, inputs, own))


def test_a_step_after_step_training_is_the_same() -> None:
    """Batch statistics, updated by one call for all, drift nowhere."""
    op, params, node = OPS["sharing"]
    nets = toys.pair(toys.layers(op, params, **node))
    for net in nets:
        net.train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        for seed in range(4):
            loss = toys.loss_of({"head": net(toys.examples(net.graph, 3, torch.float64, seed)["image"])})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, wanted in nets[1].state_dict().items():
        toys.same(nets[0].state_dict()[name], wanted, 1e-9, name)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_statistics_follow_the_members_own_settings(momentum: float | None) -> None:
    """As `recalibrate` sets them: a cumulative mean, on members in training mode within a network in eval mode."""
    nets = toys.pair(toys.layers(*OPS["sharing"][:2], **OPS["sharing"][2]))
    for net in nets:
        net.eval()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = momentum
                module.train()
        for seed in range(3):
            net(toys.examples(net.graph, 3, torch.float64, seed)["image"])
    for name, wanted in nets[1].state_dict().items():
        toys.same(nets[0].state_dict()[name], wanted, 1e-10, name)


def test_a_batch_of_one_pixel_trains() -> None:
    graph = toys.layers("conv_bn_relu", {"out_channels": 4, "stride": 2})
    compiled, reference = toys.pair(graph)
    image = {"image": torch.randn(1, 3, 1, 1, dtype=torch.float64)}
    toys.assert_equal(toys.step(compiled.train(), image), toys.step(reference.train(), image))
    compiled, reference = toys.pair(toys.layers(*OPS["sharing"][:2], **OPS["sharing"][2]))
    toys.assert_equal(toys.step(compiled.train(), image), toys.step(reference.train(), image))


def test_copies_and_moves_keep_the_members() -> None:
    net = toys.build(toys.layers(*OPS["branch"][:2]))
    copied = copy.deepcopy(net).double().eval()
    image = toys.examples(net.graph, 2, torch.float64)["image"]
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert not copied(image).any()
    assert net.double().eval()(image).any()


def test_channels_last_gives_the_same() -> None:
    graph = toys.layers(*OPS["sharing"][:2], **OPS["sharing"][2])
    compiled, reference = toys.pair(graph)
    compiled.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = toys.examples(graph, 3, torch.float64)
    there = {"image": inputs["image"].to(memory_format=torch.channels_last)}
    weights = toys.edge_weights(graph)
    toys.assert_equal(toys.step(compiled, there, weights), toys.step(reference, inputs, weights))


def test_nodes_that_someone_needs_alone_stand_alone() -> None:
    def net(extra: list[Edge], outputs: tuple[str, ...] = ("head",), concat: bool = False) -> Network:
        nodes = [
            Node("image", "input", {"size": (3, 8, 8)}),
            *(Node(name, "conv_bn", {"out_channels": 4}) for name in "abc"),
            Node("late", "conv_bn", {"out_channels": 4}, "concat" if concat else "sum"),
            Node("head", "classifier", {"classes": 3}, "sum", Shape(4, 1)),
        ]
        given = {(edge.src, edge.dst) for edge in extra}
        edges = (
            [Edge("image", name) for name in "abc"] + [Edge(name, "late") for name in "abc"] + [Edge("late", "head")]
        )
        return toys.build(toys.graph(nodes, [e for e in edges if (e.src, e.dst) not in given] + extra, *outputs))

    assert sets(net([])) == {("a", "b", "c")}
    assert sets(net([], ("head", "a"))) == {("b", "c")}
    assert sets(net([Edge("b", "late", "project")])) == {("a", "c")}
    assert sets(net([Edge("image", "c", "project")])) == {("a", "b")}
    assert sets(net([], concat=True)) == set()


def test_far_apart_sources_are_not_mixed_as_a_whole() -> None:
    """Four chains side by side, each source read once, from nodes that have no siblings: too sparse for a matrix."""
    strides = [1, 1, 1, 1]
    nodes = [Node("image", "input", {"size": (3, 8, 8)})]
    edges = []
    for number, _ in enumerate(strides):
        nodes.append(Node(f"a{number}", "conv_bn", {"out_channels": 4, "kernel": 2 * number + 1}))
        nodes.append(Node(f"b{number}", "conv_bn", {"out_channels": 4}))
        edges += [Edge("image", f"a{number}"), Edge(f"a{number}", f"b{number}")]
    nodes.append(Node("head", "classifier", {"classes": 3}))
    edges += [Edge(f"b{number}", "head") for number, _ in enumerate(strides)]
    assert sets(toys.build(toys.graph(nodes, edges))) == set()


def test_ops_that_are_not_known_to_stack_run_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topolearn.compiler.stacking.STACKABLE", set())
    assert sets(agree(toys.layers(*OPS["branch"][:2]))) == set()
