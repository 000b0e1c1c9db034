"""Step of a segmentation network: search by the reference interpreter and the compiler, and what is learned.

    python -m benchmarks.segmentation [--graph fdn-mobilenetv2-voc] [--final sparsemask-mobilenetv2-voc] [--size 513]

A search step is forward (every gate noisy), backward, SGD on weights and gates of SparseMask; the learned network
has none. The backbone starts at random. Prints the median time, its ratio to the reference interpreter, and the peak
memory of a process that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import topolearn
from benchmarks.machine import describe, median_times, peak_memory_in_child, peak_of, training_step
from topolearn.compiler.modules.backbone import without_pretrained_weights
from topolearn.ops import Shape

VARIANTS = ("search, reference", "search", "all edges, no gates", "learned")


def make_step(variant: str, args: argparse.Namespace) -> Callable[[], object]:
    """A training step of one variant."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    graph = topolearn.load_graph(args.final if variant == "learned" else args.graph)
    learner = topolearn.learners.SparseMask(graph) if variant.startswith("search") else None
    with without_pretrained_weights():
        net = topolearn.compile(graph, learner, reference=variant.endswith("reference"))
    net.to(device)
    shape = graph.shapes[graph.outputs[0]]
    assert isinstance(shape, Shape)
    images = torch.randn(args.batch, 3, args.size, args.size, device=device)
    targets = torch.randint(shape.channels, (args.batch, args.size, args.size), device=device)
    return training_step(net, learner, images, targets, loss_of=full_size_loss)


def full_size_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy at the labels' size."""
    return F.cross_entropy(F.interpolate(logits, targets.shape[1:], mode="bilinear", align_corners=True), targets)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", default="fdn-mobilenetv2-voc")
    parser.add_argument("--final", default="sparsemask-mobilenetv2-voc")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=513)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(peak_of(make_step(args.peak, args), torch.device(args.device)))
        return
    device = torch.device(args.device)
    times = median_times({v: make_step(v, args) for v in VARIANTS}, device, args.rounds)
    forwarded = ["--graph", args.graph, "--final", args.final, "--batch", str(args.batch)]
    forwarded += ["--size", str(args.size), "--device", args.device]
    print(f"{args.graph} and {args.final}, batch {args.batch}, {args.size} x {args.size}")
    print(describe(device))
    print()
    print("| variant | step, ms | speed over the reference | peak memory, MiB |")
    print("|---|---|---|---|")
    base = times[VARIANTS[0]]
    for variant in VARIANTS:
        memory = peak_memory_in_child("benchmarks.segmentation", [*forwarded, "--peak", variant])
        print(f"| {variant} | {times[variant] * 1e3:.0f} | {base / times[variant]:.1f} | {memory:.0f} |")


if __name__ == "__main__":
    main()
