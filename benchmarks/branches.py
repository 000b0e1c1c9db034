"""Time the search step of a ResNeXt of branches: masks fixed, masks learned, branch by branch, and plain grouped.

    python -m benchmarks.branches [--graph resnext29-8x8-cifar100] [--fan-in 4] [--batch 32] [--device cpu]

One step is forward, backward, and SGD on the weights and, in a search, on the masks. Prints the median time, its
ratios to the same network with fixed masks and to the plain grouped ResNeXt, and the peak memory of a process that
runs only this variant.
"""

from __future__ import annotations

import argparse
import random
import re

import torch
from torch import nn

import topolearn
from benchmarks.plain import resnext
from benchmarks.side_by_side import Subject, compare_steps
from topolearn.graph import Graph

VARIANTS = ("plain grouped ResNeXt", "fixed masks", "learned masks", "learned masks, branch by branch")


def random_masks(graph: Graph, fan_in: int) -> list[float]:
    """Return (E,) weights that keep ``fan_in`` random candidates per branch."""
    numbers = random.Random(0)
    weights = [0.0 if edge.learnable else edge.weight for edge in graph.edges]
    for node in graph.nodes:
        learnable = [i for i in graph.in_edges(node) if graph.edges[i].learnable]
        for i in numbers.sample(learnable, min(fan_in, len(learnable))):
            weights[i] = 1.0
    return weights


def build(variant: str, args: argparse.Namespace) -> Subject:
    """Build one variant."""
    graph = topolearn.load_graph(args.graph)
    learner = None
    net: nn.Module
    if variant == VARIANTS[0]:
        match = re.match(r"resnext(\d+)-(\d+)x(\d+)-cifar", args.graph)
        if match is None:
            raise SystemExit(f"no plain network to compare {args.graph} with; take a CIFAR ResNeXt")
        net = resnext(*(int(number) for number in match.groups()), classes=100)
    else:
        learner = topolearn.learners.MaskConnect(graph, fan_in=args.fan_in)
        compiled = net = topolearn.compile(graph, learner, reference=variant.endswith("branch by branch"))
        if variant == "fixed masks":
            compiled.set_edge_weights(random_masks(graph, args.fan_in))
    images = torch.randn(args.batch, *graph.input_size(graph.inputs[0]))
    return Subject(net, learner, images, torch.randint(100, (args.batch,)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", default="resnext29-8x8-cifar100")
    parser.add_argument("--fan-in", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    compare_steps(
        parser,
        VARIANTS,
        build,
        lambda args: f"{args.graph}, K={args.fan_in}, batch {args.batch}",
        {"ratio to fixed masks": VARIANTS[1], "ratio to plain": VARIANTS[0]},
    )


if __name__ == "__main__":
    main()
