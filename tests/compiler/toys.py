"""Small graphs and networks for tests, and what one training step of a network gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import topolearn
from topolearn.compiler import Network
from topolearn.compiler.modules.transformer import Attention
from topolearn.graph import Edge, Graph, Node
from topolearn.ops import Shape


def graph(nodes: list[Node], edges: list[Edge], *outputs: str, task: str = "classification") -> Graph:
    """A verified graph; nodes without an input get the default one."""
    return Graph("toy", nodes, tuple(edges), outputs or (nodes[-1].id,), task).declare_inputs().verify()


def diamond(aggregate: str = "sum", learnable: bool = True) -> Graph:
    """image -> a, b, c (4 channels) -> join over all three -> head, with a chain a -> b -> c beside it."""
    return graph(
        [
            Node("image", "input", {"size": (3, 8, 8)}),
            Node("a", "conv_bn_relu", {"out_channels": 4}),
            Node("b", "conv_bn_relu", {"out_channels": 4}, aggregate),
            Node("c", "conv_bn_relu", {"out_channels": 4, "stride": 2}, aggregate),
            Node("join", "identity", {}, aggregate, Shape(6, 2)),
            Node("head", "classifier", {"classes": 3}),
        ],
        [
            Edge("image", "a"),
            Edge("a", "b", learnable=learnable),
            Edge("a", "c", learnable=learnable),
            Edge("b", "c", learnable=learnable),
            *(Edge(source, "join", "align", learnable=learnable) for source in "abc"),
            Edge("join", "head"),
        ],
    )


def two_heads() -> Graph:
    """Two inputs of different size, two outputs."""
    return graph(
        [
            Node("image", "input", {"size": (3, 9, 7)}),
            Node("depth", "input", {"size": (2, 5, 4)}),
            Node("a", "conv_bn_relu", {"out_channels": 4}),
            Node("b", "conv_bn_relu", {"out_channels": 4, "stride": 2}, "normalised", Shape(4, 1)),
            Node("classes", "classifier", {"classes": 3}, "mean"),
            Node("map", "segmentation_head", {"classes": 2}, "sum", Shape(4, 1)),
        ],
        [
            Edge("image", "a"),
            Edge("a", "b", learnable=True),
            Edge("depth", "b", "conv_resize", learnable=True),
            Edge("a", "classes", "project", learnable=True),
            Edge("b", "classes", learnable=True),
            Edge("a", "map", learnable=True),
            Edge("b", "map", "resize", learnable=True),
        ],
        "classes",
        "map",
    )


def vectors() -> Graph:
    """A vector and an image: global pools, linear layers, broadcast of a global source, concat of both kinds."""
    return graph(
        [
            Node("image", "input", {"size": (3, 6, 5)}),
            Node("facts", "input", {"size": (4,)}),
            Node("conv", "conv_bn_relu", {"out_channels": 4}),
            Node("pool", "global_avg_pool"),
            Node("excite", "conv_relu", {"out_channels": 4, "kernel": 1}),
            Node("mixed", "conv_bn", {"out_channels": 4}, "sum", Shape(4, 1)),
            Node("ends", "concat", {}, "concat"),
            Node("score", "classifier", {"classes": 3}, "sum", Shape(8, "global")),
            Node("wide", "linear", {"out_features": 6, "activation": "relu"}),
            Node("both", "linear", {"out_features": 3}, "concat"),
            Node("deep", "linear", {"out_features": 3, "bias": False}, "mean", Shape(6, None)),
            Node("total", "identity", {}, "mean"),
        ],
        [
            Edge("image", "conv"),
            Edge("conv", "pool"),
            Edge("pool", "excite", learnable=True),
            Edge("conv", "mixed", learnable=True),
            Edge("excite", "mixed", "resize", learnable=True),
            Edge("pool", "mixed", "resize", learnable=True),
            Edge("pool", "ends", weight=0.5),
            Edge("excite", "ends"),
            Edge("ends", "score", learnable=True),
            Edge("pool", "score", "align", {"offset": 2}, learnable=True),
            Edge("facts", "wide"),
            Edge("facts", "both", weight=-2.0),
            Edge("wide", "both"),
            Edge("facts", "deep", "align", learnable=True),
            Edge("wide", "deep", learnable=True),
            Edge("score", "total", learnable=True),
            Edge("both", "total", learnable=True),
            Edge("deep", "total", learnable=True),
        ],
        "total",
        "mixed",
    )


def layers(op: str, params: dict[str, Any], width: int = 3, **node: Any) -> Graph:
    """stem -> a1..aW -> b1..bW (each b over all a) -> join -> head."""
    a, b = ([f"{name}{i + 1}" for i in range(width)] for name in "ab")
    shared = node.pop("share", {})
    aggregate = node.pop("aggregate", "mean")
    return graph(
        [
            Node("image", "input", {"size": (3, 9, 7)}),
            Node("stem", "conv_bn_relu", {"out_channels": 4}),
            *(Node(name, op, params, share={k: f"{v}_a" for k, v in shared.items()}) for name in a),
            *(Node(name, op, params, aggregate, share={k: f"{v}_b" for k, v in shared.items()}) for name in b),
            Node("join", "identity", {}, "mean"),
            Node("head", "classifier", {"classes": 3}),
        ],
        [
            Edge("image", "stem"),
            *(Edge("stem", name) for name in a),
            *(Edge(source, name, learnable=True) for name in b for source in a),
            *(Edge(name, "join") for name in b),
            Edge("join", "head"),
        ],
    )


def randomise(net: nn.Module, seed: int = 0) -> None:
    """Give batch normalisations statistics and affine parameters that are not their defaults."""
    numbers = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                if tensor is not None:
                    with torch.no_grad():
                        tensor.uniform_(low, high, generator=numbers)


def build(graph: Graph, *, reference: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0) -> Network:
    """A network with weights by seed; the caller's random numbers stay as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = topolearn.compile(graph, reference=reference)
    randomise(net, seed)
    return net.to(dtype)


