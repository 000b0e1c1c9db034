"""Small graphs with learnable edges, the shipped ones, and what tests do with them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.optim import Optimizer

from topolearn import load_graph, optimizers
from topolearn.compiler import Network
from topolearn.format import library, loads
from topolearn.graph import Edge, Graph, Node
from topolearn.learners import EdgeLearner

TINY = {
    # One candidate: nothing to choose, but every formula must stand it.
    "single": """
topolearn: 1
name: single
inputs: {image: [2, 6, 6]}
nodes:
  a: {op: conv_bn_relu, out_channels: 3}
  head: {op: classifier, classes: 3}
edges:
  - {from: image, to: a}
  - {from: a, to: head, learnable: true}
outputs: [head]
""",
    # Fixed edges beside learnable ones, weights other than 1, every aggregate, several shapes, two outputs.
    "mixed": """
topolearn: 1
name: mixed
inputs: {image: [3, 8, 8]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 4}
  a: {op: conv_bn_relu, out_channels: 4, aggregate: sum}
  b: {op: resnet.basic, channels: 6, stride: 2, aggregate: mean}
  c: {op: relu_conv_bn, out_channels: 6, aggregate: normalised}
  d: {op: conv_bn_relu, out_channels: 6, aggregate: mean}
  aside: {op: classifier, classes: 2}
  head: {op: classifier, classes: 3}
edges:
  - {from: image, to: stem}
  - {from: stem, to: a, weight: 0.5}
  - {from: stem, to: b, learnable: true}
  - {from: a, to: b, weight: -0.75}
  - {from: stem, to: c, op: align, learnable: true}
  - {from: a, to: c, op: project, learnable: true}
  - {from: b, to: c, learnable: true, weight: 0.5}
  - {from: a, to: d, op: project, learnable: true}
  - {from: b, to: d, learnable: true}
  - {from: c, to: d, learnable: true}
  - {from: b, to: aside}
  - {from: d, to: head}
outputs: [aside, head]
""",
    # A branch-level ResNeXt module, its projection shared and its scale bound to the fan-in.
    "branches": """
topolearn: 1
name: branches
inputs: {image: [2, 6, 6]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 4}
  a[1..3]: {op: resnext.branch, width: 2, out_channels: 4, residual_scale: fan_in}
  b[1..3]:
    {op: resnext.branch, width: 2, out_channels: 6, stride: 2, residual_scale: fan_in, aggregate: mean,
     share: {projection: stage2}}
  join: {op: relu, aggregate: mean}
  head: {op: classifier, classes: 3}
edges:
  - {from: stem, to: "a[1..3]"}
  - {from: image, to: stem}
  - {connect: bipartite, from: "a[1..3]", to: "b[1..3]", learnable: true}
  - {connect: bipartite, from: "b[1..3]", to: [join]}
  - {from: join, to: head}
outputs: [head]
""",
    # A dense decoder: maps of several sizes, resized on the way.
    "decoder": """
topolearn: 1
name: decoder
task: segmentation
inputs: {image: [3, 8, 8]}
nodes:
  e1: {op: conv_bn_relu, out_channels: 4}
  e2: {op: conv_bn_relu, out_channels: 6, stride: 2}
  pool: {op: global_avg_pool}
  d2: {op: identity, input: {channels: 4, stride: 2}}
  d1: {op: identity, input: {channels: 4, stride: 1}}
  head: {op: segmentation_head, classes: 3}
edges:
  - {from: image, to: e1}
  - {from: e1, to: e2}
  - {from: e2, to: pool}
  - {connect: bipartite, from: [e2, pool], to: [d2], op: conv_resize, learnable: true}
  - {connect: bipartite, from: [e1, e2, pool, d2], to: [d1], op: conv_resize, learnable: true}
  - {from: d1, to: head}
outputs: [head]
""",
}


def vectors(sources: int = 6, features: int = 4, aggregate: str = "mean") -> Graph:
    """``sources`` input vectors, all candidates of one linear node."""
    names = [f"s{i}" for i in range(sources)]
    nodes = [Node(name, "input", {"size": (features,)}) for name in names]
    nodes.append(Node("mix", "linear", {"out_features": 1}, aggregate))
    edges = tuple(Edge(name, "mix", learnable=True) for name in names)
    return Graph("vectors", nodes, edges, ("mix",)).declare_inputs().verify()


def complete(count: int, op: str = "identity", aggregate: str = "sum") -> Graph:
    """Nodes of one op on 3 x 4 x 4 maps, completely connected from the input on, then a classifier."""
    names = [f"n{i}" for i in range(1, count + 1)]
    params = {"out_channels": 3} if "conv" in op else {}
    nodes = [Node("image", "input", {"size": (3, 4, 4)})]
    nodes += [Node(name, op, params, aggregate) for name in names]
    nodes.append(Node("head", "classifier", {"classes": 3}))
    chain = ["image", *names]
    edges = [Edge(chain[i], chain[j], learnable=True) for j in range(1, len(chain)) for i in range(j)]
    return Graph("complete", nodes, (*edges, Edge(names[-1], "head")), ("head",)).declare_inputs().verify()


@cache
def graph(name: str) -> Graph:
    """A tiny graph or a shipped one, by name."""
    if name == "vectors":
        return vectors()
    return loads(TINY[name]) if name in TINY else load_graph(name)


def _shipped() -> list[str]:
    """Shipped graphs with learnable edges that are small enough to train here."""
    found = []
    for name in library.names("graphs"):
        candidate = graph(name)
        if candidate.candidates and candidate.cost.macs < 1e9 and candidate.cost.params < 30e6:
            found.append(name)
    return found


GRAPHS = ["vectors", *TINY, *_shipped()]


def batch(graph: Graph, seed: int = 0, count: int = 2, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Random inputs by id; images of at most 16 x 16 pixels, texts of at most 16 tokens."""
    numbers = torch.Generator().manual_seed(seed)
    given: dict[str, Tensor] = {}
    for name in graph.inputs:
        vocabulary = graph.input_rule(name).vocabulary
        if vocabulary is not None:
            given[name] = torch.randint(vocabulary, (count, min(16, *graph.input_size(name))), generator=numbers)
            continue
        channels, *grid = graph.input_size(name)
        given[name] = torch.randn(count, channels, *(min(16, side) for side in grid), generator=numbers).to(dtype)
    return given


def loss_of(outputs: Tensor | dict[str, Tensor]) -> Tensor:
    """Some loss that depends on every output, with gradients of either sign."""
    given = [outputs] if isinstance(outputs, Tensor) else list(outputs.values())
    target = [torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y) for y in given]
    return torch.stack([(y - t).square().mean() for y, t in zip(given, target, strict=True)]).sum()


def network(graph: Graph, learner: EdgeLearner, seed: int = 0) -> Network:
    """The compiled network, the same weights for the same seed."""
    torch.manual_seed(seed)
    return Network(graph, learner)


def step(net: Network, chosen: list[Optimizer], seed: int = 0) -> float:
    """One training step as someone with a loop of their own would write it."""
    assert net.learner is not None
    loss = loss_of(net(**batch(net.graph, seed))) + net.learner.penalty()
    loss.backward()
    for optimizer in chosen:
        optimizer.step()
        optimizer.zero_grad()
    net.learner.after_step()
    return float(loss.detach())


def trained(name: str, learner: EdgeLearner, steps: int, lr: float = 0.05) -> Network:
    """A network after some steps."""
    net = network(graph(name), learner)
    chosen = optimizers(net, lr=lr)
    for number in range(steps):
        step(net, chosen, number)
    return net
