"""torch.compile and torch.export of ``net.dag``: what they capture computes what eager mode computes."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import topolearn
from tests.compiler import toys
from topolearn.graph import Edge, Graph, Node
from topolearn.ops import Shape


def tiny() -> Graph:
    """Few nodes, for compilers take long: a shared source, a derived one, a fixed edge, a mean, a normalised sum."""
    return toys.graph(
        [
            Node("image", "input", {"size": (3, 6, 6)}),
            Node("a", "conv_bn_relu", {"out_channels": 4}),
            Node("b", "relu", {}, "normalised", Shape(4, 1)),
            Node("head", "classifier", {"classes": 3}, "mean", Shape(6, 2)),
        ],
        [
            Edge("image", "a"),
            Edge("image", "b", "align", learnable=True),
            Edge("a", "b", learnable=True),
            Edge("a", "head", "align", weight=0.5),
            Edge("b", "head", "project", learnable=True),
        ],
    )


def siblings() -> Graph:
    """Two layers of three nodes that run as one, and share a part."""
    params = {"width": 2, "out_channels": 6, "stride": 2, "residual_scale": 3.0}
    return toys.layers("resnext.branch", params, share={"projection": "reduce"})


def check_compiled(device: str, backend: str, graph: Graph) -> None:
    torch.compiler.reset()
    eager = toys.build(graph).to(device)
    captured = topolearn.compile(eager)
    captured.__dict__["dag"] = torch.compile(captured.dag, fullgraph=True, backend=backend)
    inputs = {name: x.to(device) for name, x in toys.examples(graph).items()}
    weights = toys.edge_weights(graph, torch.float32).to(device)
    toys.assert_equal(toys.step(captured, inputs, weights), toys.step(eager, inputs, weights), 1e-5)


@pytest.mark.parametrize("make", [tiny, siblings, toys.two_heads])
def test_dynamo_captures_one_whole_graph(make: Callable[[], Graph]) -> None:
    check_compiled("cpu", "aot_eager", make())


# On a CPU, inductor writes C++ against Python's headers.
can_build = shutil.which("g++") and Path(sysconfig.get_path("include"), "Python.h").exists()


@pytest.mark.skipif(not can_build, reason="inductor needs g++ and Python's headers")
def test_inductor_equals_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", "")  # inductor sets it for good
    check_compiled("cpu", "inductor", tiny())


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # inductor's remarks about the device
@pytest.mark.parametrize("make", [tiny, siblings])
def test_inductor_equals_eager_on_a_gpu(make: Callable[[], Graph]) -> None:
    check_compiled("cuda", "inductor", make())


MAKERS = {"one": toys.diamond, "two_heads": toys.two_heads, "vectors": toys.vectors, "siblings": siblings}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("constant", [True, False], ids=["frozen", "tensor"])
def test_torch_export_with_a_dynamic_batch(make: Callable[[], Graph], constant: bool) -> None:
    graph = make()
    net = toys.build(graph).eval()
    inputs = toys.examples(graph, 2)
    weights = toys.edge_weights(graph, torch.float32)
    batch = {name: {0: torch.export.Dim("batch", min=2)} for name in inputs}
    single = len(inputs) == 1
    given = next(iter(inputs.values())) if single else inputs
    program = torch.export.export(
        net.dag,
        (given, tuple(weights.tolist()) if constant else weights),
        dynamic_shapes=(
            next(iter(batch.values())) if single else batch,
            (None,) * len(graph.edges) if constant else None,
        ),
    )
    assert not any("autograd" in str(node.target).lower() for node in program.graph.nodes)
    for count in (2, 5):
        inputs = toys.examples(graph, count, seed=count)
        given = next(iter(inputs.values())) if single else inputs
        chosen = tuple(weights.tolist()) if constant else weights
        found = toys.as_dict(net, program.module()(given, chosen))
        for name, output in toys.as_dict(net, net.dag(given, chosen)).items():
            toys.same(found[name], output, 1e-6, name)
