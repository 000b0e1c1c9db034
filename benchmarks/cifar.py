"""Measure images per second on CIFAR-100: the plain network and the search, in the training pipeline.

    python -m benchmarks.cifar [--graph resnet38-cifar100] [--device auto] [--batch 128] [--rounds 7] [--data-root DIR]

Images lie on the device as uint8. Each batch is gathered, cropped, flipped and normalised there, and trained on with
the step that `fit` takes. A GPU runs bfloat16, channels last and the fused optimiser, with and without `torch.compile`
and a CUDA graph. A CPU runs float32, with freed memory kept and given back. Without the data set, random images are
used. Prints a Markdown table. The sides take turns, and the figures are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

import topolearn
from benchmarks.machine import describe, peak_memory_in_child, resident_peak, synchronise
from benchmarks.plain import resnet, resnext
from topolearn.data import Augment, Data, DataInfo, TensorData, load_data
from topolearn.errors import DataError
from topolearn.training.memory import kept_memory
from topolearn.training.step import TrainingStep

IMAGES = 50_000
MODELS = ("plain network", "search")
PLAIN: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet38-cifar100": (lambda: resnet(6, 100), 10),
    "resnext20-4x8-cifar100": (lambda: resnext(20, 4, 8, 100), 4),
    "resnext29-8x8-cifar100": (lambda: resnext(29, 8, 8, 100), 4),
}
"""Graph -> a function that builds the same network without topolearn, and the K of its search."""


@dataclass(frozen=True)
class Side:
    """One side of the comparison: a model, and how it runs."""

    model: str
    compile: bool = False
    cuda_graph: bool = False
    keeps_memory: bool = True

    @property
    def how(self) -> str:
        if not self.keeps_memory:
            return "freed memory given back"
        return " + ".join([name for name in ("compile", "cuda_graph") if getattr(self, name)]) or "as fit runs it"


def sides(device: torch.device) -> list[Side]:
    """Return all sides; each plain network stands before its search."""
    if device.type == "cuda":
        ways = itertools.product((False, True), (False, True))
        return [Side(model, compiled, captured) for compiled, captured in ways for model in MODELS]
    return [Side(model, keeps_memory=kept) for kept in (True, False) for model in MODELS]


def read_data(root: str | None) -> Data:
    """Read CIFAR-100, or make random images if it is not there."""
    try:
        return load_data("cifar100", root=root)
    except DataError:
        numbers = torch.Generator().manual_seed(0)
        images = torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=numbers)
        labels = torch.randint(100, (IMAGES,), generator=numbers)
        info = DataInfo(
            "random images", "classification", tuple(map(str, range(100))), (3, 32, 32), (0.5,) * 3, (0.25,) * 3
        )
        return TensorData(info, (images, labels), (images[:1], labels[:1]), augment=Augment(pad=4, flip=True))


def make(side: Side, data: Data, args: argparse.Namespace) -> Callable[[], object]:
    """Return a function that takes one training step of a side."""
    torch.manual_seed(0)
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    learner = None
    build, fan_in = PLAIN[args.graph]
    if side.model == MODELS[0]:
        net = build()
    else:
        graph = topolearn.load_graph(args.graph)
        learner = topolearn.learners.MaskConnect(graph, fan_in=fan_in)
        net = topolearn.compile(graph, learner)
    net.to(device).train()
    if on_gpu:
        net.to(memory_format=torch.channels_last)
    optimizers = topolearn.optimizers(net, lr=0.01, momentum=0.9, weight_decay=1e-4)
    step = TrainingStep(
        net=net,
        loss=lambda outputs, targets: F.cross_entropy(outputs.float(), targets),
        optimizers=optimizers,
        learner=learner,
        precision="bfloat16" if on_gpu else "float32",
        channels_last=on_gpu,
        captured=side.cuda_graph,
    )
    if side.compile and learner is None:
        net.compile()
    elif side.compile:
        net.__dict__["dag"] = torch.compile(net.dag)
    batches = _batches(data, args.batch)
    numbers = itertools.count()

    def take() -> None:
        images, targets = next(batches)
        step(images, targets, factor=1.0, seed=next(numbers))

    return take


def _batches(data: Data, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for epoch in itertools.count():
        yield from data.train_batches(size, seed=0, epoch=epoch)


def memory(side: Side, device: torch.device) -> contextlib.AbstractContextManager[None]:
    return kept_memory() if side.keeps_memory and device.type == "cpu" else contextlib.nullcontext()


def measure(data: Data, args: argparse.Namespace) -> dict[Side, float]:
    """Measure the images per second of all sides."""
    device = torch.device(args.device)
    steps = {side: make(side, data, args) for side in sides(device)}
    times: dict[Side, list[float]] = {side: [] for side in steps}
    for number in range(args.rounds + 1):
        for side, step in steps.items():
            with memory(side, device):
                gc.collect()
                step()  # compiles, captures, and gets memory from the system
                synchronise(device)
                start = time.perf_counter()
                for _ in range(args.steps):
                    step()
                synchronise(device)
                if number:  # the first round is for warming up
                    times[side].append(time.perf_counter() - start)
    return {side: args.steps * args.batch / statistics.median(taken) for side, taken in times.items()}


def peak(place: int, args: argparse.Namespace) -> float:
    """Measure the peak MiB of a few steps in this process (on a GPU: allocated there)."""
    device = torch.device(args.device)
    side = sides(device)[place]
    data = read_data(args.data_root).to(device)
    with memory(side, device):
        step = make(side, data, args)
        for _ in range(args.steps + 1):
            step()
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident_peak()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", choices=PLAIN, default="resnet38-cifar100")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="steps per turn")
    parser.add_argument("--data-root")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.peak is not None:
        print(peak(args.peak, args))
        return
    device = torch.device(args.device)
    data = read_data(args.data_root).to(device)
    rates = measure(data, args)
    given = ["--graph", args.graph, "--device", args.device, "--batch", str(args.batch), "--steps", str(args.steps)]
    given += ["--data-root", args.data_root] if args.data_root else []
    fan_in = PLAIN[args.graph][1]
    print(f"{args.graph}, K = {fan_in}, batch {args.batch}, {data.info.name}; medians of {args.rounds} rounds")
    print(describe(device))
    print()
    print("| | how | images per second | time, plain = 1 | peak memory, MiB |")
    print("|---|---|---|---|---|")
    for place, (side, rate) in enumerate(rates.items()):
        plain = next(other for each, other in rates.items() if each.how == side.how and each.model == MODELS[0])
        most = peak_memory_in_child("benchmarks.cifar", [*given, "--peak", str(place)])
        print(f"| {side.model} | {side.how} | {rate:,.0f} | {plain / rate:.2f} | {most:,.0f} |")


if __name__ == "__main__":
    main()
