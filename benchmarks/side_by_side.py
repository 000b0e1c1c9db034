"""Time training steps side by side: the options, the turns and the table that several benchmarks share."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.machine import describe, median_ratio, peak_memory_in_child, peak_of, times_by_round, training_step
from topolearn.learners import EdgeLearner

COMPILED = "torch.compile"
"""If the name of a variant ends with this, its interpreter is compiled."""


@dataclass(frozen=True)
class Subject:
    """A network with all that its training step needs.

    Attributes:
        net: The network.
        learner: The learner that is trained with it; None if nothing is searched.
        images: A batch.
        targets: Its labels.
        loss_of: Loss from outputs and targets.
        optimizer: Optimiser of the weights, ``sgd`` or ``adamw``.
    """

    net: nn.Module
    learner: EdgeLearner | None
    images: Tensor
    targets: Tensor
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    optimizer: str = "sgd"


def compare_steps(
    parser: argparse.ArgumentParser,
    variants: Sequence[str],
    build: Callable[[str, argparse.Namespace], Subject],
    title: Callable[[argparse.Namespace], str],
    ratios: Mapping[str, str],
) -> dict[str, list[float]]:
    """Run a benchmark of training steps and print its table: median time, ratios, peak memory.

    Args:
        parser: A parser with the benchmark's own options. The options of all benchmarks are added.
        variants: Names of the variants, in the order of the table.
        build: Builds a variant. The random seed is the same for each.
        title: Makes the first line of the output.
        ratios: Heading of a column -> the variant that is 1 in it.

    Returns:
        Variant -> seconds of a step in each round; empty in the child processes, which measure memory.
    """
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--channels-last", action="store_true")
    optional = [variant for variant in variants if variant not in ratios.values()]
    parser.add_argument("--skip", action="append", default=[], choices=optional, help="leave a variant out")
    parser.add_argument("--peak", choices=variants, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)

    def step(variant: str) -> Callable[[], object]:
        torch.manual_seed(0)
        subject = build(variant, args)
        net, images = subject.net.to(device), subject.images.to(device)
        if args.channels_last:
            net.to(memory_format=torch.channels_last)
            images = images.to(memory_format=torch.channels_last)
        if variant.endswith(COMPILED):
            net.__dict__["dag"] = torch.compile(net.dag)
        targets = subject.targets.to(device)
        loss_of, optimizer = subject.loss_of, subject.optimizer
        return training_step(
            net, subject.learner, images, targets, bf16=args.bf16, loss_of=loss_of, optimizer=optimizer
        )

    if args.peak:
        print(peak_of(step(args.peak), device))
        return {}
    chosen = [variant for variant in variants if variant not in args.skip]
    times = times_by_round({variant: step(variant) for variant in chosen}, device, args.rounds)
    print(title(args))
    print(f"{describe(device)}; median of {args.rounds} rounds")
    print()
    print(f"| variant | step, ms | {' | '.join(ratios)} | peak memory, MiB |")
    print("|---|---|" + "---|" * len(ratios) + "---|")
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "run it as python -m benchmarks.NAME"
    for variant in chosen:
        shares = " | ".join(f"{median_ratio(times[variant], times[base]):.2f}" for base in ratios.values())
        memory = peak_memory_in_child(spec.name, [*sys.argv[1:], "--peak", variant])
        print(f"| {variant} | {statistics.median(times[variant]) * 1e3:.0f} | {shares} | {memory:.0f} |")
    return times
