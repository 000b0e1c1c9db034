"""Time the search step of ResNet-38: plain chain, reference interpreter, compiler, compiler with torch.compile.

    python -m benchmarks.step [--batch 128] [--rounds 7] [--device cpu] [--skip VARIANT] [--channels-last]

One step is forward, backward, and SGD on the weights and, in a search, on the masks. Prints the median time, its
ratio to the plain chain, and the peak memory of a process that runs only this variant.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn

import topolearn
from benchmarks.plain import resnet
from benchmarks.side_by_side import COMPILED, Subject, compare_steps

VARIANTS = ("plain chain", "reference", "compiler", f"compiler, {COMPILED}")


def build(variant: str, args: argparse.Namespace) -> Subject:
    """Build one variant."""
    graph = topolearn.load_graph("resnet38-cifar100")
    learner = None
    net: nn.Module
    if variant == "plain chain":
        net = resnet(6, 100)
    else:
        learner = topolearn.learners.MaskConnect(graph, fan_in=args.fan_in)
        net = topolearn.compile(graph, learner, reference=variant == "reference")
    return Subject(net, learner, torch.randn(args.batch, 3, 32, 32), torch.randint(100, (args.batch,)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--fan-in", type=int, default=10)
    compare_steps(
        parser,
        VARIANTS,
        build,
        lambda args: f"ResNet-38, complete graph across stages, K={args.fan_in}, batch {args.batch}, 32 x 32",
        {"ratio to the plain chain": VARIANTS[0]},
    )


if __name__ == "__main__":
    main()
