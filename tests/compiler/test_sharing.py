"""Parts that nodes share: counted once, run as one call over the stacked batch, trained once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import topolearn
from tests.compiler import toys
from topolearn.compiler import Network
from topolearn.compiler.modules import ConvUnit
from topolearn.graph import Edge, Graph, Node

BRANCH = {"width": 2, "out_channels": 6, "stride": 2, "residual_scale": 0.5}


def shared_branches(count: int = 3, share: bool = True) -> Graph:
    """``count`` ResNeXt branches side by side, one of them deeper than the rest, and a plain node among them."""
    group = {"projection": "reduce"} if share else {}
    branches = [Node(f"b{i}", "resnext.branch", BRANCH, "sum", None, group) for i in range(count)]
    return toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            Node("stem", "conv_bn", {"out_channels": 4}),
            Node("late", "conv_bn", {"out_channels": 4}),
            *branches,
            Node("deep", "resnext.branch", BRANCH, "sum", None, group),
            Node("plain", "max_pool"),
            Node("head", "classifier", {"classes": 3}),
        ],
        [
            Edge("image", "stem"),
            Edge("stem", "late"),
            *(Edge("stem", f"b{i}", weight=1.0 - 0.25 * i) for i in range(count)),
            Edge("late", "deep"),
            Edge("stem", "plain"),
            *(Edge(f"b{i}", "head") for i in range(count)),
            Edge("deep", "head"),
            Edge("plain", "head", "align"),
        ],
    )


def test_parameters_count_once_and_macs_once_per_use() -> None:
    shared, own = shared_branches(), shared_branches(share=False)
    net = toys.build(shared)
    assert sum(p.numel() for p in net.parameters()) == shared.cost.params
    projection = 4 * 6 + 2 * 6
    assert own.cost.params - shared.cost.params == 3 * projection
    assert own.cost.macs == shared.cost.macs
    net = toys.build(shared, reference=True)  # which runs every node by itself
    macs = toys.Macs(2)
    macs.watch(net)
    net(toys.examples(shared)["image"])
    assert macs.total == shared.cost.macs


def test_the_state_holds_the_group_once() -> None:
    names = toys.build(shared_branches()).state_dict()
    assert {name for name in names if "projection" in name} == set()
    assert "shared.reduce.conv.weight" in names
    assert "shared.reduce.bn.running_mean" in names
    assert len([name for name in names if name.startswith("shared.")]) == 6


def residual(module: torch.nn.Module, u: Tensor) -> Tensor:
    """conv1x1 BN relu conv3x3 BN relu conv1x1 BN, by hand, in training mode."""
    for number, layer in enumerate(module):
        u = F.conv2d(u, layer.conv.weight, stride=2 if number == 1 else 1, padding=1 if number == 1 else 0)
        u = F.batch_norm(u, None, None, layer.bn.weight, layer.bn.bias, training=True)
        u = F.relu(u) if number < 2 else u
    return u


def by_hand(net: Network, image: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the statistics (mean, variance) of the projection's two calls."""
    nodes, unit = net.nodes, net.shared["reduce"]

    def conv_bn(node: ConvUnit, x: Tensor) -> Tensor:
        x = F.conv2d(x, node.conv.weight, padding=1)
        return F.batch_norm(x, None, None, node.bn.weight, node.bn.bias, training=True)

    stem = conv_bn(nodes["stem"], image)
    late = conv_bn(nodes["late"], stem)
    statistics = []

    def project(us: list[Tensor]) -> list[Tensor]:
        y = F.conv2d(torch.cat(us), unit.conv.weight, stride=2)
        statistics.append(torch.stack([y.mean((0, 2, 3)), y.transpose(0, 1).flatten(1).var(1)]).detach())
        y = F.batch_norm(y, None, None, unit.bn.weight, unit.bn.bias, training=True)
        return list(y.split(len(image)))

    us = [F.relu(stem * (1.0 - 0.25 * i)) for i in range(3)]
    total = torch.zeros(())
    for i, (u, shortcut) in enumerate(zip(us, project(us), strict=True)):
        total = total + shortcut + 0.5 * residual(nodes[f"b{i}"].residual, u)
    deep = F.relu(late)
    total = total + project([deep])[0] + 0.5 * residual(nodes["deep"].residual, deep)
    total = total + F.pad(F.max_pool2d(stem, 2), (0, 0, 0, 0, 0, 2))
    return F.linear(total.mean((2, 3)), nodes["head"].linear.weight, nodes["head"].linear.bias), torch.stack(statistics)


