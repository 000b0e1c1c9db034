"""Network: what goes in and out, frozen weights, the state's layout, copies."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings

import topolearn
from tests.compiler import toys
from tests.compiler.test_equivalence import HAND_MADE, by_name
from tests.strategies import graphs
from topolearn.compiler import DAG, ReferenceDAG
from topolearn.compiler.network import MeanDivisor
from topolearn.errors import GraphError, OptionError, TopolearnError
from topolearn.graph import Edge, Graph, Node
from topolearn.learners import make_learner
from topolearn.ops import Shape

LAYOUT = re.compile(r"(nodes\.[A-Za-z_]\w*|edges\.[A-Za-z_]\w*__\w+|shared\.[A-Za-z_]\w*)\.\S+\Z")


def learned(graph: Graph, reference: bool = False) -> topolearn.Network:
    """A network with a learner."""
    return topolearn.compile(graph, make_learner("continuous", graph), reference=reference)


def test_one_input_goes_in_by_position_or_keyword_and_one_output_is_a_tensor() -> None:
    net = toys.build(toys.diamond()).eval()
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(net(image), net(image=image))
    assert net(image).shape == (2, 3)


def test_several_inputs_go_in_by_keyword_and_several_outputs_are_a_dict() -> None:
    graph = toys.two_heads()
    net = toys.build(graph).eval()
    given = toys.examples(graph)
    outputs = net(**given)
    assert list(outputs) == ["classes", "map"]
    assert torch.equal(outputs["map"], net(*given.values())["map"])
    assert torch.equal(outputs["map"], net(given["image"], depth=given["depth"])["map"])


@pytest.mark.parametrize(
    ("positional", "named"),
    [((), ()), (("image",), ()), ((), ("image", "deph")), (("image", "depth", "image"), ()), (("image",), ("image",))],
)
def test_wrong_inputs_are_a_clear_error(positional: tuple[str, ...], named: tuple[str, ...]) -> None:
    net = toys.build(toys.two_heads())
    x = torch.randn(2, 3, 9, 7)
    with pytest.raises(TopolearnError, match="the network takes image, depth; give each once"):
        net(*(x for _ in positional), **dict.fromkeys(named, x))


def test_edges_carry_their_weights_without_a_learner() -> None:
    graph = toys.diamond()
    heavier = graph.replace(edges=tuple(toys.Edge(e.src, e.dst, e.op, e.params, False, 0.5) for e in graph.edges))
    net = toys.build(heavier).eval()
    assert net.frozen_edge_weights == (0.5,) * len(graph.edges)
    other = toys.build(graph).eval()
    other.load_state_dict(net.state_dict())
    other.set_edge_weights(torch.full((len(graph.edges),), 0.5))
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(net(image), other(image))


@pytest.mark.parametrize("reference", [True, False])
def test_mean_divides_by_the_edges_that_are_active(reference: bool) -> None:
    graph = toys.graph(
        [
            Node("image", "input", {"size": (2, 4, 4)}),
            *(Node(name, "identity") for name in "abc"),
            Node("mean", "identity", {}, "mean"),
        ],
        [*(Edge("image", name) for name in "abc"), *(Edge(name, "mean", learnable=True) for name in "abc")],
    )
    net = topolearn.compile(graph, reference=reference)
    image = torch.randn(2, 2, 4, 4)
    for weights, factor in [((1, 1, 1), 1.0), ((2, 0, 1), 1.5), ((0, 0, 3), 3.0), ((0, 0, 0), 0.0)]:
        net.set_edge_weights([1.0, 1.0, 1.0, *weights])
        torch.testing.assert_close(net(image), factor * image)


def test_the_divisor_is_a_constant_to_autograd() -> None:
    divide = MeanDivisor(toys.diamond("mean")).double()
    weights = torch.rand(8, dtype=torch.float64, requires_grad=True)
    active = torch.tensor([True, True, True, False, True, True, False, True])
    # Edges: image->a, a->b, a->c, b->c, a->join, b->join, c->join, join->head; b, c and join are means.
    divisor = torch.tensor([1, 1, 1, 1, 2, 2, 2, 1], dtype=torch.float64)
    effective = divide(weights, active)
    torch.testing.assert_close(effective, weights / divisor)
    effective.sum().backward()
    torch.testing.assert_close(weights.grad, 1 / divisor)
    assert divide(weights, None).tolist() == pytest.approx((weights / torch.tensor([1, 1, 2, 2, 3, 3, 3, 1])).tolist())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"shape \(1,\) do not fit a graph of 8 edges"),
        (torch.ones(8, 1), r"shape \(8, 1\) do not fit"),
        ([1.0] * 7 + [float("nan")], "not finite"),
        (torch.tensor([1.0] * 7 + [float("inf")]), "not finite"),
    ],
)
def test_wrong_edge_weights_are_a_clear_error(weights: object, message: str) -> None:
    net = toys.build(toys.diamond())
    before = net.frozen_edge_weights
    with pytest.raises(TopolearnError, match=message):
        net.set_edge_weights(weights)
    assert net.frozen_edge_weights == before


def test_frozen_weights_are_a_copy_without_a_graph() -> None:
    net = toys.build(toys.diamond())
    weights = torch.ones(8, requires_grad=True)
    net.set_edge_weights(weights)
    with torch.no_grad():
        weights.zero_()
    assert net.frozen_edge_weights == (1.0,) * 8
    assert isinstance(net.effective_weights(), tuple)


def test_freezing_takes_the_edges_from_the_learner() -> None:
    graph = toys.diamond()
    net = learned(graph)
    assert isinstance(net.effective_weights(), torch.Tensor)
    assert net.frozen_edge_weights is None
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in net.learner.parameters())
    net.zero_grad(set_to_none=True)
    net.set_edge_weights([0.5] * 8)
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is None for p in net.learner.parameters())


def test_a_learner_of_another_graph_is_a_clear_error() -> None:
    learner = make_learner("continuous", toys.two_heads())
    with pytest.raises(GraphError, match="learner was made for graph 'toy' of 7 edges"):
        topolearn.compile(toys.diamond(), learner)


@given(graph=graphs(max_inputs=2))
@settings(max_examples=30)
def test_the_state_is_in_the_graphs_own_layout(graph: Graph) -> None:
    compiled, reference = toys.build(graph), toys.build(graph, reference=True, seed=1)
    assert isinstance(compiled.dag, DAG)
    assert isinstance(reference.dag, ReferenceDAG)
    state = compiled.state_dict()
    assert list(state) == list(reference.state_dict())
    for name in state:
        assert LAYOUT.match(name), name
        kind, owner = name.split(".")[:2]
        if kind == "nodes":
            assert owner in graph.nodes
        elif kind == "edges":
            assert owner in {f"{edge.src}__{edge.dst}" for edge in graph.edges}
        else:
            assert owner in {group for node in graph.nodes.values() for group in node.share.values()}
    # From one to the other and back.
    reference.load_state_dict(state)
    again = toys.build(graph, seed=2)
    again.load_state_dict(reference.state_dict())
    inputs = toys.examples(graph)
    for net in (compiled, reference, again):
        net.eval()
    wanted = toys.as_dict(compiled, compiled(**inputs))
    for net, tolerance in ((reference, 1e-5), (again, 0.0)):
        for name, output in toys.as_dict(net, net(**inputs)).items():
            toys.same(output, wanted[name], tolerance, name)


def test_a_learners_state_comes_under_its_own_name() -> None:
    graph = toys.diamond()
    names = learned(graph).state_dict()
    assert any(name.startswith("learner.") for name in names)
    assert all(LAYOUT.match(name) or name.startswith("learner.") for name in names)
    assert list(names) == list(learned(graph, reference=True).state_dict())


@by_name
@pytest.mark.parametrize("reference", [True, False])
def test_compiling_a_network_keeps_its_weights(name: str, reference: bool) -> None:
    graph = HAND_MADE[name]
    net = toys.build(graph, reference=not reference, dtype=torch.float64).eval()
    net.set_edge_weights(toys.edge_weights(graph))
    net.about = {"mean": [0.5]}
    again = topolearn.compile(net, reference=reference)
    assert type(again.dag) is not type(net.dag)
    assert again.graph == net.graph
    assert again.about == net.about
    assert again.frozen_edge_weights == net.frozen_edge_weights
    assert not again.training
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())
    inputs = toys.examples(graph, dtype=torch.float64)
    for key, output in toys.as_dict(net, net(**inputs)).items():
        toys.same(toys.as_dict(again, again(**inputs))[key], output, 1e-10, key)
    with torch.no_grad():
        next(again.parameters()).add_(1.0)
    assert not torch.equal(next(again.parameters()), next(net.parameters()))


def test_compiling_a_network_with_a_learner_lets_it_decide() -> None:
    graph = toys.diamond()
    net = toys.build(graph)
    learner = make_learner("maskconnect", graph, {"fan_in": 1})
    again = topolearn.compile(net, learner)
    assert again.learner is learner
    assert again.frozen_edge_weights is None
    assert torch.equal(again.state_dict()["nodes.a.conv.weight"], net.state_dict()["nodes.a.conv.weight"])


def test_a_fan_in_bound_scale_becomes_a_number() -> None:
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            Node("a", "conv_bn", {"out_channels": 4}),
            Node("b", "conv_bn", {"out_channels": 4}),
            Node("c", "resnext.branch", {"width": 2, "out_channels": 4, "residual_scale": "fan_in"}),
        ],
        [
            Edge("image", "a"),
            Edge("image", "b"),
            Edge("a", "c", learnable=True),
            Edge("b", "c", learnable=True),
        ],
    )
    assert topolearn.compile(graph).nodes["c"].scale == 2.0
    assert topolearn.compile(graph, make_learner("maskconnect", graph, {"fan_in": 1})).nodes["c"].scale == 1.0


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("with_learner", [True, False])
def test_a_deep_copy_is_independent(reference: bool, with_learner: bool) -> None:
    graph = toys.diamond("mean")
    net = learned(graph, reference) if with_learner else toys.build(graph, reference=reference)
    if not with_learner:
        net.set_edge_weights(toys.edge_weights(graph))
    net.eval()
    net.nodes["a"].train()  # modes are copied module by module
    copied = copy.deepcopy(net)
    assert type(copied.dag) is type(net.dag)
    assert [module.training for module in copied.modules()] == [module.training for module in net.modules()]
    net.eval()
    copied.eval()
    image = torch.randn(2, 3, 8, 8)
    wanted = net(image).detach()
    assert torch.equal(copied(image), wanted)
    with torch.no_grad():
        for p in copied.parameters():
            p.add_(0.1)
    copied(image).sum().backward()
    assert torch.equal(net(image), wanted)
    assert not torch.equal(copied(image), wanted)
    assert all(p.grad is None for p in net.parameters())


def test_modes_reach_the_modules() -> None:
    net = toys.build(toys.two_heads())
    assert net.eval() is net
    assert not any(module.training for module in [*net.modules(), *net.dag.modules()])
    assert all(module.training for module in [*net.train().modules(), *net.dag.modules()])


def test_a_network_moves_with_its_interpreter() -> None:
    net = toys.build(toys.two_heads()).double()
    inputs = toys.examples(net.graph, dtype=torch.float64)
    assert all(output.dtype == torch.float64 for output in net(**inputs).values())
    assert {p.dtype for p in net.dag.parameters()} == {torch.float64}


def test_ids_with_double_underscores_may_not_name_two_edges() -> None:
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            *(Node(name, "conv_bn", {"out_channels": 4}) for name in ("a", "a__b")),
            *(Node(name, "identity") for name in ("b__c", "c")),
            Node("join", "identity"),
        ],
        [
            Edge("image", "a"),
            Edge("image", "a__b"),
            Edge("a", "b__c", "project"),
            Edge("a__b", "c", "project"),
            Edge("b__c", "join"),
            Edge("c", "join"),
        ],
    )
    with pytest.raises(GraphError, match="two edges are both called 'a__b__c'; rename a node"):
        topolearn.compile(graph)


def test_what_is_neither_a_graph_nor_a_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"compile takes a graph, not the name of one; write compile\(load_graph"):
        topolearn.compile("x")  # type: ignore[arg-type]
    for learner in ("maskconnect", topolearn.learners.MaskConnect, torch.nn.Identity()):
        with pytest.raises(OptionError, match=r"takes a learner made for the graph, not .*; write compile"):
            topolearn.compile(topolearn.load_graph("digits"), learner)
    functions: dict[str, Callable[[Any], object]] = {
        "compile": topolearn.compile,
        "prune": topolearn.prune,
        "features": lambda net: topolearn.features(net, ["a"]),
        "export_onnx": lambda net: topolearn.export_onnx(net, tmp_path / "x.onnx"),
    }
    for name, function in functions.items():
        with pytest.raises(OptionError, match=f"^{name} takes a network over a graph, not a Linear; compile a graph"):
            function(torch.nn.Linear(2, 2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("learner", ["maskconnect", topolearn.learners.MaskConnect, {"name": "fixed"}])
def test_a_learner_is_an_object_made_for_the_graph(learner: Any) -> None:
    with pytest.raises(OptionError, match=r"^compile takes a learner made for the graph, not .*; write compile"):
        topolearn.compile(topolearn.load_graph("digits"), learner)


def test_an_invalid_graph_is_refused() -> None:
    graph = Graph("g", [Node("image", "input", {"size": (3, 8, 8)}), Node("a", "identity", input=Shape(4, 1))],
                  (Edge("image", "a"),), ("a",))  # fmt: skip
    with pytest.raises(GraphError, match="edge image -> a"):
        topolearn.compile(graph)


def test_it_says_what_it_is() -> None:
    assert "Graph('toy', 6 nodes, 8 edges, 6 learnable)" in repr(toys.build(toys.diamond()))


def test_nodes_may_be_called_as_methods_of_a_module_are() -> None:
    names = ["half", "type", "forward", "train", "training", "items", "_modules"]
    net = toys.build(
        toys.graph(
            [
                Node("image", "input", {"size": (3, 8, 8)}),
                *(Node(name, "conv_bn", {"out_channels": 3}) for name in names),
            ],
            [Edge(src, dst, "project" if dst == "type" else "identity") for src, dst in pairwise(["image", *names])],
        )
    )
    assert {name.split(".")[1] for name in net.state_dict() if name.startswith("nodes.")} == set(names)
    assert "edges.half__type.unit.conv.weight" in net.state_dict()
    image = torch.randn(2, 3, 8, 8)
    net.eval()
    again = topolearn.compile(net, reference=True).eval()
    again.load_state_dict(net.state_dict())
    for other in (again, topolearn.prune(net), copy.deepcopy(net)):
        torch.testing.assert_close(other(image), net(image))
    net.train()(image).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
