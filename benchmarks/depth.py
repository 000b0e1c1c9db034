"""Training step of a byte transformer: its chain, all earlier blocks learned, three of them kept.

    python -m benchmarks.depth [--graph gpt12x64-bytes] [--batch 32] [--device cpu] [--skip VARIANT]

Every block of the graph may read the embedding and all blocks before it. One step is forward, backward and AdamW, also
on the edge weights where they are learned; all of them differ from 0 then, as they do after a few steps of training.
Prints the median time, its ratio to the chain, and the peak memory of a process that does nothing else.
"""

from __future__ import annotations

import argparse

import torch

import topolearn
from benchmarks.side_by_side import COMPILED, Subject, compare_steps
from topolearn.data import DataInfo
from topolearn.graph import Graph
from topolearn.learners import Continuous, make_learner
from topolearn.tasks import task_of

KEEP = 3
VARIANTS = (
    "chain",
    "all learned, reference",
    "all learned",
    f"kept {KEEP} per block",
    f"chain, {COMPILED}",
    f"all learned, {COMPILED}",
    f"kept {KEEP} per block, {COMPILED}",
)


def trained(graph: Graph, **options: object) -> Continuous:
    """A learner with the weights of a search under way: none is 0, and which are largest is drawn."""
    learner = make_learner("continuous", graph, {"penalty_strength": 0.0, "threshold": 0.0, **options})
    assert isinstance(learner, Continuous)
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        learner.alpha.add_(torch.rand(learner.alpha.shape, generator=numbers) / 10 + 0.01)
    return learner


def build(variant: str, args: argparse.Namespace) -> Subject:
    """One variant."""
    graph = topolearn.load_graph(args.graph)
    rule = graph.input_rule(graph.inputs[0])
    assert rule.length is not None
    assert rule.vocabulary is not None
    learner = None
    net: torch.nn.Module
    if variant.startswith("chain"):
        net = topolearn.prune(topolearn.compile(graph, make_learner("fixed", graph, {"rule": "prev"})))
    elif variant.startswith("kept"):
        net = topolearn.prune(topolearn.compile(graph, trained(graph, keep=KEEP)))
    else:
        learner = trained(graph)
        net = topolearn.compile(graph, learner, reference=variant.endswith("reference"))
    text = torch.randint(rule.vocabulary, (args.batch, rule.length + 1))
    loss = task_of(graph.task).loss(about(graph, rule.vocabulary, rule.length))
    return Subject(net.train(), learner, text[:, :-1], text[:, 1:], loss, optimizer="adamw")


def about(graph: Graph, vocabulary: int, length: int) -> DataInfo:
    """What the loss must know of the text."""
    return DataInfo("random", graph.task, (), (length,), (), (), vocabulary=vocabulary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", default="gpt12x64-bytes")
    parser.add_argument("--batch", type=int, default=32)
    compare_steps(
        parser,
        VARIANTS,
        build,
        lambda args: f"{args.graph}, batch {args.batch}",
        {"ratio to the chain": VARIANTS[0]},
    )


if __name__ == "__main__":
    main()
