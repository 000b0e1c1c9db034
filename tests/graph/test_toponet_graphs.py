"""The stand-ins for TopoNet's networks: counts of the specification, complete stages, and the rules by ``--set``."""

from __future__ import annotations

import pytest
import torch

import topolearn
from topolearn.graph import Graph
from topolearn.recipes import load_recipe

CIFAR = {
    # Nodes per stage, channels, parameters, MACs, learnable edges: computed in the specification.
    "toponet6-sepconv-cifar100": (6, (32, 64, 128), 247_492, 32_305_664, 84),
    "toponet6-conv-cifar100": (6, (32, 64, 128), 1_267_588, 180_204_032, 84),
    "toponet12-sepconv-cifar100": (12, (32, 64, 128), 388_612, 54_276_608, 273),
    "toponet12-sepconv-wide-cifar100": (12, (64, 128, 256), 1_477_540, 202_925_056, 273),
}
IMAGENET = "toponet-sepconv-imagenet"


def by_hand(nodes: int, channels: tuple[int, ...], op: str) -> tuple[int, int]:
    """Parameters and MACs from the layers: stem and transitions with affine normalisation, nodes without."""
    params = macs = 0
    width, size = 3, 32
    for stage, out in enumerate(channels):
        size //= 2 if stage else 1
        weights = 9 * width * out
        params += weights + 2 * out
        macs += weights * size * size
        weights = 9 * out + out * out if op == "sepconv" else 9 * out * out
        params += nodes * weights
        macs += nodes * weights * size * size
        width = out
    return params + (width + 1) * 100, macs + width * 100


@pytest.mark.parametrize("name", CIFAR)
def test_counts_of_the_specification(name: str) -> None:
    nodes, channels, params, macs, edges = CIFAR[name]
    graph = topolearn.load_graph(name)
    assert (graph.cost.params, graph.cost.macs) == (params, macs) == by_hand(nodes, channels, name.split("-")[1])
    assert sum(map(len, graph.candidates.values())) == edges == 3 * (nodes + 1) * (nodes + 2) // 2
    net = topolearn.compile(graph)
    assert sum(parameter.numel() for parameter in net.parameters()) == params
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 100)


def test_the_one_for_imagenet_costs_what_a_resnet_50_does() -> None:
    graph, resnet = topolearn.load_graph(IMAGENET), topolearn.load_graph("resnet50-imagenet")
    assert graph.cost.macs == pytest.approx(resnet.cost.macs, rel=0.01)
    assert graph.cost.params == pytest.approx(resnet.cost.params, rel=0.01)
    stages = [len(graph.in_edges(f"stage{number}_out")) for number in range(1, 5)]
    assert stages == [13, 13, 25, 11]
    assert sum(map(len, graph.candidates.values())) == sum(n * (n + 1) // 2 for n in stages) == 573


@pytest.mark.parametrize("name", [*CIFAR, IMAGENET])
def test_stages_are_complete_and_edges_stay_inside(name: str) -> None:
    graph = topolearn.load_graph(name)
    for stage in range(1, 4):
        first = "stem" if stage == 1 and name != IMAGENET else f"stage{stage}_in"
        inner = [node for node in graph.nodes if node.startswith(f"stage{stage}_") and node != first]
        order = [first, *inner]
        for number, node in enumerate(order[1:], 1):
            assert [graph.edges[i].src for i in graph.in_edges(node)] == order[:number]
            assert all(graph.edges[i].learnable and graph.edges[i].op == "identity" for i in graph.in_edges(node))
        assert order[-1] == f"stage{stage}_out"


def sources(graph: Graph, stage: int) -> dict[str, list[str]]:
    nodes = [name for name in graph.nodes if name.startswith(f"stage{stage}_") and not name.endswith("_in")]
    return {name: [graph.edges[i].src for i in graph.in_edges(name)] for name in nodes}


def test_rules_are_the_same_nodes_with_other_edges() -> None:
    recipes = {
        rule: load_recipe(f"models/toponet6-sepconv-cifar100-coarse-fixed-full{rule}.yaml", {}).searched
        for rule in ("", "-plain", "-residual", "-er", "-ws", "-ba")
    }
    whole = recipes[""]
    for graph in recipes.values():
        assert list(graph.nodes) == list(whole.nodes)
        assert (graph.cost.params, graph.cost.macs) == (whole.cost.params, whole.cost.macs)
    assert all(len(found) == 1 for found in sources(recipes["-plain"], 2).values())
    # Three blocks of two nodes: (3 + 1)(3 + 2) / 2 + 3 edges.
    assert sum(map(len, sources(recipes["-residual"], 2).values())) == 13
    # As many edges as networkx draws between the six nodes, and those that tie orphans to both ends.
    for rule in ("-er", "-ws", "-ba"):
        inner = [
            (src, dst)
            for dst, found in sources(recipes[rule], 3).items()
            for src in found
            if src != "stage3_in" and dst != "stage3_out"
        ]
        assert inner
        assert len(inner) < 15