def pair(graph: Graph, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Network, Network]:
    """The compiled network and the reference interpreter, with equal weights."""
    reference = build(graph, reference=True, dtype=dtype, seed=seed)
    return topolearn.compile(reference), reference


def examples(
    graph: Graph, batch: int = 2, dtype: torch.dtype = torch.float32, seed: int = 0, side: int | None = None
) -> dict[str, Tensor]:
    """Random inputs by id, images at most ``side`` pixels wide and high."""
    numbers = torch.Generator().manual_seed(seed)
    given = {}
    for name in graph.inputs:
        vocabulary = graph.input_rule(name).vocabulary
        if vocabulary is not None:
            given[name] = torch.randint(vocabulary, (batch, *graph.input_size(name)), generator=numbers)
            continue
        channels, *size = graph.input_size(name)
        size = [min(length, side or length) for length in size]
        given[name] = torch.randn(batch, channels, *size, generator=numbers, dtype=torch.float64).to(dtype)
    return given


def edge_weights(graph: Graph, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """(E,) random weights for the learnable edges, a third of them 0; fixed edges at their own."""
    numbers = torch.Generator().manual_seed(seed)
    weights = []
    for edge in graph.edges:
        weight = float(torch.randn((), generator=numbers)) * float(torch.rand((), generator=numbers) > 1 / 3)
        weights.append(weight if edge.learnable else edge.weight)
    return torch.tensor(weights, dtype=dtype)


@dataclass
class Step:
    """What one forward and backward pass gave, by name; a gradient may be None."""

    outputs: dict[str, Tensor]
    parameters: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    inputs: dict[str, Tensor | None] = field(default_factory=dict)
    weights: Tensor | None = None


def as_dict(net: Network, outputs: Any) -> dict[str, Tensor]:
    return outputs if isinstance(outputs, dict) else {net.graph.outputs[0]: outputs}


def loss_of(outputs: dict[str, Tensor], names: tuple[str, ...] = ()) -> Tensor:
    """A sum over all outputs (or those named) with random coefficients, so that every element matters."""
    numbers = torch.Generator().manual_seed(99)
    total = torch.zeros((), dtype=torch.float64)
    for name, output in outputs.items():
        coefficients = torch.randn(output.shape, generator=numbers, dtype=torch.float64).to(output.device)
        if not names or name in names:
            total = total.to(output.device) + (output.to(torch.float64) * coefficients).sum()
    return total


def step(net: Network, given: dict[str, Tensor], weights: Tensor | None = None, loss: tuple[str, ...] = ()) -> Step:
    """One forward and backward pass; ``weights`` are effective edge weights, None for the network's own."""
    net.zero_grad(set_to_none=True)
    given = {name: x.detach().clone().requires_grad_(x.is_floating_point()) for name, x in given.items()}
    leaf = None if weights is None else weights.detach().clone().requires_grad_()
    inputs = given if len(given) > 1 else next(iter(given.values()))
    outputs = as_dict(net, net.dag(inputs, net.effective_weights() if leaf is None else leaf))
    loss_of(outputs, loss).backward()
    return Step(
        outputs={name: y.detach() for name, y in outputs.items()},
        parameters={name: p.grad for name, p in net.named_parameters()},
        buffers={name: b.clone() for name, b in net.named_buffers()},
        inputs={name: x.grad for name, x in given.items()},
        weights=None if leaf is None else leaf.grad,
    )


def assert_equal(found: Step, wanted: Step, tolerance: float = 1e-10) -> None:
    """Everything in the two steps agrees; where the reference has no gradient, zeros will do."""
    for part in ("outputs", "parameters", "buffers", "inputs"):
        ours, theirs = getattr(found, part), getattr(wanted, part)
        assert ours.keys() == theirs.keys()
        for name, theirs_value in theirs.items():
            same(ours[name], theirs_value, tolerance, f"{part} {name}")
    same(found.weights, wanted.weights, tolerance, "edge weights")


def same(found: Tensor | None, wanted: Tensor | None, tolerance: float, what: str) -> None:
    if wanted is None:
        assert found is None or not found.any(), f"{what}: a gradient where there is none"
        return
    assert found is not None, f"{what}: no gradient"
    found, wanted = found.detach(), wanted.detach()
    scale = max(1.0, float(wanted.abs().max())) if wanted.is_floating_point() else 1.0
    torch.testing.assert_close(
        found, wanted, rtol=0, atol=tolerance * scale, msg=lambda text: f"{what}: {text}", check_stride=False
    )


@dataclass
class Macs:
    """Multiply-accumulates of the convolutions, linear layers and attentions that ran, for one input."""

    batch: int
    total: float = 0.0

    def watch(self, net: nn.Module) -> None:
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(self._record)
            if isinstance(module, Attention):
                module.register_forward_hook(self._record_products)

    def _record_products(self, _: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        batch, length, channels = out.shape
        self.total += 2 * length * length * channels * batch / self.batch

    def _record(self, module: nn.Module, _: Any, out: Tensor) -> None:
        channels = module.weight.shape[0]
        assert isinstance(channels, int)
        # Also right where a shared part runs over the stacked batch of its members.
        self.total += module.weight.numel() * (out.numel() // channels) / self.batch


def encoded(params: dict[str, Any], size: tuple[int, int] = (64, 96)) -> Graph:
    """An encoder of timm -> features -> a sum of conv_resize edges -> logits."""
    features = list(params["features"])
    return graph(
        [
            Node("image", "input", {"size": (3, *size)}),
            Node("backbone", "timm.backbone", params),
            *(Node(name, "feature", {"name": name}) for name in features),
            Node("sum", "identity", {}, "sum", Shape(8, 4)),
            Node("logits", "segmentation_head", {"classes": 3}),
        ],
        [
            Edge("image", "backbone"),
            *(Edge("backbone", name) for name in features),
            *(Edge(name, "sum", "conv_resize", learnable=True) for name in features),
            Edge("sum", "logits"),
        ],
        task="segmentation",
    )
