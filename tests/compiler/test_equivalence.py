"""The compiled network computes what the reference interpreter computes, and so do its gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import topolearn
from tests.compiler import toys
from tests.strategies import graphs
from topolearn.graph import Graph

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "graphs").glob("*.yaml"), key=lambda path: path.name)
LARGE_MACS, LARGE_PARAMS = 1e9, 30e6

HAND_MADE = {
    "sum": toys.diamond("sum"),
    "mean": toys.diamond("mean"),
    "normalised": toys.diamond("normalised"),
    "two_heads": toys.two_heads(),
    "vectors": toys.vectors(),
}

by_name = pytest.mark.parametrize("name", HAND_MADE)
in_both_modes = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def compare(
    graph: Graph, batch: int, training: bool, seed: int = 0, side: int | None = None, tolerance: float = 1e-10
) -> None:
    """With the weights as a tensor that requires a gradient, then frozen at arbitrary values."""
    compiled, reference = toys.pair(graph, seed=seed)
    inputs = toys.examples(graph, batch, torch.float64, seed, side)
    weights = toys.edge_weights(graph, seed=seed)
    frozen = weights.clone()
    frozen[::2] *= -0.7  # fixed edges too
    for net in (compiled, reference):
        net.train(training)
    toys.assert_equal(toys.step(compiled, inputs, weights), toys.step(reference, inputs, weights), tolerance)
    for net in (compiled, reference):
        net.set_edge_weights(frozen)
    toys.assert_equal(toys.step(compiled, inputs), toys.step(reference, inputs), tolerance)


@in_both_modes
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_on_every_shipped_graph(path: Path, training: bool, request: pytest.FixtureRequest) -> None:
    graph = topolearn.load_graph(path)
    if not request.config.getoption("--slow") and (graph.cost.macs > LARGE_MACS or graph.cost.params > LARGE_PARAMS):
        pytest.skip("a large graph; run with --slow")
    if "backbone" in graph.nodes:
        # At stride 32 batch normalisation wants more than two values per channel. A shift before one further
        # on has no gradient, but what rounding leaves of the terms that cancel out, fifty layers deep.
        compare(graph, 2, training, side=64, tolerance=1e-8)
    else:
        compare(graph, 2, training, side=16)


@in_both_modes
@by_name
def test_on_hand_made_graphs(name: str, training: bool) -> None:
    compare(HAND_MADE[name], 3, training)


@given(graph=graphs(max_inputs=2), seed=st.integers(0, 1000), training=st.booleans())
@settings(max_examples=60)
def test_on_random_graphs(graph: Graph, seed: int, training: bool) -> None:
    compare(graph, 2, training, seed)


@by_name
def test_sizes_other_than_the_graphs_own(name: str) -> None:
    graph = HAND_MADE[name]
    compiled, reference = toys.pair(graph)
    inputs = {}
    for key in graph.inputs:
        channels, *size = graph.input_size(key)
        small = len(graph.image_inputs) > 1 and key == graph.image_inputs[1]
        inputs[key] = torch.randn(2, channels, *((6, 7) if small else (11, 13))[: len(size)], dtype=torch.float64)
    weights = toys.edge_weights(graph)
    toys.assert_equal(toys.step(compiled, inputs, weights), toys.step(reference, inputs, weights))


@by_name
def test_a_batch_of_one_trains(name: str) -> None:
    compare(HAND_MADE[name], 1, True)


def test_a_batch_of_one_whose_channels_hold_one_value_uses_the_running_statistics() -> None:
    graph = toys.graph(
        [
            toys.Node("image", "input", {"size": (3, 2, 2)}),
            toys.Node("a", "conv_bn_relu", {"out_channels": 4, "stride": 2}),
            toys.Node("head", "classifier", {"classes": 3}, "normalised"),
        ],
        [toys.Edge("image", "a"), toys.Edge("a", "head", "project", learnable=True)],
    )
    net = toys.build(graph)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    result = toys.step(net, toys.examples(graph, 1))
    for name, buffer in result.buffers.items():
        assert torch.equal(buffer, before[name])
    assert all(grad is not None and grad.isfinite().all() for grad in result.parameters.values())
    assert result.parameters["nodes.a.conv.weight"].any()
    more = toys.step(net, toys.examples(graph, 2))
    assert not torch.equal(more.buffers["nodes.a.bn.running_mean"], before["nodes.a.bn.running_mean"])


@by_name
def test_channels_last(name: str) -> None:
    graph = HAND_MADE[name]
    compiled, reference = toys.pair(graph)
    compiled.to(memory_format=torch.channels_last)
    inputs, weights = toys.examples(graph, 2, torch.float64), toys.edge_weights(graph)
    wanted = toys.step(reference, inputs, weights)
    last = {key: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for key, x in inputs.items()}
    toys.assert_equal(toys.step(compiled, last, weights), wanted)


@pytest.mark.parametrize("constant", [True, False], ids=["frozen", "tensor"])
@by_name
def test_bfloat16_autocast_is_roughly_float32(name: str, constant: bool) -> None:
    graph = HAND_MADE[name]
    compiled, _ = toys.pair(graph, torch.float32)
    inputs, weights = toys.examples(graph, 4), toys.edge_weights(graph, torch.float32)
    if constant:
        compiled.set_edge_weights(weights)
    wanted = toys.step(compiled, inputs, None if constant else weights)
    with torch.autocast("cpu", torch.bfloat16):
        found = toys.step(compiled, inputs, None if constant else weights)
    for key, output in wanted.outputs.items():
        toys.same(found.outputs[key].float(), output, 0.1, key)
    for key, grad in wanted.parameters.items():
        if grad is not None:
            assert found.parameters[key].dtype == torch.float32
            toys.same(found.parameters[key], grad, 0.2, key)
    if not constant:
        assert found.weights.dtype == torch.float32
        toys.same(found.weights, wanted.weights, 0.2, "edge weights")


@pytest.mark.gpu
@in_both_modes
@by_name
def test_on_a_gpu(name: str, training: bool) -> None:
    graph = HAND_MADE[name]
    compiled, reference = toys.pair(graph)
    inputs, weights = toys.examples(graph, 3, torch.float64), toys.edge_weights(graph)
    for net in (compiled, reference):
        net.train(training)
    wanted = toys.step(reference, inputs, weights)
    compiled.to("cuda")
    found = toys.step(compiled, {key: x.cuda() for key, x in inputs.items()}, weights.cuda())
    for part in (found.outputs, found.parameters, found.buffers, found.inputs):
        part.update({key: None if value is None else value.cpu() for key, value in part.items()})
    found.weights = found.weights.cpu()
    toys.assert_equal(found, wanted)
