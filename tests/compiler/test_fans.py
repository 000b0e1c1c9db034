"""Dense decoders: one convolution per source, one resize per node and resolution, the same as the reference."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.compiler import toys
from topolearn.compiler import stacking
from topolearn.graph import Edge, Graph, Node
from topolearn.ops import Shape

WIDTH = 5


def decoder(aggregate: str = "normalised", size: tuple[int, int] = (12, 10), **edge: Any) -> Graph:
    """Four encoder maps at strides 1, 2, 2 and 4 and their global mean; a stage at each that reads all behind it."""
    encoder = {"e1": (4, 1), "e2": (6, 2), "e3": (7, 2), "e4": (8, 4)}
    nodes = [Node("image", "input", {"size": (3, *size)})]
    edges = []
    last, stride = "image", 1
    for name, (channels, at) in encoder.items():
        nodes.append(Node(name, "conv_bn", {"out_channels": channels, "stride": at // stride}))
        edges.append(Edge(last, name))
        last, stride = name, at
    nodes.append(Node("pool", "global_avg_pool"))
    edges.append(Edge("e4", "pool"))
    for level in (4, 3, 2, 1):
        at = encoder[f"e{level}"][1]
        nodes.append(Node(f"d{level}", "identity", aggregate=aggregate, input=Shape(WIDTH, at)))
        sources = [*(f"e{i}" for i in range(level, 5)), *(f"d{i}" for i in range(level + 1, 5)), "pool"]
        edges += [Edge(source, f"d{level}", "conv_resize", edge, learnable=True) for source in sources]
    nodes.append(Node("head", "segmentation_head", {"classes": 3}))
    return Graph("decoder", nodes, (*edges, Edge("d1", "head")), ("head",), "segmentation").declare_inputs().verify()


class Calls(TorchDispatchMode):
    """Counts operators by name, and interpolations by the height of what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str | int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        out = func(*args, **(kwargs or {}))
        self.count[name] += 1
        if name == "upsample_bilinear2d":
            self.count[out.shape[-2]] += 1
        return out


def calls(net: torch.nn.Module, graph: Graph) -> Counter[str | int]:
    weights = torch.rand(len(graph.edges)) + 0.5
    with Calls() as counted, torch.no_grad():
        net.dag(toys.examples(graph)["image"], weights)
    return counted.count


