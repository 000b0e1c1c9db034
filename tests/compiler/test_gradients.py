"""The weighted sum on its own, and gradients through sinks in every order that autograd allows."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from tests.compiler import toys
from tests.compiler.test_equivalence import HAND_MADE, by_name
from tests.strategies import graphs
from topolearn.compiler.aggregate import EdgeWeights, FanOut, Ledger, Sink, WeightedSum, weighted_sum
from topolearn.graph import Edge, Graph, Node
from topolearn.ops import Shape

SUM_WEIGHTS = [0.5, 0.0, -2.0, 1.0]


def tensors(shape: tuple[int, ...] = (2, 3, 4, 5), count: int = 4, **options: Any) -> list[Tensor]:
    numbers = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=numbers, dtype=torch.float64, **options) for _ in range(count)]


def leaves(values: list[Tensor]) -> list[Tensor]:
    return [value.detach().clone().requires_grad_() for value in values]


def ours_of(weights: Tensor, numbers: list[float] | None, sinks: list[Sink | None], ys: list[Tensor]) -> Tensor:
    """The weighted sum as a network has it."""
    ledger = Ledger()
    row = EdgeWeights.apply(weights, ledger)
    ys = [y if sink is None else FanOut.apply(y, sink, row, ledger) for y, sink in zip(ys, sinks, strict=True)]
    return WeightedSum.apply(row, numbers, [True] * len(ys), sinks, ledger, range(len(ys)), *ys)


# "known": weights that the host knows, as on a CPU; "unknown": only as a tensor, as on a GPU.
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("sunk", [True, False], ids=["sinks", "direct"])
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x,
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x[:, :, :1, :1].expand(-1, -1, 6, 7),
        lambda x: x.flatten(1),
    ],
    ids=["contiguous", "channels_last", "transposed", "expanded", "vector"],
)
def test_the_weighted_sum_and_its_gradients(known: bool, sunk: bool, layout: Callable[[Tensor], Tensor]) -> None:
    row = torch.tensor(SUM_WEIGHTS, dtype=torch.float64)
    results = []
    for ours in (True, False):
        sources = leaves(tensors())
        weights = row.clone().requires_grad_()
        ys = [layout(y) for y in sources]
        if ours:
            x = ours_of(weights, SUM_WEIGHTS if known else None, [Sink() if sunk else None for _ in ys], ys)
        else:
            x = sum(w * y for w, y in zip(weights, ys, strict=True))
        (x * torch.arange(x.numel(), dtype=torch.float64).view(x.shape)).sum().backward()
        results.append([x.detach(), weights.grad, *(y.grad for y in sources)])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12, check_stride=False)


def test_the_weighted_sum_passes_gradcheck() -> None:
    ys = leaves(tensors((2, 2, 2, 2)))
    row = torch.tensor(SUM_WEIGHTS, dtype=torch.float64, requires_grad=True)

    def function(row: Tensor, *ys: Tensor) -> Tensor:
        return ours_of(row, None, [None] * 4, list(ys))

    assert torch.autograd.gradcheck(function, (row, *ys))


@pytest.mark.parametrize("numbers", [SUM_WEIGHTS, None], ids=["known", "unknown"])
def test_sources_of_mixed_precision_add_up_in_the_larger_one(numbers: list[float] | None) -> None:
    ys = [
        y.to(dtype) for y, dtype in zip(tensors(), [torch.bfloat16, torch.bfloat16, *[torch.float32] * 2], strict=True)
    ]
    wanted = sum(w * y.double() for w, y in zip(SUM_WEIGHTS, ys, strict=True))
    row = torch.tensor(SUM_WEIGHTS)
    with torch.no_grad():
        x = weighted_sum(ys, row, numbers)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.double(), wanted, rtol=1e-6, atol=1e-6)
    ys = leaves(ys)
    sinks = [Sink(), None, Sink(), None]
    row = row.requires_grad_()
    ours_of(row, numbers, sinks, ys).sum().backward()
    assert [y.grad.dtype for y in ys] == [y.dtype for y in ys]
    assert [float(y.grad.flatten()[0]) for y in ys] == SUM_WEIGHTS
    for grad, y in zip(row.grad, ys, strict=True):
        assert float(grad) == pytest.approx(float(y.detach().double().sum()), rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("shape", [(4, 16, 8, 8), (3, 5, 7, 11)], ids=["whole rows", "no whole rows"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last, None])
def test_a_weights_gradient_in_bfloat16_is_summed_more_precisely(
    shape: tuple[int, ...], layout: torch.memory_format | None
) -> None:
    """Its error is that of rounded numbers, far below what a running sum in bfloat16 would lose."""
    ys, grads = (leaf.to(torch.bfloat16) for leaf in tensors(shape, count=2))
    y, grad = (x.transpose(2, 3) if layout is None else x.contiguous(memory_format=layout) for x in (ys, grads))
    weight = torch.ones(1, requires_grad=True)
    ours_of(weight, [1.0], [None], [y.requires_grad_()]).backward(grad)
    assert weight.grad is not None
    products = ys.double() * grads.double()
    assert weight.grad.item() == pytest.approx(products.sum().item(), abs=0.01 * products.norm().item())


def test_all_weights_zero_gives_zeros_that_train() -> None:
    ys = leaves(tensors())
    row = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    x = ours_of(row, [0.0] * 4, [None] * 4, ys)
    assert not x.any()
    x.sum().backward()
    assert row.grad.tolist() == pytest.approx([float(y.detach().sum()) for y in ys])


def test_a_fixed_edge_gets_no_gradient() -> None:
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            *(Node(name, "conv_bn_relu", {"out_channels": 4}) for name in "ab"),
            Node("head", "classifier", {"classes": 3}),
        ],
        [Edge("image", "a"), Edge("image", "b"), Edge("a", "head"), Edge("b", "head", learnable=True)],
    )
    for net in toys.pair(graph):
        grad = toys.step(net, toys.examples(graph, dtype=torch.float64), toys.edge_weights(graph)).weights
        assert [bool(value) for value in grad] == [edge.learnable for edge in graph.edges]


class Pass:
    """One forward pass of a network, its leaves, and the gradients that one plain backward pass would give."""

    def __init__(self, graph: Graph, seed: int = 0) -> None:
        compiled, reference = toys.pair(graph, seed=seed)
        inputs = toys.examples(graph, dtype=torch.float64, seed=seed)
        weights = toys.edge_weights(graph, seed=seed)
        wanted = toys.step(reference, inputs, weights)
        self.leaves = {f"inputs {name}": x.clone().requires_grad_() for name, x in inputs.items()}
        self.leaves |= {f"parameters {name}": p for name, p in compiled.named_parameters()}
        self.weights = self.leaves["weights"] = weights.clone().requires_grad_()
        self.wanted = {f"inputs {name}": grad for name, grad in wanted.inputs.items()}
        self.wanted |= {f"parameters {name}": grad for name, grad in wanted.parameters.items()}
        self.wanted["weights"] = wanted.weights
        given = {name: self.leaves[f"inputs {name}"] for name in inputs}
        outputs = compiled.dag(given if len(given) > 1 else next(iter(given.values())), self.weights)
        self.loss = toys.loss_of(toys.as_dict(compiled, outputs))

    def check(self, names: list[str] | None = None, times: int = 1) -> None:
        for name in self.leaves if names is None else names:
            wanted = self.wanted[name]
            toys.same(self.leaves[name].grad, None if wanted is None else times * wanted, 1e-10, name)


@by_name
def test_two_backward_passes_over_one_forward(name: str) -> None:
    run = Pass(HAND_MADE[name])
    run.loss.backward(retain_graph=True)
    run.check()
    run.loss.backward()
    run.check(times=2)


@by_name
def test_a_partial_backward_leaves_nothing_in_the_next(name: str) -> None:
    run = Pass(HAND_MADE[name])
    for _ in range(2):
        (grad,) = torch.autograd.grad(run.loss, run.weights, retain_graph=True)
        toys.same(grad, run.wanted["weights"], 1e-10, "weights")
    run.loss.backward()
    run.check()


@given(graph=graphs(max_inputs=2, min_learnable=1), data=st.data())
@settings(max_examples=40)
def test_any_sequence_of_partial_backward_passes(graph: Graph, data: st.DataObject) -> None:
    run = Pass(graph, data.draw(st.integers(0, 100)))
    reachable = [name for name, grad in run.wanted.items() if grad is not None]
    for _ in range(2):
        names = data.draw(st.lists(st.sampled_from(reachable), min_size=1, max_size=3, unique=True))
        grads = torch.autograd.grad(run.loss, [run.leaves[name] for name in names], retain_graph=True)
        for name, grad in zip(names, grads, strict=True):
            toys.same(grad, run.wanted[name], 1e-10, name)
    run.loss.backward()
    run.check()


def test_what_a_partial_backward_left_is_not_taken_by_another_loss() -> None:
    # a is read by two sums, which lead to one output, and as it is by the other.
    graph = toys.graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            Node("a", "conv_bn_relu", {"out_channels": 4}),
            Node("b", "relu"),
            Node("sum", "identity"),
            Node("plain", "segmentation_head", {"classes": 2}),
        ],
        [
            Edge("image", "a"),
            Edge("a", "b", learnable=True),
            Edge("a", "sum", learnable=True),
            Edge("b", "sum", learnable=True),
            Edge("a", "plain"),
        ],
        "sum",
        "plain",
    )
    net = toys.build(graph, dtype=torch.float64)
    image = toys.examples(graph, dtype=torch.float64)["image"]
    weights = toys.edge_weights(graph, seed=1).requires_grad_()
    wanted = toys.step(net, {"image": image}, weights, ("plain",)).parameters
    net.zero_grad(set_to_none=True)
    outputs = net.dag(image, weights)
    torch.autograd.grad(outputs["sum"].sum(), weights, retain_graph=True)
    toys.loss_of(outputs, ("plain",)).backward()
    for name, p in net.named_parameters():
        toys.same(p.grad, wanted[name], 1e-10, name)


@by_name
def test_an_interrupted_backward_leaves_nothing_in_the_next(name: str) -> None:
    run = Pass(HAND_MADE[name])
    first = next(name for name, grad in run.wanted.items() if name.startswith("parameters") and grad is not None)

    def interrupt(grad: Tensor) -> None:
        raise KeyboardInterrupt

    handle = run.leaves[first].register_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.loss.backward(retain_graph=True)
    handle.remove()
    for leaf in run.leaves.values():
        leaf.grad = None
    run.loss.backward()
    run.check()


def test_two_forward_passes_and_one_backward() -> None:
    graph = HAND_MADE["mean"]
    compiled, reference = toys.pair(graph)
    grads = []
    for net in (compiled, reference):
        weights = toys.edge_weights(graph).requires_grad_()
        losses = [
            toys.loss_of(toys.as_dict(net, net.dag(toys.examples(graph, 2, torch.float64, seed)["image"], weights)))
            for seed in range(2)
        ]
        (losses[0] * losses[1]).backward()
        grads.append({name: p.grad for name, p in net.named_parameters()} | {"weights": weights.grad})
    for name, wanted in grads[1].items():
        toys.same(grads[0][name], wanted, 1e-9, name)


def test_recomputation_gives_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    graph = HAND_MADE["sum"]
    compiled, reference = toys.pair(graph)
    for net in (compiled, reference):
        net.eval()
    inputs, weights = toys.examples(graph, dtype=torch.float64), toys.edge_weights(graph)
    wanted = toys.step(reference, inputs, weights)
    leaf = weights.clone().requires_grad_()
    output = checkpoint(compiled.dag, inputs["image"], leaf, use_reentrant=False)
    toys.loss_of({"head": output}).backward()
    toys.same(leaf.grad, wanted.weights, 1e-10, "weights")
    for name, p in compiled.named_parameters():
        toys.same(p.grad, wanted.parameters[name], 1e-10, name)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("aggregate", ["sum", "mean", "normalised"])
def test_inactive_edges_give_zeros_and_never_none(aggregate: str, frozen: bool) -> None:
    graph = toys.diamond(aggregate)
    # Only image -> a -> join stays: b and c are computed, and lead nowhere.
    weights = [1.0 if not e.learnable or (e.src, e.dst) == ("a", "join") else 0.0 for e in graph.edges]
    for net in toys.pair(graph):
        net.set_edge_weights(weights)
        given = None if frozen else torch.tensor(weights, dtype=torch.float64)
        result = toys.step(net, toys.examples(graph, dtype=torch.float64), given)
        for name, grad in result.parameters.items():
            assert grad is not None, name
            if name.startswith(("nodes.b.", "nodes.c.")):
                assert not grad.any(), name
        assert result.parameters["nodes.a.conv.weight"].any()
        if not frozen:  # straight-through: what an inactive edge would bring to a node that matters has a gradient
            assert [bool(grad) for grad in result.weights] == [e.dst == "join" for e in graph.edges]


@pytest.mark.parametrize("wanted", ["classes", "map"])
def test_one_of_two_outputs_in_the_loss(wanted: str) -> None:
    graph = HAND_MADE["two_heads"]
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, dtype=torch.float64), toys.edge_weights(graph)
    found = toys.step(compiled, inputs, weights, (wanted,))
    toys.assert_equal(found, toys.step(reference, inputs, weights, (wanted,)))
    other = {"classes": "map", "map": "classes"}[wanted]
    into = [bool(g) for g, edge in zip(found.weights, graph.edges, strict=True) if edge.dst == other]
    assert not any(into)


@by_name
def test_no_grad_and_inference_mode(name: str) -> None:
    graph = HAND_MADE[name]
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, dtype=torch.float64), toys.edge_weights(graph)
    given = inputs if len(inputs) > 1 else inputs["image"]
    compiled.eval()
    reference.eval()
    wanted = toys.as_dict(reference, reference.dag(given, weights))
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = toys.as_dict(compiled, compiled.dag(given, weights))
        for key, y in found.items():
            assert not y.requires_grad
            toys.same(y, wanted[key].detach(), 1e-10, key)


def complete(count: int) -> Graph:
    """``count`` identity nodes, each the weighted sum of all before it, so that only aggregation saves tensors."""
    names = [f"n{i}" for i in range(count)]
    return toys.graph(
        [Node("image", "input", {"size": (4, 8, 8)}), *(Node(name, "identity") for name in names)],
        [
            Edge("image", names[0]),
            *(Edge(names[i], names[j], learnable=True) for j in range(count) for i in range(j)),
        ],
    )


def saved_by(function: Callable[[], Any]) -> list[Tensor]:
    saved = []
    with saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        function()
    return saved


def test_nothing_is_saved_per_edge_but_the_sources_themselves() -> None:
    graph = complete(6)
    net = toys.build(graph)
    image = toys.examples(graph)["image"].requires_grad_()
    weights = toys.edge_weights(graph, torch.float32).requires_grad_()
    saved = saved_by(lambda: net.dag(image, weights))
    large = [x for x in saved if x.numel() >= image.numel()]
    # Each of the six nodes is one piece of memory, however many of the 15 edges read it; the last is read by none.
    assert len(large) == 5
    assert len({x.untyped_storage().data_ptr() for x in large}) == 5
    rows = [x for x in saved if x.numel() < image.numel()]
    assert len(rows) == 5
    assert {x.untyped_storage().data_ptr() for x in rows} == {weights.untyped_storage().data_ptr()}


def test_frozen_edges_save_nothing() -> None:
    graph = complete(6)
    net = toys.build(graph)
    image = toys.examples(graph)["image"].requires_grad_()
    assert saved_by(lambda: net(image)) == []


def test_the_backward_pass_leaves_no_memory_behind() -> None:
    graph = complete(4)
    net = toys.build(graph)
    image = toys.examples(graph)["image"].requires_grad_()
    weights = toys.edge_weights(graph, torch.float32).requires_grad_()
    gc.disable()
    try:
        output = net.dag(image, weights)
        output.sum().backward()
        alive = weakref.ref(output.grad_fn)
        del output
        assert alive() is None  # without a collector of cycles
    finally:
        gc.enable()


@pytest.mark.parametrize("count", [2, 5])
def test_consumers_of_a_source_leave_their_gradients_in_one_sink(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left, sinks = [], []
    add = Sink.add

    def record(self: Sink, grad: Tensor, weight: Any, edge: int | None) -> None:
        add(self, grad, weight, edge)
        left.append(edge)
        sinks.append(self)

    monkeypatch.setattr(Sink, "add", record)
    graph = toys.graph(
        [
            Node("image", "input", {"size": (4, 8, 8)}),
            Node("a", "conv_bn_relu", {"out_channels": 4}),
            *(Node(f"b{i}", "identity") for i in range(count)),
            Node("join", "concat", {}, "concat", Shape(4 * count, 1)),
        ],
        [
            Edge("image", "a"),
            *(Edge("a", f"b{i}", learnable=True, weight=0.5) for i in range(count)),
            *(Edge(f"b{i}", "join") for i in range(count)),
        ],
    )
    toys.step(toys.build(graph), toys.examples(graph), torch.tensor([edge.weight for edge in graph.edges]))
    assert sorted(left) == [i for i, edge in enumerate(graph.edges) if edge.learnable]
    assert len(set(map(id, sinks))) == 1
    assert sinks[0].terms == []  # handed on, and forgotten
