"""The graphs of lifted networks: counts, costs, names, and what is learnable in them."""

from __future__ import annotations

import pytest
from torchvision import models

import topolearn
from tests.lifting.networks import in_families, network, no_initialisation
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.lifting.convert import check_settings, outline
from topolearn.ops import Shape


def graph_of(name: str, size: int = 224) -> Graph:
    with no_initialisation():
        return outline(models.get_model(name, weights=None), name, (size, size)).graph()


def edges(graph: Graph) -> dict[tuple[str, str], tuple[str, bool, float]]:
    return {(edge.src, edge.dst): (edge.op, edge.learnable, edge.weight) for edge in graph.edges}


@pytest.mark.parametrize("name", in_families())
def test_every_network_costs_what_torchvision_says(name: str) -> None:
    graphs = {}
    for weights in models.get_model_weights(name):
        (size,) = weights.transforms().crop_size
        graph = graphs.setdefault(size, graph_of(name, size))
        assert graph.cost.params == weights.meta["num_params"]
        assert round(graph.cost.macs / 1e9, 3) == weights.meta["_ops"]
    for graph in graphs.values():
        assert (graph.name, graph.task, graph.data, len(graph.outputs)) == (name, "classification", None, 1)
        assert loads(graph.to_yaml()) == graph


@pytest.mark.parametrize("name", in_families())
def test_every_module_has_its_place(name: str) -> None:
    with no_initialisation():
        model = models.get_model(name, weights=None)
        draft = outline(model, name, (64, 64))
        net = topolearn.compile(draft.graph())
        check_settings(draft, net)
    held = {path for path, module in model.named_modules() if list(module.named_parameters(recurse=False))}
    assert held <= set(draft.places)
    names = {f"{draft.places[path]}.{leaf}" for path, _, leaf in (n.rpartition(".") for n in model.state_dict())}
    assert names == set(net.state_dict())
    assert len(names) == len(model.state_dict())


