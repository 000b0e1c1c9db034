"""Removing whole blocks of a trained ResNet under a budget: learned, against the same number at random.

    python -m benchmarks.lift [--model resnet34] [--budget 0.6] [--seeds 0,1,2] [--images 12800] [--out runs/lift]

Trains torchvision's network on CIFAR-100 at 32 x 32 with its 20 coarse labels (no pretrained weights), lifts it, and
goes on from its weights in two ways of equal length: ``continuous`` searches under a budget of MACs, prunes and
fine-tunes; the control loses as many blocks of each shape, drawn at random, and is fine-tuned in all of those
epochs. Prints a table; what is finished stays in the folder and is not run again.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision import models

import topolearn
from benchmarks.machine import describe
from topolearn.compiler import Network
from topolearn.training import FitResult
from topolearn.training.metrics import Evaluation, default_loss, default_metrics
from topolearn.training.prepare import prepare

FIXED = {"name": "fixed", "rule": "full"}


def removable(net: Network) -> dict[str, tuple[object, ...]]:
    """Branch that one learnable edge can drop -> what makes another branch its equal."""
    names = [edge.src for edge in net.graph.edges if edge.learnable and edge.dst == f"{edge.src}_add"]
    nodes = (net.graph.nodes[name] for name in names)
    return {node.id: (node.op, node.params, node.input) for node in nodes}


def without(net: Network, branches: Sequence[str]) -> Network:
    """The network without some branches, and without the longer edges, which are at 0."""
    frozen = topolearn.compile(net)
    frozen.set_edge_weights([0.0 if edge.src in branches else edge.weight for edge in net.graph.edges])
    return topolearn.prune(frozen)


class Demonstration:
    """One network, one seed."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args, self.seed = args, seed
        torch.manual_seed(seed)
        self.net = topolearn.lift(getattr(models, args.model)(num_classes=20), size=32)

    def run(self) -> dict[str, float]:
        """Train, remove, train on; accuracies and MACs."""
        args = self.args
        base = self.fit(without(self.net, ()), "base", FIXED, args.epochs, 0.1)
        self.net.load_state_dict(base.model.state_dict())
        learned = self.fit(
            self.net, "learned", {"name": "continuous", "budget": {"macs": args.budget}}, args.more, args.lr
        )
        candidates = removable(self.net)
        dropped = [name for name in candidates if name not in learned.graph.nodes]
        drawn = self.draw(candidates, dropped)
        control = without(self.net, drawn)
        return {
            "base": base.metrics["accuracy"],
            "learned": learned.metrics["accuracy"],
            "random, as removed": self.accuracy(control),
            "random": self.fit(control, "random", FIXED, args.more, args.lr).metrics["accuracy"],
            "dropped": len(dropped),
            "base, MACs": base.graph.cost.macs,
            "learned, MACs": learned.graph.cost.macs,
            "random, MACs": control.graph.cost.macs,
        }

    def draw(self, candidates: Mapping[str, tuple[object, ...]], dropped: Sequence[str]) -> list[str]:
        """As many branches of each shape as ``dropped`` has, at random."""
        numbers = random.Random(self.seed)
        drawn: list[str] = []
        for shape in dict.fromkeys(candidates.values()):
            equal = [name for name, other in candidates.items() if other == shape]
            drawn += numbers.sample(equal, sum(candidates[name] == shape for name in dropped))
        return drawn

    def fit(self, start: Network, name: str, learner: Mapping[str, Any], epochs: int, lr: float) -> FitResult:
        """A run from given weights, or its result where it is finished."""
        folder = self.args.out / f"{name}-seed{self.seed}"
        return topolearn.fit(start, epochs=epochs, lr=lr, out=folder, resume=True, **self.settings(learner))

    def settings(self, learner: Mapping[str, Any]) -> dict[str, Any]:
        """What all runs have in common."""
        return {
            "learner": learner,
            "data": "cifar100-coarse",
            "batch_size": 128,
            "seed": self.seed,
            "precision": self.args.precision,
            "training": {"weight_decay": 5.0e-4, "train_images": self.args.images, "evaluate_every": 100},
            "data_root": self.args.data_root,
        }

    @torch.no_grad()
    def accuracy(self, net: Network) -> float:
        """Of a network as it is, on the validation images."""
        data = prepare(net, **self.settings(FIXED)).data
        evaluation = Evaluation(default_loss(data.info), default_metrics(data.info), torch.device("cpu"))
        return evaluation.run(net.eval(), data.val_batches(500))["accuracy"]


def spread(values: Sequence[float]) -> str:
    """Mean and sample standard deviation, in percent."""
    deviation = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet34")
    parser.add_argument("--budget", type=float, default=0.6)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=10, help="of the network as it is")
    parser.add_argument("--more", type=int, default=6, help="epochs after that, of either way")
    parser.add_argument("--lr", type=float, default=0.02, help="peak learning rate of those")
    parser.add_argument("--images", type=int, default=12800)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, default=Path("runs/lift"))
    args = parser.parse_args()
    results = [Demonstration(args, int(seed)).run() for seed in args.seeds.split(",")]
    rows = {name: [result[name] for result in results] for name in results[0]}
    before = statistics.mean(rows["base, MACs"])
    print(
        f"{args.model}, CIFAR-100 coarse, {args.images} images, budget {args.budget:g} of the MACs, seeds {args.seeds}"
    )
    print(describe(torch.device("cpu")))
    print()
    print("| network | accuracy, % | MACs |")
    print("| --- | ---: | ---: |")
    print(f"| as it is, {args.epochs} epochs | {spread(rows['base'])} | 100 % |")
    blocks = f"{statistics.mean(rows['dropped']):.1f} blocks removed"
    for name, text in (("learned", f"{blocks} by learning"), ("random", f"{blocks} at random")):
        share = statistics.mean(rows[f"{name}, MACs"]) / before
        print(f"| {text}, {args.more} epochs more | {spread(rows[name])} | {share:.1%} |")
    print(f"| {blocks} at random, not trained on | {spread(rows['random, as removed'])} | |")


if __name__ == "__main__":
    main()
