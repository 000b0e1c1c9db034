"""Tools of all benchmarks: describe the machine, measure time and memory."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topolearn
from topolearn.learners import EdgeLearner
from topolearn.training.memory import kept_memory


def place(device: torch.device) -> str:
    """Return the processor, the threads that PyTorch uses, and a GPU's name."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            name = next(line.split(":")[1].strip() for line in info if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    where = f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return f"{torch.cuda.get_device_name(device)} ({where})" if device.type == "cuda" else where


def describe(device: torch.device) -> str:
    """Return one line about the machine and the versions."""
    return f"{place(device)}; torch {torch.__version__}, Python {platform.python_version()}"


def times_by_round(steps: dict[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Measure the seconds of each step in each round.

    The steps take turns, so that a busy machine slows all alike. Freed memory is kept, as in training.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    with kept_memory() if device.type == "cpu" else contextlib.nullcontext():
        for step in steps.values():
            step()
        for _ in range(rounds):
            for name, step in steps.items():
                gc.collect()
                synchronise(device)
                start = time.perf_counter()
                step()
                synchronise(device)
                times[name].append(time.perf_counter() - start)
    return times


def median_ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Return how many times as long as the base a step takes: the median over rounds of the ratio within a round.

    If the machine's speed changes between rounds, both change alike. So this says more than the ratio of two medians.
    """
    return statistics.median(one / other for one, other in zip(times, base, strict=True))


def training_step(
    net: nn.Module,
    learner: EdgeLearner | None,
    images: Tensor,
    targets: Tensor,
    *,
    bf16: bool = False,
    loss_of: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    optimizer: str = "sgd",
) -> Callable[[], None]:
    """Return a function that takes a training step: forward, backward, and update of the weights and of the learner.

    Args:
        net: The network, on the device of the images. Its interpreter may be compiled.
        learner: The learner that is trained with it; None for none.
        images: (N, C, H, W).
        targets: (N,) classes, or (N, H, W) if ``loss_of`` takes them.
        bf16: Whether the forward pass runs under autocast to bfloat16.
        loss_of: Loss from (outputs in float32, targets). The learner's penalty is added to it.
        optimizer: ``sgd``, with momentum 0.9, or ``adamw``.
    """
    optimizers = topolearn.optimizers(net, lr=0.01 if optimizer == "sgd" else 1e-3, name=optimizer)
    autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=bf16)
    net.train()

    def step() -> None:
        with autocast:
            loss = loss_of(net(images).float(), targets)
            if learner is not None:
                loss = loss + learner.penalty()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        if learner is not None:
            learner.after_step()

    return step


def peak_of(step: Callable[[], object], device: torch.device) -> float:
    """Measure the peak MiB of three steps in this process; on a GPU, what was allocated there."""
    with kept_memory() if device.type == "cpu" else contextlib.nullcontext():
        for _ in range(3):
            step()
    return torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else resident_peak()


def peak_memory_in_child(module: str, arguments: list[str]) -> float:
    """Return the peak resident MiB of ``python -m module arguments``, which prints it as its last line."""
    out = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=True)
    return float(out.stdout.strip().splitlines()[-1])


def resident_peak() -> float:
    """Return the peak resident MiB of this process.

    It is read from /proc, because a child's ``ru_maxrss`` also counts what its parent held when the child started.
    """
    with open("/proc/self/status", encoding="utf-8") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
