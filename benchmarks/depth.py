"""Time the training step of byte transformers that differ in what a block reads: the chain, all earlier blocks, …

    python -m benchmarks.depth [--batch 32] [--device cpu] [--skip VARIANT] [-o results/depth-steps.csv]

The variants are recipes. A recipe with a search is timed in its search, except that ``-learned-k3`` is timed as the
pruned network. The others are timed with the wiring that they train. A step is forward, backward and AdamW, also on
learned edge weights. All of these differ from 0, as they do after a few steps of training. Prints the median time, its
ratio to the chain, and the peak memory of a process that runs only this variant. ``-o`` writes the ratios as results.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import topolearn
from benchmarks.machine import median_ratio
from benchmarks.results import environment, extend_file
from benchmarks.side_by_side import COMPILED, Subject, compare_steps
from topolearn.data import DataInfo
from topolearn.errors import TopolearnError
from topolearn.graph import Graph
from topolearn.learners import Continuous, EdgeLearner, make_learner
from topolearn.recipes import load_recipe
from topolearn.tasks import task_of

GPT = "gpt12x64-bytes"
CHAIN, ALL, KEPT = f"{GPT}-chain", f"{GPT}-learned", f"{GPT}-learned-k3"
REFERENCE = "reference"
VARIANTS = (
    CHAIN,
    ALL,
    KEPT,
    f"{ALL}, {REFERENCE}",
    "gpt14x64-bytes-chain",
    f"{GPT}-x0-learned",
    f"{GPT}-sublayers-learned",
    f"{GPT}-random3-learned",
    f"{GPT}-mean-full",
    f"{GPT}-mean-random3",
    f"{GPT}-mean-maskconnect",
    f"{CHAIN}, {COMPILED}",
    f"{ALL}, {COMPILED}",
    f"{KEPT}, {COMPILED}",
)
SAME_STEP = {ALL: (f"{GPT}-learned-from-mean",)}
"""Recipe -> recipes whose step is the same; only the edge weights start elsewhere."""


def under_way(learner: EdgeLearner) -> EdgeLearner:
    """Give the learner weights as in the middle of a search: no weight is 0, and chance decides which are largest."""
    if isinstance(learner, Continuous):
        numbers = torch.Generator().manual_seed(0)
        with torch.no_grad():
            learner.alpha.add_(torch.rand(learner.alpha.shape, generator=numbers) / 10 + 0.01)
    return learner


def build(variant: str, args: argparse.Namespace) -> Subject:
    """Build one variant."""
    name, _, how = variant.partition(", ")
    recipe = load_recipe(f"models/{name}.yaml", {})
    graph = recipe.searched
    rule = graph.input_rule(graph.inputs[0])
    assert rule.length is not None
    assert rule.vocabulary is not None
    learner: EdgeLearner | None = under_way(make_learner(recipe.learner.name, graph, recipe.learner.options))
    assert learner is not None
    net = topolearn.compile(graph, learner, reference=how == REFERENCE)
    if recipe.learner.name == "fixed" or name == KEPT:
        net, learner = topolearn.prune(net), None
    text = torch.randint(rule.vocabulary, (args.batch, rule.length + 1))
    loss = task_of(graph.task).loss(about(graph, rule.vocabulary, rule.length))
    return Subject(net.train(), learner, text[:, :-1], text[:, 1:], loss, optimizer="adamw")


def about(graph: Graph, vocabulary: int, length: int) -> DataInfo:
    """Return what the loss needs to know about the text."""
    return DataInfo("random", graph.task, (), (length,), (), (), vocabulary=vocabulary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("-o", "--out", type=Path, help="results file for the ratios")
    times = compare_steps(
        parser, VARIANTS, build, lambda args: f"{GPT}, batch {args.batch}", {"ratio to the chain": CHAIN}
    )
    out = parser.parse_args().out
    if out is not None and times:
        rows = [
            {
                "recipe": name,
                "variant": "",
                "seeds": "",
                "step_ratio": f"{median_ratio(seconds, times[CHAIN]):.3f}",
                **environment(),
            }
            for variant, seconds in times.items()
            if ", " not in variant
            for name in (variant, *SAME_STEP.get(variant, ()))
        ]
        try:
            extend_file(out, rows)
        except TopolearnError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
