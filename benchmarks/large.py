"""Time every step from a file to a picture for complete graphs of many nodes: is it linear in the number of edges?

    python -m benchmarks.large [--nodes 125,250,500,1000] [--step NAME …]

Every node of a graph reads all earlier ones by learnable edges, so 1,000 nodes have about 500,000 edges. Maps have 2
channels, so that the number of edges decides. Each step runs in a process of its own, after the steps that it builds
on. Prints its seconds, the memory that it adds at most, and its exponent: 1 is linear in the number of edges, 2 is
quadratic. The exponent compares the two largest graphs.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import topolearn
from benchmarks.machine import describe, resident_peak
from topolearn.drawing import adjacency_svg, draw
from topolearn.format import load_graph
from topolearn.graph import Graph

SIZE = 8
"""Height and width of the images."""


def text(nodes: int) -> str:
    """Return the file of a complete graph."""
    return f"""
topolearn: 1
name: complete{nodes}
inputs: {{image: [3, {SIZE}, {SIZE}]}}
nodes:
  stem: {{op: conv_bn, out_channels: 2}}
  "node[1..{nodes}]": {{op: relu_conv_bn, out_channels: 2}}
  head: {{op: classifier, classes: 10}}
edges:
  - {{from: image, to: stem}}
  - {{connect: complete, nodes: [stem, "node[1..{nodes}]", head], learnable: true}}
outputs: [head]
"""


class Steps:
    """The steps for one graph. Each makes what it needs by the steps before it.

    Attributes:
        folder: Where files are written.
    """

    def __init__(self, nodes: int, folder: Path) -> None:
        self.folder = folder
        self.short = folder / "short.yaml"
        self.short.write_text(text(nodes), encoding="utf-8")
        self.made: dict[str, Any] = {}

    def need(self, name: str) -> Any:
        """Return the result of a step; run it if it has not run."""
        if name not in self.made:
            self.made[name] = STEPS[name](self)
        return self.made[name]

    def load(self) -> Graph:
        return load_graph(self.short)

    def verify(self) -> Graph:
        graph = self.need("load")
        return Graph(graph.name, list(graph.nodes.values()), graph.edges, graph.outputs).verify()

    def write(self) -> Path:
        path = self.folder / "long.yaml"
        topolearn.dump_graph(self.need("load"), path)
        return path

    def load_written(self) -> Graph:
        graph = load_graph(self.need("write"))
        assert graph == self.need("load")
        return graph

    def learner(self) -> Any:
        return topolearn.learners.MaskConnect(self.need("load"), fan_in=3)

    def compile_meta(self) -> Any:
        with torch.device("meta"):
            return topolearn.compile(self.need("load"))

    def compile(self) -> Any:
        return topolearn.compile(self.need("load"), self.need("learner"))

    def train_step(self) -> None:
        net = self.need("compile")
        optimizers = topolearn.optimizers(net, lr=0.1)
        (net(torch.randn(2, 3, SIZE, SIZE)).sum() + net.learner.penalty()).backward()
        for optimizer in optimizers:
            optimizer.step()

    def prune(self) -> Any:
        return topolearn.prune(self.need("compile"))

    def show(self) -> dict[str, Any]:
        return {"cost": self.need("load").cost.macs, "text": repr(self.need("load"))}

    def draw(self) -> None:
        draw(self.need("load"), self.folder / "graph.svg")

    def matrix(self) -> str:
        graph = self.need("load")
        return adjacency_svg(graph, [1.0] * len(graph.edges), [True] * len(graph.edges))


STEPS: dict[str, Callable[[Steps], Any]] = {
    "load": Steps.load,
    "verify": Steps.verify,
    "write": Steps.write,
    "load what was written": Steps.load_written,
    "show": Steps.show,
    "learner": Steps.learner,
    "compile on meta": Steps.compile_meta,
    "compile": Steps.compile,
    "training step": Steps.train_step,
    "prune": Steps.prune,
    "draw the graph": Steps.draw,
    "draw the matrix": Steps.matrix,
}
NEEDS = {
    "verify": ("load",),
    "write": ("load",),
    "load what was written": ("load", "write"),
    "show": ("load",),
    "learner": ("load",),
    "compile on meta": ("load",),
    "compile": ("load", "learner"),
    "training step": ("load", "learner", "compile"),
    "prune": ("load", "learner", "compile"),
    "draw the graph": ("load",),
    "draw the matrix": ("load",),
}
"""Step -> the steps that run before its time is taken."""


def measure(name: str, nodes: int) -> dict[str, float]:
    """Run a step in this process; return its seconds, and the MiB that it adds to the peak."""
    with tempfile.TemporaryDirectory() as folder:
        steps = Steps(nodes, Path(folder))
        for needed in NEEDS.get(name, ()):
            steps.need(needed)
        before, start = resident_peak(), time.perf_counter()
        steps.need(name)
        return {"seconds": time.perf_counter() - start, "memory": resident_peak() - before}


def in_child(name: str, nodes: int) -> dict[str, float]:
    """Measure a step in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.large", "--measure", name, "--nodes", str(nodes)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(ran.stderr)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="125,250,500,1000")
    parser.add_argument("--step", action="append", choices=STEPS, help="only these steps")
    parser.add_argument("--measure", choices=STEPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = [int(size) for size in args.nodes.split(",")]
    if args.measure:
        print(json.dumps(measure(args.measure, sizes[0])))
        return
    edges = [(size + 2) * (size + 1) // 2 + 1 for size in sizes]
    print(f"{describe(torch.device('cpu'))}; edges: {', '.join(f'{count:,}' for count in edges)}")
    print()
    print(f"| step | {' | '.join(f'{size:,} nodes, s' for size in sizes)} | exponent | memory added, MiB |")
    print("|---|" + "---:|" * (len(sizes) + 2))
    for name in args.step or STEPS:
        found = [in_child(name, size) for size in sizes]
        seconds = [each["seconds"] for each in found]
        exponent = "–" if len(sizes) < 2 else f"{math.log(seconds[-1] / seconds[-2], edges[-1] / edges[-2]):.2f}"
        cells = [*(f"{each:.2f}" for each in seconds), exponent, f"{found[-1]['memory']:.0f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