@pytest.mark.parametrize("reference", [True, False])
def test_equals_a_loop_written_by_hand(reference: bool) -> None:
    graph = shared_branches()
    net = toys.build(graph, reference=reference, dtype=torch.float64)
    image = toys.examples(graph, 3, torch.float64)["image"]
    bn = net.shared["reduce"].bn
    mean, variance, calls = bn.running_mean.clone(), bn.running_var.clone(), int(bn.num_batches_tracked)
    wanted, statistics = by_hand(net, image)
    toys.loss_of({"head": wanted}).backward()
    grads = {name: p.grad for name, p in net.named_parameters()}
    found = toys.step(net, {"image": image})
    torch.testing.assert_close(found.outputs["head"], wanted.detach(), rtol=1e-10, atol=1e-10)
    for name, grad in grads.items():
        toys.same(found.parameters[name], grad, 1e-10, name)
    # Pooled over the three branches of one depth, and once for the deeper one.
    for call in statistics:
        mean, variance = mean.lerp(call[0], 0.1), variance.lerp(call[1], 0.1)
    torch.testing.assert_close(bn.running_mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bn.running_var, variance, rtol=1e-10, atol=1e-10)
    assert int(bn.num_batches_tracked) - calls == 2


def test_one_call_per_depth() -> None:
    net = toys.build(shared_branches())
    calls = []
    net.shared["reduce"].register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    net(torch.randn(2, 3, 8, 8))
    assert calls == [6, 2]


@pytest.mark.parametrize("op", ["resnet.basic", "resnet.bottleneck"])
def test_residual_blocks_share_their_projection(op: str) -> None:
    params = {"channels": 6, "stride": 2, "shortcut": "projection"}
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            Node("stem", "conv_bn", {"out_channels": 4}),
            *(Node(f"b{i}", op, params, "sum", None, {"projection": "group"}) for i in range(2)),
            Node("head", "classifier", {"classes": 3}, "mean"),
        ],
        [
            Edge("image", "stem"),
            Edge("stem", "b0", learnable=True),
            Edge("stem", "b1", learnable=True),
            Edge("b0", "head", learnable=True),
            Edge("b1", "head", learnable=True),
        ],
    )
    compiled, reference = toys.pair(graph)
    assert sum(p.numel() for p in compiled.parameters()) == graph.cost.params
    inputs, weights = toys.examples(graph, dtype=torch.float64), toys.edge_weights(graph, seed=3)
    toys.assert_equal(toys.step(compiled, inputs, weights), toys.step(reference, inputs, weights))


def test_a_group_that_no_member_needs_has_no_parameters() -> None:
    graph = toys.graph(
        [
            Node("image", "input", {"size": (4, 8, 8)}),
            Node(
                "b", "resnet.basic", {"channels": 4, "shortcut": "projection"}, "sum", None, {"projection": "nothing"}
            ),
        ],
        [Edge("image", "b")],
    )
    compiled, reference = toys.pair(graph)
    assert len(compiled.shared) == 0
    assert sum(p.numel() for p in compiled.parameters()) == graph.cost.params
    inputs = toys.examples(graph, dtype=torch.float64)
    toys.assert_equal(toys.step(compiled, inputs), toys.step(reference, inputs))


def test_a_derived_source_that_a_grouped_and_a_single_node_read() -> None:
    # Nodes that share run before the others of their depth, in whatever order they are declared.
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            Node("single", "identity", {}, "sum", toys.Shape(4, 2)),
            *(
                Node(f"b{i}", "resnext.branch", BRANCH, "sum", toys.Shape(4, 2), {"projection": "group"})
                for i in range(2)
            ),
            Node("head", "concat", {}, "concat", toys.Shape(16, 4)),
        ],
        [
            Edge("image", "single", "align"),
            Edge("image", "b0", "align", learnable=True),
            Edge("image", "b1", "align", learnable=True),
            Edge("single", "head", "align"),
            Edge("b0", "head"),
            Edge("b1", "head"),
        ],
    )
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, dtype=torch.float64), toys.edge_weights(graph)
    toys.assert_equal(toys.step(compiled, inputs, weights), toys.step(reference, inputs, weights))


def test_pruning_keeps_what_is_shared() -> None:
    graph = shared_branches()
    net = toys.build(graph).eval()
    weights = [0.0 if (e.src, e.dst) in {("stem", "b1"), ("b1", "head")} else e.weight for e in graph.edges]
    net.set_edge_weights(weights)
    small = topolearn.prune(net)
    assert "b1" not in small.graph.nodes
    assert sum(p.numel() for p in small.parameters()) == small.graph.cost.params
    assert torch.equal(small.state_dict()["shared.reduce.conv.weight"], net.state_dict()["shared.reduce.conv.weight"])
    image = toys.examples(graph)["image"]
    torch.testing.assert_close(small(image), net(image), rtol=1e-5, atol=1e-5)
