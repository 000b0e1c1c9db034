"""Kill runs at random moments, let them go on, and compare the results with those of runs left alone.

    python -m benchmarks.kills [--moments 50] [--seed 0] [--learner NAME …] [--way NAME …]

The ways:

- ``killed``: the process gets SIGKILL at any time;
- ``writing``: it gets SIGKILL just before it opens, renames or removes a file of its folder, or in mid-file;
- ``full disk``: files longer than a random size cannot be written;
- ``two processes``: two train together, and one of them gets SIGKILL.

A run is lost if it cannot go on, or starts again although it had a checkpoint. It differs if a file differs by a byte
from that of a run left alone, except for times. Prints both by learner and way, with the seed of each bad moment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import TensorDataset

import topolearn
from topolearn.errors import TopolearnError
from topolearn.format import loads

GRAPH = """
topolearn: 1
name: small
inputs: {image: [3, 8, 8]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 3}
  a[1..3]: {op: conv_bn_relu, out_channels: 3, aggregate: mean}
  head: {op: classifier, classes: 4, dropout: 0.2}
edges:
  - {from: image, to: stem}
  - {connect: complete, nodes: [stem, "a[1..3]"], learnable: true}
  - {connect: bipartite, from: "a[1..3]", to: [head], learnable: true}
outputs: [head]
"""
LEARNERS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "maskconnect": ({"name": "maskconnect"}, {"search": 3, "fine_tune": 2}),
    "continuous": ({"name": "continuous"}, {"search": 3, "fine_tune": 2}),
    "continuous, budget": ({"name": "continuous", "budget": {"macs": 0.7}}, {"search": 3, "fine_tune": 2}),
    "sparsemask": ({"name": "sparsemask"}, {"search": 3, "retrain": 2}),
    "fixed": ({"name": "fixed", "rule": "random"}, {}),
    "ablation": ({"name": "ablation", "budget": {"macs": 0.7}}, {"adapt": 3, "fine_tune": 2}),
}
"""Learner with its settings, and epochs of its phases."""
WAYS = ("killed", "writing", "full disk", "two processes")
TIMINGS = ("seconds", "images_per_second")
FAILED = 2
"""Exit status of a run that ended with a TopolearnError."""

Before = Callable[[], None]


def train(learner: str, out: Path) -> None:
    """Train in this process, or go on."""
    settings, phases = LEARNERS[learner]
    numbers = torch.Generator().manual_seed(0)

    def data(count: int) -> TensorDataset:
        return TensorDataset(
            torch.randn(count, 3, 8, 8, generator=numbers), torch.randint(4, (count,), generator=numbers)
        )

    topolearn.fit(
        loads(GRAPH),
        settings,
        (data(22), data(6)),
        epochs=5,
        batch_size=4,
        lr=0.05,
        device="cpu",
        out=out,
        resume=True,
        training={"checkpoint_steps": 2, "phases": phases},
        export=False,
    )


def start(learner: str, out: Path, before: Before = lambda: None, rank: dict[str, str] | None = None) -> int:
    """Fork a process that trains; return its id. What it prints is in a file beside ``out``."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(f"{out}.log", "w", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.environ.update(rank or {})
        before()
        train(learner, out)
        status = 0
    except TopolearnError:
        status = FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def wait(child: int) -> int:
    """Return how a process ended: its status, or the negative number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def together(learner: str, out: Path, kill: tuple[int, float] | None = None) -> list[int]:
    """Train in two processes; kill one of them (its rank, after some seconds). Return how both ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    children = [start(learner, out, rank={**place, "RANK": str(i), "LOCAL_RANK": str(i)}) for i in range(2)]
    if kill is not None:
        time.sleep(kill[1])
        os.kill(children[kill[0]], signal.SIGKILL)
    return [wait(child) for child in children]


def at_file_event(number: int, out: Path) -> Before:
    """Return a function that makes its process kill itself before the n-th change of a file in ``out``."""

    def before() -> None:
        seen = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(str(out)):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return before


def up_to(size: int, *, kills: bool) -> Before:
    """Return a function that limits the size of files: longer ones kill the process, or cannot be written."""

    def before() -> None:
        with open(os.devnull, "w", encoding="utf-8") as nothing:
            os.dup2(nothing.fileno(), 1)  # the limit holds for the log too
            os.dup2(nothing.fileno(), 2)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kills else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return before


