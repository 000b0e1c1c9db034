"""Every registered op: it builds, keeps its rules, trains, prunes and goes through YAML; every shipped graph too.

ONNX parity of all ops is in tests/onnx/test_parity.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import topolearn
from tests.compiler import samples, toys
from tests.compiler.test_equivalence import SHIPPED
from topolearn.errors import OptionError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.ops import EDGE_OPS, NODE_OPS, Cost, NodeOp, Shape, register_node_op

MANY_NODES = 400

every_sample = pytest.mark.parametrize("name", samples.GRAPHS)


def shape_of(graph: Graph, node: str, batch: int, image: tuple[int, int]) -> tuple[int, ...]:
    shape = graph.shapes[node]
    assert isinstance(shape, Shape)
    if shape.length is not None:
        return (batch, shape.length, shape.channels)
    return (batch, shape.channels) if shape.stride is None else (batch, shape.channels, *shape.size(image))


def test_every_registered_op_has_a_sample() -> None:
    ours = {name for name, op in NODE_OPS.items() if op.__module__.startswith("topolearn.")}
    assert ours == {op for op, *_ in samples.NODES} | samples.ELSEWHERE
    ours = {name for name, op in EDGE_OPS.items() if op.__module__.startswith("topolearn.")}
    assert ours == {op for op, *_ in samples.EDGES}


@every_sample
def test_parameters_and_macs_follow_the_cost_rule(name: str) -> None:
    graph = samples.sample(name)
    net = toys.build(graph, reference=True).eval()  # which calls the modules that are watched
    assert sum(p.numel() for p in net.parameters()) == graph.cost.params
    macs = toys.Macs(2)
    macs.watch(net)
    net(**toys.examples(graph, 2))
    assert macs.total == graph.cost.macs


@every_sample
def test_shapes_follow_the_shape_rule(name: str) -> None:
    graph = samples.sample(name)
    net = toys.build(graph).eval()
    sizes = [(9, 7), (16, 12), (5, 4)]
    if any(node.op == "patch_embedding" for node in graph.nodes.values()):
        sizes = [graph.image]  # other sizes have another number of patches: tests/compiler/test_tokens.py
    for height, width in sizes:
        given = toys.examples(graph, 3)
        if "image" in given:
            given["image"] = torch.randn(3, 3, height, width)
        assert net(**given).shape == shape_of(graph, graph.outputs[0], 3, (height, width))


@every_sample
def test_it_trains_as_the_reference_does(name: str) -> None:
    graph = samples.sample(name)
    compiled, reference = toys.pair(graph)
    inputs = toys.examples(graph, 3, torch.float64)
    weights = torch.tensor([0.5 if edge.learnable else 1.0 for edge in graph.edges], dtype=torch.float64)
    steps = []
    for net in (compiled, reference):
        with torch.random.fork_rng(devices=[]):  # dropout
            torch.manual_seed(7)
            steps.append(toys.step(net, inputs, weights))
    toys.assert_equal(*steps)
    assert all(grad is not None for grad in steps[0].parameters.values())
    if graph.candidates:  # a concat has none
        assert [bool(grad) for grad in steps[0].weights] == [edge.learnable for edge in graph.edges]


@every_sample
def test_it_never_changes_its_input(name: str) -> None:
    graph = samples.sample(name)
    net = toys.build(graph)
    before, inputs = toys.examples(graph), toys.examples(graph)
    seen = []
    for module in (*net.nodes.values(), *net.edges.values()):
        module.register_forward_pre_hook(lambda module, args: seen.append((args[0], args[0].clone())))
    with torch.no_grad():
        net(**inputs)
    assert all(torch.equal(x, inputs[key]) for key, x in before.items())
    assert seen
    assert all(torch.equal(now, then) for now, then in seen)


@every_sample
def test_pruning_keeps_it_as_it_is(name: str) -> None:
    graph = samples.sample(name)
    net = toys.build(graph).eval()
    small = topolearn.prune(net)
    assert not small.training
    assert len(small.graph.edges) == len(graph.edges)
    assert not small.graph.candidates
    inputs = toys.examples(graph)
    torch.testing.assert_close(small(**inputs), net(**inputs), rtol=1e-6, atol=1e-6)


@every_sample
def test_it_goes_through_yaml(name: str) -> None:
    graph = samples.sample(name)
    assert loads(graph.to_yaml()) == graph


def test_a_plugin_op_without_a_module_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topolearn.ops.base.NODE_OPS", dict(NODE_OPS))

    @register_node_op("test.unbuilt")
    class Unbuilt(NodeOp):
        def output(self, x: Shape) -> Shape:
            return x

        def cost(self, x: Shape, image: tuple[int, int]) -> Cost:
            return Cost()

    graph = toys.graph(
        [toys.Node("image", "input", {"size": (3, 4, 4)}), toys.Node("a", "test.unbuilt")], [toys.Edge("image", "a")]
    )
    with pytest.raises(OptionError, match=r"no module is registered for op 'test.unbuilt'.*builds_node"):
        topolearn.compile(graph)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_graph_costs_what_its_rules_say(path: Path, request: pytest.FixtureRequest) -> None:
    graph = topolearn.load_graph(path)
    if not request.config.getoption("--slow") and len(graph.nodes) > MANY_NODES:
        pytest.skip("a graph of many nodes; run with --slow")
    with torch.device("meta"):
        net = topolearn.compile(graph, reference=True).eval()  # which runs every node by itself
        assert {p.device.type for p in net.parameters()} == {"meta"}
        assert sum(p.numel() for p in net.parameters()) == graph.cost.params
        macs = toys.Macs(1)
        macs.watch(net)
        given = {name: x.to("meta") for name, x in toys.examples(graph, 1).items()}
        outputs = toys.as_dict(net, net(**given))
    assert macs.total == graph.cost.macs
    for name, output in outputs.items():
        assert output.shape == shape_of(graph, name, 1, graph.image)


def test_resnet38_has_the_parameters_of_the_paper() -> None:
    assert topolearn.load_graph("resnet38-cifar100").cost.params == 567_220
