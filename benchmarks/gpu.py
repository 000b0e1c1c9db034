"""Measure everything that needs a GPU, in one command that stops in time: tests, training steps, exported networks.

    python -m benchmarks.gpu [--minutes 8] [--out runs/gpu.jsonl]
    python -m benchmarks.gpu --device cpu --quick

The parts:

- ``tests``: the tests marked ``gpu``;
- ``step …``: a search step, eager, with torch.compile and as a CUDA graph, as a ratio to the step of a plain network;
- ``export …``: an exported network in ONNX Runtime on the providers CUDA and TensorRT, as a ratio to PyTorch.

Data are random. Each part runs in a process of its own. A part that is done stays in the file of ``--out``; the same
command then goes on with the others. The table is printed at the end, and when the time is up. ``--quick`` makes the
parts small, to see that the program works.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import topolearn
from benchmarks import depth, segmentation, stage, step
from benchmarks.machine import describe, median_ratio, place, times_by_round
from benchmarks.side_by_side import Subject
from topolearn.errors import TopolearnError
from topolearn.learners import EdgeLearner
from topolearn.onnx import open_session
from topolearn.training.step import TrainingStep

Row = dict[str, str]
WAYS = ("eager", "torch.compile", "CUDA graph")
PROVIDERS = {"cpu": ("cpu",), "cuda": ("cuda", "tensorrt")}


def options(**values: Any) -> argparse.Namespace:
    """Return the options of another benchmark."""
    return argparse.Namespace(**values)


def subject(name: str, variant: int, quick: bool) -> Subject:
    """Build the plain network (variant 0) or the search (variant 1) of a case."""
    if name == "ResNet-38":
        return step.build(("plain chain", "compiler")[variant], options(batch=4 if quick else 128, fan_in=10))
    if name == "complete stage":
        small = options(nodes=3, channels=4, op="conv", batch=2)
        large = options(nodes=12, channels=16, op="conv", batch=128)
        return stage.build(("plain chain", "search")[variant], small if quick else large)
    if name == "token graph":
        return depth.build((depth.CHAIN, depth.ALL)[variant], options(batch=2 if quick else 128))
    size = options(graph=DECODER, final=LEARNED_DECODER, batch=2 if quick else 8, size=65 if quick else 513)
    return segmentation.build(("learned", "search")[variant], size)


DECODER, LEARNED_DECODER = "fdn-mobilenetv2-voc", "sparsemask-mobilenetv2-voc"
CASES = ("ResNet-38", "complete stage", "token graph", "dense decoder")


def steps(name: str, device: torch.device, quick: bool) -> list[Row]:
    """Time the step of a case in every way that the device has."""
    plain = taken(subject(name, 0, quick), device)
    rows = []
    for way in WAYS:
        if (way == "CUDA graph" and device.type != "cuda") or (way == "torch.compile" and quick):
            continue
        try:
            search = taken(subject(name, 1, quick), device, compiled=way == WAYS[1], captured=way == WAYS[2])
            times = times_by_round({"plain": plain, "search": search}, device, 1 if quick else 15)
        except TopolearnError as error:
            rows.append({"what": f"{name}, search, {way}", "ratio": str(error)})
            continue
        rows.append(
            {
                "what": f"{name}, search, {way}",
                "milliseconds": f"{statistics.median(times['search']) * 1e3:.2f}",
                "ratio": f"{median_ratio(times['search'], times['plain']):.2f}",
            }
        )
    first = {"what": f"{name}, plain", "milliseconds": f"{statistics.median(times['plain']) * 1e3:.2f}", "ratio": "1"}
    return [first, *rows]


def taken(given: Subject, device: torch.device, compiled: bool = False, captured: bool = False) -> Callable[[], object]:
    """Return a function that takes a training step as ``fit`` does."""
    net, learner = given.net.to(device).train(), given.learner
    images, targets = given.images.to(device), given.targets.to(device)
    if compiled:
        net.__dict__["dag"] = torch.compile(net.dag)
    rate = {"lr": 0.01} if given.optimizer == "sgd" else {"lr": 1e-3, "name": "adamw"}
    take = TrainingStep(
        net=net,
        loss=lambda outputs, wanted: given.loss_of(outputs.float(), wanted),
        optimizers=topolearn.optimizers(net, **rate),
        learner=learner if isinstance(learner, EdgeLearner) else None,
        precision="bfloat16" if device.type == "cuda" else "float32",
        captured=captured,
    )
    return lambda: take(images, targets, factor=1.0, seed=0)


def exported(name: str, device: torch.device, quick: bool) -> list[Row]:
    """Export the pruned network of a case; time it on every provider and in PyTorch, in turns."""
    given = subject(name, 1, quick)
    net = given.net.eval()
    assert isinstance(net, topolearn.Network)
    small = topolearn.prune(net)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = topolearn.export_onnx(small, Path(folder) / "net.onnx").path
        small.to(device)
        for batch in (1, len(given.images)):
            inputs = of_size(given.images[:batch], small)
            held = inputs.to(device)
            for provider in PROVIDERS[device.type]:
                what = f"{name}, pruned, batch {batch}, {provider}"
                try:
                    call = run_onnx(file, provider, inputs)
                except TopolearnError as error:
                    rows.append({"what": what, "ratio": str(error)})
                    continue
                worst = difference(call(), small, held)
                calls = {"torch": partial(forward, small, held), "onnx": call}
                times = times_by_round(calls, device, 1 if quick else 15)
                rows.append(
                    {
                        "what": what,
                        "milliseconds": f"{statistics.median(times['onnx']) * 1e3:.2f}",
                        "ratio": f"{median_ratio(times['onnx'], times['torch']):.2f}",
                        "difference": f"{worst:.1e}",
                    }
                )
    return rows


def of_size(inputs: Tensor, net: topolearn.Network) -> Tensor:
    """Return random images of the size that the network's graph declares, as many as given; texts as they are."""
    size = net.graph.input_size(net.graph.inputs[0])
    return torch.randn(len(inputs), *size) if inputs.is_floating_point() else inputs