def disturb(way: str, learner: str, out: Path, numbers: random.Random, seconds: float, largest: int) -> bool:
    """Run until it is disturbed; return whether it was."""
    if way == "two processes":
        return together(learner, out, (numbers.randrange(2), numbers.uniform(0, seconds)))[0:2] != [0, 0]
    if way == "killed":
        child = start(learner, out)
        time.sleep(numbers.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        return wait(child) != 0
    if way == "writing":
        # A run of this size changes files about 100 times.
        event, size = numbers.randrange(1, 100), numbers.randrange(1, largest)
        before = at_file_event(event, out) if numbers.random() < 0.7 else up_to(size, kills=True)
        return wait(start(learner, out, before)) != 0
    status = wait(start(learner, out, up_to(numbers.randrange(1, largest), kills=False)))
    assert status in (0, FAILED), f"a full disk ends a run with status {status}, not with one line"
    return status != 0


def content(folder: Path) -> dict[str, Any]:
    """Return what a finished run has left, without times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not name.startswith("tensorboard"):
            found[name] = path.read_bytes()
    records = [json.loads(line) for line in found["history.jsonl"].splitlines()]
    found["history.jsonl"] = [{k: v for k, v in record.items() if k not in TIMINGS} for record in records]
    return found


def judge(way: str, learner: str, out: Path, whole: dict[str, Any]) -> str | None:
    """Let a disturbed run go on; return what is wrong, or None."""
    had = (out / "checkpoint" / "state.pt").is_file()
    statuses = together(learner, out) if way == "two processes" else [wait(start(learner, out))]
    text = Path(f"{out}.log").read_text(encoding="utf-8", errors="replace")
    if any(statuses):
        return f"lost: it cannot go on, {text[-300:]}"
    if had and "starting from the beginning" in text:
        return "lost: it started again"
    found = content(out)
    if found != whole:
        names = sorted(name for name in found.keys() | whole.keys() if found.get(name) != whole.get(name))
        return f"differs: {', '.join(names)}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50, help="moments per learner and way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--learner", action="append", choices=LEARNERS)
    parser.add_argument("--way", action="append", choices=WAYS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    import torchmetrics.classification  # noqa: F401  # once here, not in every process

    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
    bad = []
    print(
        f"seed {args.seed}\n\n| learner | way | moments | undisturbed | lost | differ |\n|---|---|---:|---:|---:|---:|"
    )
    for learner in args.learner or LEARNERS:
        for way in args.way or WAYS:
            with tempfile.TemporaryDirectory() as folder:
                found, idle = moments(learner, way, args, Path(folder))
            bad += [f"{learner}, {way}, {each}" for each in found]
            lost = sum("lost" in each for each in found)
            print(f"| {learner} | {way} | {args.moments} | {idle} | {lost} | {len(found) - lost} |", flush=True)
    print("\n".join(["", *bad]) if bad else "\nno run was lost, and none differs")
    sys.exit(1 if bad else 0)


def moments(learner: str, way: str, args: argparse.Namespace, folder: Path) -> tuple[list[str], int]:
    """Try the moments of a learner and a way; return what was wrong, and how many runs had ended before."""
    began = time.monotonic()
    first = folder / "whole"
    statuses = together(learner, first) if way == "two processes" else [wait(start(learner, first))]
    assert not any(statuses), Path(f"{first}.log").read_text(encoding="utf-8")
    seconds, whole = time.monotonic() - began, content(first)
    largest = max(len(data) for data in whole.values() if isinstance(data, bytes)) * 3  # checkpoints are larger
    found, idle = [], 0
    for moment in range(args.moments):
        seed = f"{args.seed}/{learner}/{way}/{moment}"
        out = folder / str(moment)
        idle += not disturb(way, learner, out, random.Random(seed), seconds, largest)
        wrong = judge(way, learner, out, whole)
        if wrong is not None:
            found.append(f"seed {seed}: {wrong}")
        shutil.rmtree(out)
    return found, idle


if __name__ == "__main__":
    main()
