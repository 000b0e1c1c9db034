"""Search step of a ResNeXt by branches: masks fixed, masks learned, branch by branch, and plain grouped.

    python -m benchmarks.branches [--graph resnext29-8x8-cifar100] [--fan-in 4] [--batch 32] [--device cpu]

One step is forward, backward, SGD on the weights and, in a search, on the masks. Prints the median
time, its ratio to the same network with fixed masks and to the plain grouped ResNeXt, and the peak
memory of a process that does nothing else.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable

import torch

import topolearn
from benchmarks.machine import describe, median_times, peak_memory_in_child, peak_of, training_step
from benchmarks.plain import resnext
from topolearn.graph import Graph

VARIANTS = ("plain grouped ResNeXt", "fixed masks", "learned masks", "learned masks, branch by branch")


def random_masks(graph: Graph, fan_in: int) -> list[float]:
    """(E,) weights: ``fan_in`` random candidates per branch."""
    numbers = random.Random(0)
    weights = [0.0 if edge.learnable else edge.weight for edge in graph.edges]
    for node in graph.nodes:
        learnable = [i for i in graph.in_edges(node) if graph.edges[i].learnable]
        for i in numbers.sample(learnable, min(fan_in, len(learnable))):
            weights[i] = 1.0
    return weights


def make_step(variant: str, args: argparse.Namespace) -> Callable[[], object]:
    """A training step of one variant."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    graph = topolearn.load_graph(args.graph)
    learner = None
    net: torch.nn.Module
    if variant == "plain grouped ResNeXt":
        match = re.match(r"resnext(\d+)-(\d+)x(\d+)-cifar", args.graph)
        if match is None:
            raise SystemExit(f"no plain network to compare {args.graph} with; take a CIFAR ResNeXt")
        net = resnext(*(int(number) for number in match.groups()), classes=100)
    else:
        learner = topolearn.learners.MaskConnect(graph, fan_in=args.fan_in)
        net = topolearn.compile(graph, learner, reference=variant.endswith("branch by branch"))
        if variant == "fixed masks":
            net.set_edge_weights(random_masks(graph, args.fan_in))
    net.to(device)
    images = torch.randn(args.batch, *graph.input_size(graph.inputs[0]), device=device)
    if args.channels_last:
        net.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    targets = torch.randint(100, (args.batch,), device=device)
    return training_step(net, learner, images, targets, bf16=args.bf16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graph", default="resnext29-8x8-cifar100")
    parser.add_argument("--fan-in", type=int, default=4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--skip-reference", action="store_true", help="do not time branch by branch")
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(peak_of(make_step(args.peak, args), torch.device(args.device)))
        return
    variants = VARIANTS[:-1] if args.skip_reference else VARIANTS
    device = torch.device(args.device)
    times = median_times({v: make_step(v, args) for v in variants}, device, args.rounds)
    forwarded = ["--graph", args.graph, "--fan-in", str(args.fan_in), "--batch", str(args.batch)]
    forwarded += ["--device", args.device]
    forwarded += [flag for flag, on in (("--bf16", args.bf16), ("--channels-last", args.channels_last)) if on]
    print(f"{args.graph}, K={args.fan_in}, batch {args.batch}")
    print(describe(device))
    print()
    print("| variant | step, ms | ratio to fixed masks | ratio to plain | peak memory, MiB |")
    print("|---|---|---|---|---|")
    plain, fixed = times[VARIANTS[0]], times[VARIANTS[1]]
    for variant in variants:
        memory = peak_memory_in_child("benchmarks.branches", [*forwarded, "--peak", variant])
        time = times[variant]
        print(f"| {variant} | {time * 1e3:.0f} | {time / fixed:.2f} | {time / plain:.1f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
