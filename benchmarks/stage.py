"""Time the training step of one complete stage: chain of its nodes, search, pruned stage, the same wiring by hand.

    python -m benchmarks.stage [--nodes 12] [--channels 16] [--op conv] [--batch 64] [--device cpu] [--skip VARIANT]

The stage has n nodes (relu, convolution, batch normalisation). Every node reads every earlier one with a real weight.
The chain and the wiring by hand are plain PyTorch. One step is forward, backward and SGD, also on the edge weights in a
search. Prints the median time, its ratio to the chain, and the peak memory of a process that runs only this variant.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

import topolearn
from benchmarks.side_by_side import COMPILED, Subject, compare_steps
from topolearn.graph import Edge, Graph, Node

VARIANTS = (
    "plain chain",
    "search, reference",
    "search",
    f"search, {COMPILED}",
    "pruned to a third",
    "pruned to a third, by hand",
)
CLASSES = 10


def stage(nodes: int, channels: int, op: str) -> Graph:
    """Build a graph of a stem, the complete stage and a head."""
    names = ["stem", *(f"node{i}" for i in range(1, nodes + 1)), "out"]
    made = [
        Node("image", "input", {"size": (3, 32, 32)}),
        Node("stem", "conv_bn", {"out_channels": channels}),
        *(Node(name, f"relu_{op}_bn", {"out_channels": channels, "affine": False}) for name in names[1:-1]),
        Node("out", "identity"),
        Node("head", "classifier", {"classes": CLASSES}),
    ]
    edges = [Edge("image", "stem"), Edge("out", "head")]
    edges += [Edge(a, b, learnable=True) for j, b in enumerate(names) for a in names[:j]]
    return Graph("stage", made, edges, ("head",)).declare_inputs().verify()


def wiring(nodes: int) -> list[list[int]]:
    """Draw the sources of node 1 to the output, counted from the stem: the one before, and a third of the others."""
    numbers = random.Random(0)
    return [[i for i in range(j) if i == j - 1 or numbers.random() < 1 / 3] for j in range(1, nodes + 2)]


class Unit(nn.Sequential):
    """A node of the stage: relu, convolution, batch normalisation."""

    def __init__(self, channels: int, op: str) -> None:
        depthwise = [nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)]
        full = [nn.Conv2d(channels, channels, 3, padding=1, bias=False)]
        convolution = [*depthwise, nn.Conv2d(channels, channels, 1, bias=False)] if op == "sepconv" else full
        super().__init__(nn.ReLU(), *convolution, nn.BatchNorm2d(channels, affine=False))


class Wired(nn.Module):
    """A stage written by hand: each unit reads the weighted sum of its sources."""

    def __init__(self, units: Sequence[nn.Module], sources: list[list[int]], weight: float) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.sources = sources
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for number, sources in enumerate(self.sources):
            total = self.weight * values[sources[0]]
            for source in sources[1:]:
                total = total + self.weight * values[source]
            values.append(self.units[number](total) if number < len(self.units) else total)
        return values[-1]


def plain(middle: nn.Module, channels: int) -> nn.Module:
    """Put ``middle`` between a stem and a head."""
    stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))
    return nn.Sequential(stem, middle, head)


def build(variant: str, args: argparse.Namespace) -> Subject:
    """Build one variant."""
    graph = stage(args.nodes, args.channels, args.op)
    units = [Unit(args.channels, args.op) for _ in range(args.nodes)]
    sources = wiring(args.nodes)
    learner = None
    net: nn.Module
    if variant == "plain chain":
        net = plain(nn.Sequential(*units), args.channels)
    elif variant.endswith("by hand"):
        net = plain(Wired(units, sources, 0.5), args.channels)
    elif variant.startswith("pruned"):
        stage_nodes = ["stem", *(f"node{i}" for i in range(1, args.nodes + 1)), "out"]
        kept = {(stage_nodes[i], stage_nodes[j]) for j, read in enumerate(sources, 1) for i in read}
        weights = [0.5 * ((e.src, e.dst) in kept) if e.learnable else 1.0 for e in graph.edges]
        searched = topolearn.compile(graph)
        searched.set_edge_weights(weights)
        net = topolearn.prune(searched)
    else:
        learner = topolearn.learners.Continuous(graph)
        net = topolearn.compile(graph, learner, reference=variant.endswith("reference"))
    return Subject(net, learner, torch.randn(args.batch, 3, 32, 32), torch.randint(CLASSES, (args.batch,)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=12)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--op", choices=("conv", "sepconv"), default="conv")
    parser.add_argument("--batch", type=int, default=64)
    compare_steps(
        parser,
        VARIANTS,
        build,
        lambda args: (
            f"complete stage of {args.nodes} nodes, {args.op}, {args.channels} channels, 32 x 32, batch {args.batch}"
        ),
        {"ratio to the chain": VARIANTS[0]},
    )


if __name__ == "__main__":
    main()