@pytest.fixture(params=[0.0, math.inf], ids=["products", "convolutions"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether convolution and batch normalisation are one matrix product, wherever that can be."""
    monkeypatch.setattr(stacking, "WIDENING_TOGETHER", request.param)
    return request.param == 0.0


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
@pytest.mark.parametrize(
    ("aggregate", "edge"),
    [
        ("normalised", {}),
        ("sum", {"mode": "nearest"}),
        ("mean", {"align_corners": False, "affine": True}),
        ("sum", {"batch_norm": False, "activation": "none"}),
    ],
    ids=["as in the search", "nearest", "mean", "no batch normalisation"],
)
@pytest.mark.usefixtures("fused")
def test_three_steps_are_the_reference_s(aggregate: str, edge: dict[str, Any], training: bool) -> None:
    graph = decoder(aggregate, **edge)
    nets = toys.pair(graph)
    for net in nets:
        net.train(training)
    weights = toys.edge_weights(graph)
    for number in range(3):
        inputs = toys.examples(graph, 2, torch.float64, seed=number)
        toys.assert_equal(*(toys.step(net, inputs, weights) for net in nets))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.usefixtures("fused")
def test_a_small_batch_and_another_size(batch: int) -> None:
    graph = decoder()
    inputs = {"image": torch.randn(batch, 3, 9, 14, dtype=torch.float64)}
    compiled, reference = toys.pair(graph)
    toys.assert_equal(toys.step(compiled, inputs), toys.step(reference, inputs))


def test_one_convolution_per_source_and_one_resize_per_resolution(fused: bool) -> None:
    graph = decoder()
    compiled, reference = toys.pair(graph, torch.float32)
    ours, theirs = calls(compiled, graph), calls(reference, graph)
    # Stem, head, and the sources e1 … e4, d2 … d4 and pool; in the reference one for each of the twenty edges.
    assert len(graph.candidates["d1"]) + len(graph.candidates["d2"]) == 8 + 6
    assert theirs["convolution"] == 5 + 20
    # The pool's two values are too few to tell a covariance by: its convolution and normalisation stay apart.
    assert ours["convolution"] == 5 + (1 if fused else 8)
    # One normalisation per source too, besides those of four nodes of the encoder and four stages.
    assert (theirs["rsqrt"], theirs["native_batch_norm"]) == (0, 8 + 20)
    assert (ours["rsqrt"], ours["native_batch_norm"]) == ((7, 8 + 1) if fused else (0, 8 + 8))
    # Into d1 from strides 2 and 4, into d2 and d3 from 4; what is global is spread out, not resized.
    assert ours["upsample_bilinear2d"] == 4
    assert theirs["upsample_bilinear2d"] == 6 + 2 + 2


@pytest.mark.parametrize("edge", [{}, {"align_corners": False}, {"mode": "nearest"}, {"batch_norm": False}])
@pytest.mark.parametrize("size", [(9, 17), (17, 9), (9, 10), (5, 5), (3, 2), (1, 1)])
def test_grids_within_grids(size: tuple[int, int], edge: dict[str, Any]) -> None:
    graph = decoder(size=size, **edge)
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, 2, torch.float64), toys.edge_weights(graph)
    toys.assert_equal(toys.step(compiled, inputs, weights), toys.step(reference, inputs, weights))


def test_most_is_resized_where_it_is_small() -> None:
    # 3 points lie on a grid of 5, and those on one of 9; 3 do not lie on one of 6, nor 6 on one of 12.
    for size, full, half in (((9, 17), 1, 3), ((12, 10), 2, 2)):
        graph = decoder(size=size)
        found = calls(toys.build(graph), graph)
        assert (found[size[0]], found[(size[0] + 1) // 2]) == (full, half)


def test_what_was_made_in_inference_mode_trains() -> None:
    graph = decoder()
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, 2, torch.float64), toys.edge_weights(graph)
    with torch.inference_mode():
        compiled.eval().dag(inputs["image"], weights)
    toys.assert_equal(toys.step(compiled.train(), inputs, weights), toys.step(reference, inputs, weights))


def test_pruned_and_uneven() -> None:
    graph = decoder()
    weights = toys.edge_weights(graph, seed=4)
    nets = [topology_net.train() for topology_net in toys.pair(graph)]
    for net in nets:
        net.set_edge_weights(weights)
    from topolearn import prune

    small = [prune(net) for net in nets]
    inputs = toys.examples(small[0].graph, 2, torch.float64)
    toys.assert_equal(*(toys.step(net, inputs) for net in small))


def test_edges_that_differ_are_fans_apart(fused: bool) -> None:
    graph = decoder()
    edges = [
        Edge(e.src, e.dst, e.op, {"affine": True}, True) if (e.src, e.dst) == ("e4", "d1") else e for e in graph.edges
    ]
    graph = graph.replace(edges=tuple(edges)).verify()
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, 2, torch.float64), toys.edge_weights(graph)
    toys.assert_equal(toys.step(compiled, inputs, weights), toys.step(reference, inputs, weights))
    assert calls(compiled.float(), graph)["convolution"] == 5 + (1 if fused else 9)


CANCELLING = [
    Node("image", "input", {"size": (3, 16, 16)}),
    Node("e", "conv_relu", {"out_channels": 32, "kernel": 1}),
    *(Node(f"d{i}", "batch_norm", input=Shape(64, 1)) for i in range(4)),
    Node("s", "batch_norm", input=Shape(64, 1)),
    Node("head", "segmentation_head", {"classes": 3}),
]


def test_a_normalisation_of_what_does_not_vary_is_finite() -> None:
    """Filters that cancel: rounding may leave a variance below 0 of what is computed from the covariance."""
    reads = [Edge("e", f"d{i}", "conv_resize", {"activation": "relu"}, learnable=True) for i in range(4)]
    edges = [Edge("image", "e"), *reads, *(Edge(f"d{i}", "s") for i in range(4)), Edge("s", "head")]
    net = toys.build(toys.graph(CANCELLING, edges, task="segmentation"))
    with torch.no_grad():
        share = torch.rand(32, 1, 1, generator=torch.Generator().manual_seed(0)) + 0.5
        net.get_parameter("nodes.e.conv.weight").copy_(share[:, None].expand(-1, 3, -1, -1))
        for i in range(4):
            weight = net.get_parameter(f"edges.e__d{i}.unit.conv.weight")
            weight -= share * (weight * share).sum(1, keepdim=True) / (share * share).sum()
    image = torch.tensor([300.0, 1700.0]).view(2, 1, 1, 1).expand(2, 3, 16, 16).contiguous()
    result = toys.step(net, {"image": image})
    assert all(bool(y.isfinite().all()) for y in result.outputs.values())
    assert all(bool(grad.isfinite().all()) for grad in result.parameters.values() if grad is not None)
    assert all(bool(value.isfinite().all()) for value in result.buffers.values())


def plain_resizes(sources: int, targets: int, **params: Any) -> Graph:
    """Maps at stride 4, and one at stride 2, that maps of the image's size read resized, besides one of that size."""
    names = [f"a{i}" for i in range(sources)]
    ends = [f"t{i}" for i in range(targets)]
    conv = {"out_channels": 4}
    return toys.graph(
        [
            Node("image", "input", {"size": (3, 12, 16)}),
            Node("stem", "conv_bn", conv),
            Node("half", "conv_bn", {**conv, "stride": 2}),
            # No two alike, which would run side by side, as one.
            *(Node(name, "conv_bn", {**conv, "stride": 2, "kernel": 2 * i + 1}) for i, name in enumerate(names)),
            *(
                Node(name, op, input=Shape(4, 1))
                for name, op in zip(ends, ("batch_norm", "relu", "identity"), strict=False)
            ),
            Node("head", "segmentation_head", {"classes": 3}, input=Shape(4, 1)),
        ],
        [
            Edge("image", "stem"),
            Edge("stem", "half"),
            *(Edge("half", name) for name in names),
            *(Edge("stem", end, learnable=True) for end in ends),
            *(Edge(name, end, "resize", params, True) for end in ends for name in ("half", *names)),
            *(Edge(end, "head") for end in ends),
        ],
        task="segmentation",
    )


@pytest.mark.parametrize("params", [{}, {"align_corners": False}, {"mode": "nearest"}])
@pytest.mark.parametrize(("sources", "targets", "resizes"), [(4, 1, 2), (3, 2, 3), (1, 3, 2), (1, 1, 2)])
def test_plain_resizes_go_with_the_sum_where_that_is_less(
    sources: int, targets: int, resizes: int, params: dict[str, Any]
) -> None:
    graph = plain_resizes(sources, targets, **params)
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, 2, torch.float64), toys.edge_weights(graph)
    toys.assert_equal(toys.step(compiled, inputs, weights), toys.step(reference, inputs, weights))
    if not params:
        assert calls(reference.float(), graph)["upsample_bilinear2d"] == (1 + sources) * targets
        assert calls(compiled.float(), graph)["upsample_bilinear2d"] == resizes


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.usefixtures("fused")
def test_bfloat16_is_as_close_to_the_truth_as_the_reference_is(form: torch.memory_format) -> None:
    graph = decoder(size=(32, 24))
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, 4, torch.float64), toys.edge_weights(graph)
    truth = toys.step(reference, inputs, weights)
    images = {"image": inputs["image"].float().to(memory_format=form)}
    errors = []
    for net in (compiled.float().to(memory_format=form), reference.float().to(memory_format=form)):
        with torch.autocast("cpu", torch.bfloat16):
            found = toys.step(net, images, weights.float())
        grads = torch.cat([grad.flatten() for grad in found.parameters.values() if grad is not None]).double()
        wanted = torch.cat([grad.flatten() for grad in truth.parameters.values() if grad is not None])
        errors.append(float((grads - wanted).norm() / wanted.norm()))
    assert errors[0] <= 1.5 * errors[1] + 1e-3, errors


def test_a_traced_network_computes_the_same() -> None:
    graph = decoder()
    net = toys.build(graph).eval()
    image = toys.examples(graph)["image"]
    program = torch.export.export(net.dag, (image, net.effective_weights()))
    torch.testing.assert_close(program.module()(image, net.effective_weights()), net(image))
