"""Train in one process and in several, in turns: how much faster are several?

    python -m benchmarks.scale [--graph resnet38-cifar100] [--batch 64] [--steps 8] [--rounds 3] [--processes 2]

Each run is a search by MaskConnect on random images, of two epochs; the second one counts. All cores are used by one
process with as many threads, or by as many processes with one thread each. Efficiency is the speed compared with one
process and one thread, divided by the number of cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

import torch

import topolearn
from benchmarks.machine import describe
from topolearn.distributed import is_main

CHILD = "TOPOLEARN_SCALE"
"""Environment variable of the processes that train."""


def train(args: argparse.Namespace) -> None:
    """Train, and print the images per second of the last epoch."""
    graph = topolearn.load_graph(args.graph)
    count = args.batch * args.steps
    images = torch.randn(count, *graph.input_size(graph.inputs[0]))
    train_set = torch.utils.data.TensorDataset(images, torch.randint(10, (count,)))
    few = torch.utils.data.Subset(train_set, range(args.batch))
    result = topolearn.fit(
        graph,
        "maskconnect",
        (train_set, few),
        epochs=2,
        batch_size=args.batch,
        device="cpu",
        training={"phases": {"search": 1, "fine_tune": 0}},
        quiet=True,
    )
    if is_main():
        print(next(each["images_per_second"] for each in reversed(result.history) if "images_per_second" in each))


def speed(processes: int, threads: int) -> float:
    """Run the training in processes of its own; return its images per second."""
    command = [sys.executable, "-m"]
    if processes > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    environment = os.environ | {CHILD: "1", "OMP_NUM_THREADS": str(threads)}
    command += ["benchmarks.scale", *sys.argv[1:]]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ran.returncode:
        sys.exit(ran.stderr)
    return float(ran.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", default="resnet38-cifar100")
    parser.add_argument("--batch", type=int, default=64, help="images of a step, over all processes")
    parser.add_argument("--steps", type=int, default=8, help="steps of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if CHILD in os.environ:
        train(args)
        return
    cores = args.processes
    ways = {
        "one process, one thread": (1, 1),
        f"one process, {cores} threads": (1, cores),
        f"{cores} processes, one thread each": (cores, 1),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            speeds[name].append(speed(*way))
    alone = next(iter(speeds.values()))
    print(f"{args.graph}, batch {args.batch}")
    print(f"{describe(torch.device('cpu'))}; median of {args.rounds} rounds")
    print()
    print("| how | images per second | ratio to one thread | efficiency |")
    print("|---|---:|---:|---:|")
    for name, found in speeds.items():
        ratio = statistics.median(one / base for one, base in zip(found, alone, strict=True))
        used = max(ways[name])
        print(f"| {name} | {statistics.median(found):.0f} | {ratio:.2f} | {ratio / used:.2f} |")


if __name__ == "__main__":
    main()
