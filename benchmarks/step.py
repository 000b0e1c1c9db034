"""Search step of ResNet-38: plain chain, reference interpreter, compiler, compiler under torch.compile.

    python -m benchmarks.step [--batch 128] [--rounds 7] [--device cpu] [--no-compile] [--channels-last]

One step is forward, backward, SGD on the weights and, in a search, on the masks. Prints the median
time, its ratio to the plain chain, and the peak memory of a process that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import topolearn
from benchmarks.machine import describe, median_times, peak_memory_in_child, peak_of, training_step
from benchmarks.plain import resnet

VARIANTS = ("plain chain", "reference", "compiler", "compiler, torch.compile")


def make_step(variant: str, args: argparse.Namespace) -> Callable[[], object]:
    """A training step of one variant."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    graph = topolearn.load_graph("resnet38-cifar100")
    learner = None
    if variant == "plain chain":
        net = resnet(6, 100)
    else:
        learner = topolearn.learners.MaskConnect(graph, fan_in=args.fan_in)
        net = topolearn.compile(graph, learner, reference=variant == "reference")
    net.to(device)
    images = torch.randn(args.batch, 3, 32, 32, device=device)
    if args.channels_last:
        net.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    targets = torch.randint(100, (args.batch,), device=device)
    if variant.endswith("torch.compile"):
        net.__dict__["dag"] = torch.compile(net.dag)
    return training_step(net, learner, images, targets, bf16=args.bf16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--fan-in", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(peak_of(make_step(args.peak, args), torch.device(args.device)))
        return
    variants = [v for v in VARIANTS if not (args.no_compile and v.endswith("torch.compile"))]
    device = torch.device(args.device)
    times = median_times({v: make_step(v, args) for v in variants}, device, args.rounds)
    forwarded = ["--batch", str(args.batch), "--fan-in", str(args.fan_in), "--device", args.device]
    forwarded += [flag for flag, on in (("--bf16", args.bf16), ("--channels-last", args.channels_last)) if on]
    print(f"ResNet-38, complete graph across stages, K={args.fan_in}, batch {args.batch}, 32 x 32")
    print(describe(device))
    print()
    print("| variant | step, ms | ratio to the plain chain | peak memory, MiB |")
    print("|---|---|---|---|")
    base = times["plain chain"]
    for variant in variants:
        memory = peak_memory_in_child("benchmarks.step", [*forwarded, "--peak", variant])
        print(f"| {variant} | {times[variant] * 1e3:.0f} | {times[variant] / base:.2f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