@pytest.mark.parametrize("name", [name for name in in_families() if name != "mobilenet_v2"])
def test_a_block_is_a_branch_and_a_sum(name: str) -> None:
    """In a stage of n sums that longer edges may join, n (n + 1) / 2 edges are learnable, n of them at 1."""
    graph = graph_of(name)
    shapes = graph.shapes
    sums = [node for node in graph.nodes if node.endswith("_add")]
    at_one = at_zero = 0
    for total in sums:
        into = {e.src: e for i in graph.in_edges(total) if (e := graph.edges[i])}
        branch = into.pop(total.removesuffix("_add"))
        before = next(graph.edges[i].src for i in graph.in_edges(branch.src))
        shortcut = into.pop(before)
        assert not shortcut.learnable
        assert (branch.op, branch.weight, shortcut.weight) == ("identity", 1.0, 1.0)
        transition = shortcut.op == "project"
        assert branch.learnable is not transition
        assert (shapes[before] == shapes[total]) is not transition
        assert all(edge.learnable and edge.weight == 0.0 for edge in into.values())
        assert all(shapes[source] == shapes[total] for source in into)
        at_one += branch.learnable
        at_zero += len(into)
    learnable = sum(edge.learnable for edge in graph.edges)
    assert learnable == at_one + at_zero
    # Per stage: d blocks after the node that longer edges may start from first.
    depths: dict[str, int] = {}
    for total in sums:
        stage = total.split("_")[0]
        depths[stage] = depths.get(stage, -1 if graph.in_edges(total) and _projects(graph, total) else 0) + 1
    assert at_one == sum(depths.values())
    assert at_zero == sum(d * (d - 1) // 2 for d in depths.values())


def _projects(graph: Graph, total: str) -> bool:
    return any(graph.edges[i].op == "project" for i in graph.in_edges(total))


def test_resnet18_edge_by_edge() -> None:
    found = edges(graph_of("resnet18"))
    identity, learned, longer = ("identity", False, 1.0), ("identity", True, 1.0), ("identity", True, 0.0)
    # The first stage opens without a projection: its input is of its own shape.
    first = {
        ("maxpool", "layer1_0"): identity,
        ("maxpool", "layer1_0_add"): identity,
        ("layer1_0", "layer1_0_add"): learned,
        ("layer1_0_add", "layer1_1"): identity,
        ("layer1_0_add", "layer1_1_add"): identity,
        ("layer1_1", "layer1_1_add"): learned,
        ("maxpool", "layer1_1_add"): longer,
        ("layer1_1_add", "layer1"): identity,
    }
    second = {
        ("layer1", "layer2_0"): identity,
        ("layer1", "layer2_0_add"): ("project", False, 1.0),
        ("layer2_0", "layer2_0_add"): identity,
        ("layer2_0_add", "layer2_1"): identity,
        ("layer2_0_add", "layer2_1_add"): identity,
        ("layer2_1", "layer2_1_add"): learned,
        ("layer2_1_add", "layer2"): identity,
    }
    wanted = first | second
    assert {pair: edge for pair, edge in found.items() if pair[1].startswith(("layer1", "layer2"))} == wanted


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2"])
def test_resnets_stages_have_torchvisions_names_and_shapes(name: str) -> None:
    graph = graph_of(name)
    wide = 1 if name == "resnet18" else 4
    for i in range(4):
        node = graph.nodes[f"layer{i + 1}"]
        assert node.op == "identity"
        assert graph.shapes[node.id] == Shape(wide * 64 * 2**i, 4 * 2**i)
    assert list(graph.nodes)[:3] == ["image", "conv1", "maxpool"]
    assert graph.outputs == ("fc",)


def test_regnets_stages_have_torchvisions_names() -> None:
    graph = graph_of("regnet_y_400mf")
    assert [name for name, node in graph.nodes.items() if node.op == "identity"] == [f"block{i}" for i in range(1, 5)]
    assert [graph.shapes[f"block{i}"] for i in range(1, 5)] == [
        Shape(48, 4),
        Shape(104, 8),
        Shape(208, 16),
        Shape(440, 32),
    ]
    assert "block1_0_add" in graph.nodes
    assert graph.nodes["block1_0"].params["squeeze"] == 8
    assert "squeeze" not in graph_of("regnet_x_400mf").nodes["block1_0"].params


def test_mobilenetv2_is_seven_complete_stages_of_33_edges() -> None:
    graph = graph_of("mobilenet_v2")
    learnable = [edge for edge in graph.edges if edge.learnable]
    assert len(learnable) == 33
    assert {(edge.op, edge.weight) for edge in learnable} == {("identity", 1.0)}
    per_stage = []
    for i in range(1, 8):
        members = [graph.edges[k].src for k in graph.in_edges(f"stage{i}")]
        stage = [*members, f"stage{i}"]
        inside = [(edge.src, edge.dst) for edge in learnable if edge.dst in stage]
        assert sorted(inside) == sorted((a, b) for k, b in enumerate(stage) for a in stage[:k])
        per_stage.append(len(inside))
    assert per_stage == [1, 3, 6, 10, 6, 6, 1]
    branches = [node for node in graph.nodes.values() if node.op == "mobilenetv2.inverted_bottleneck"]
    assert len(branches) == 17
    assert not any(node.params["shortcut"] for node in branches)
    assert graph.nodes["classifier"].params["dropout"] == 0.2
    assert graph.nodes["features_18"].op == "conv_bn_relu6"


def test_size_and_classes_are_the_graphs() -> None:
    with no_initialisation():
        net = topolearn.lift(network("resnet18", num_classes=10), size=(48, 32))
    assert net.graph.input_size("image") == (3, 48, 32)
    assert net.graph.shapes["fc"] == Shape(10, None)
    assert net.graph.name == "resnet"
