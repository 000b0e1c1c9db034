"""Problems in which one wiring is clearly right, and a search as ``fit`` does it, in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from topolearn import optimizers
from topolearn.compiler import Network
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.learners import EdgeLearner, SearchSchedule

Batch = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Problem:
    """A graph, and data that only some of its candidates explain.

    Attributes:
        graph: What is searched; every node with candidates should keep two.
        wiring: Node -> the candidates that carry its target.
        batch: A batch of inputs and of targets by output, from a generator.
        loss: Of one output.
    """

    graph: Graph
    wiring: Mapping[str, frozenset[str]]
    batch: Callable[[torch.Generator], Batch]
    loss: Callable[[Tensor, Tensor], Tensor]


def vectors(seed: int, common: float) -> Problem:
    """Two nodes read the mean of two of eight vectors each; all have ``common`` times one more vector in common.

    The part in common is worth knowing, but every candidate brings it.
    """
    graph = loads("""
topolearn: 1
name: planted-vectors
inputs: {s1: [4], s2: [4], s3: [4], s4: [4], s5: [4], s6: [4], s7: [4], s8: [4]}
nodes:
  left: {op: linear, out_features: 1, aggregate: mean}
  right: {op: linear, out_features: 1, aggregate: mean}
edges:
  - {connect: bipartite, from: ["s[1..8]"], to: [left, right], learnable: true}
outputs: [left, right]
""")
    wiring = {"left": frozenset({"s2", "s5"}), "right": frozenset({"s1", "s6"})}
    start = torch.Generator().manual_seed(1000 + seed)
    directions = {name: F.normalize(torch.randn(4, generator=start), dim=0) for name in wiring}

    def batch(numbers: torch.Generator) -> Batch:
        shared = common * torch.randn(64, 4, generator=numbers)
        inputs = {name: torch.randn(64, 4, generator=numbers) + shared for name in graph.inputs}
        targets = {}
        for name, sources in wiring.items():
            mean = torch.stack([inputs[source] for source in sorted(sources)]).mean(0)
            noise = 0.1 * torch.randn(64, generator=numbers)
            targets[name] = (mean @ directions[name] + noise)[:, None]
        return inputs, targets

    return Problem(graph, wiring, batch, F.mse_loss)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)


def halves(seed: int) -> Problem:
    """Six half images, a convolution on each: two show the digit to name, the others show other digits."""
    graph = loads("""
topolearn: 1
name: planted-halves
inputs: {i1: [1, 8, 8], i2: [1, 8, 8], i3: [1, 8, 8], i4: [1, 8, 8], i5: [1, 8, 8], i6: [1, 8, 8]}
nodes:
  branch[1..6]: {op: conv_bn_relu, out_channels: 8, stride: 2}
  join: {op: conv_bn_relu, out_channels: 16, stride: 2, aggregate: mean}
  head: {op: classifier, classes: 10}
edges:
  - {from: i1, to: branch1}
  - {from: i2, to: branch2}
  - {from: i3, to: branch3}
  - {from: i4, to: branch4}
  - {from: i5, to: branch5}
  - {from: i6, to: branch6}
  - {connect: bipartite, from: "branch[1..6]", to: [join], learnable: true}
  - {from: join, to: head}
outputs: [head]
""")
    images, labels = _digits()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1000 + seed)).tolist()
    left, right = order[:2]  # the first shows the left half of its digit, the second the right one

    def batch(numbers: torch.Generator) -> Batch:
        chosen = torch.randint(0, len(images), (6, 48), generator=numbers)
        chosen[right] = chosen[left]
        shown = images[chosen].clone()
        for place, which in enumerate(order):
            shown[which, ..., 4:] *= place % 2
            shown[which, ..., :4] *= 1 - place % 2
        return {f"i{k + 1}": shown[k] for k in range(6)}, {"head": labels[chosen[left]]}

    wiring = {"join": frozenset({f"branch{left + 1}", f"branch{right + 1}"})}
    return Problem(graph, wiring, batch, F.cross_entropy)


def search(problem: Problem, learner: EdgeLearner, *, seed: int, steps: int, lr: float = 0.05) -> dict[str, set[str]]:
    """Train with SGD and a cosine schedule; what each node of the wiring keeps."""
    torch.manual_seed(seed)
    net = Network(problem.graph, learner)
    factors = [0.5 * (1 + math.cos(math.pi * number / steps)) for number in range(steps)]
    learner.begin(SearchSchedule(steps, lr * sum(factors), lr, 0.9))
    chosen = optimizers(net, lr=lr)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in chosen]
    numbers = torch.Generator().manual_seed(seed)
    for factor in factors:
        for optimizer, peaks in zip(chosen, rates, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        inputs, targets = problem.batch(numbers)
        outputs = net(**inputs)
        given = {problem.graph.outputs[0]: outputs} if isinstance(outputs, Tensor) else outputs
        task = torch.stack([problem.loss(given[name], target) for name, target in targets.items()]).sum()
        (task + learner.penalty()).backward()
        for optimizer in chosen:
            optimizer.step()
            optimizer.zero_grad()
        learner.after_step()
    keep, edges = learner.topology().keep, problem.graph.edges
    return {node: {edges[i].src for i in problem.graph.in_edges(node) if keep[i]} for node in problem.wiring}