def run_onnx(file: Path, provider: str, inputs: Tensor) -> Callable[[], Any]:
    """Return a function that runs an exported network on the host's inputs."""
    session = open_session(file, provider)
    feeds = {session.get_inputs()[0].name: inputs.numpy()}
    return lambda: session.run(None, feeds)[0]


def forward(net: nn.Module, inputs: Tensor) -> Tensor:
    """Run a network in PyTorch, and bring its outputs to the host, as ONNX Runtime does."""
    with torch.no_grad():
        outputs: Tensor = net(inputs)
        return outputs.cpu()


def difference(found: Any, net: nn.Module, inputs: Tensor) -> float:
    """Return the largest difference of ONNX Runtime's outputs from PyTorch's, as a share of the largest output."""
    wanted = forward(net, inputs).numpy()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def tests(device: torch.device, quick: bool) -> list[Row]:
    """Run the tests that need a GPU."""
    if device.type != "cuda" or quick:
        return [{"what": "tests marked gpu", "ratio": "not run: they need a CUDA device"}]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "-n", "4"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    last = ran.stdout.strip().splitlines()[-1:] or [ran.stderr[-200:]]
    return [{"what": "tests marked gpu", "ratio": re.sub(r" in .*", "", last[0])}]


PARTS: dict[str, Callable[[torch.device, bool], list[Row]]] = {
    "tests": tests,
    **{f"step {name}": partial(steps, name) for name in CASES},
    **{f"export {name}": partial(exported, name) for name in CASES if name != "complete stage"},
}
COLUMNS = ("what", "milliseconds", "ratio", "difference")


def table(done: dict[str, list[Row]]) -> str:
    """Return what was measured as a Markdown table."""
    lines = ["| what | ms | ratio | difference |", "|---|---:|---:|---:|"]
    for part in PARTS:
        rows = done.get(part, [{"what": part, "ratio": "not measured"}])
        lines += [f"| {' | '.join(row.get(key, '') for key in COLUMNS)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts together")
    parser.add_argument("--device", default="cuda", choices=PROVIDERS)
    parser.add_argument("--quick", action="store_true", help="small parts")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.jsonl"), help="file of the finished parts")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("error: this machine has no CUDA device; add '--device cpu --quick' to see that the program works")
    if args.part:
        torch.manual_seed(0)
        print(json.dumps(PARTS[args.part](device, args.quick)))
        return
    end = time.monotonic() + 60 * args.minutes
    where = f"{place(device)}, quick" if args.quick else place(device)
    done = finished(args.out, where)
    for part in PARTS:
        left = end - time.monotonic()
        if part in done or left <= 0:
            continue
        print(f"{part} …", file=sys.stderr, flush=True)
        rows = in_child(part, left)
        if rows is not None:
            done[part] = rows
            args.out.parent.mkdir(parents=True, exist_ok=True)
            with open(args.out, "a", encoding="utf-8") as file:
                file.write(json.dumps({"part": part, "where": where, "rows": rows}) + "\n")
    print(f"{describe(device)}\n\n{table(done)}")


def finished(file: Path, where: str) -> dict[str, list[Row]]:
    """Read the parts that are done on this machine."""
    if not file.is_file():
        return {}
    found = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {each["part"]: each["rows"] for each in found if each["where"] == where}


def in_child(part: str, seconds: float) -> list[Row] | None:
    """Run a part in a process of its own; None if its time was up, and a row with the reason if it failed."""
    command = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], "--part", part]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return None
    if ran.returncode:
        reason = (ran.stderr.strip().splitlines() or ["no message"])[-1]
        return [{"what": part, "ratio": f"failed: {reason}".replace("|", "/")}]
    rows: list[Row] = json.loads(ran.stdout.splitlines()[-1])
    return rows


if __name__ == "__main__":
    main()
