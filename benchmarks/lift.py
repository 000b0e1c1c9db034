"""Remove whole blocks of a trained ResNet under a budget: by learning, and as many at random.

    python -m benchmarks.lift --results results/lift.csv [--model resnet34] [--budget 0.6] [--seeds 0,1,2]
                              [--images 25600] [--out runs/lift]

Trains torchvision's network on CIFAR-100 at 32 x 32 with its 20 coarse labels (no pretrained weights) and lifts it.
Four ways of equal length go on from its weights:

- learned: ``continuous`` searches for a quarter of the epochs under a budget of MACs, prunes, then fine-tunes.
- random: as many blocks, drawn at random, are removed. All epochs are fine-tuning. In a ResNet, all blocks have the
  same number of multiply-accumulates.
- chosen: the blocks that the search removed are removed at once. All epochs are fine-tuning. This separates the choice
  of blocks from the way of removing them.
- whole: the trained network as it is trains on in all epochs.

Adds rows to a results file, one per way and seed, and prints which blocks were removed. Finished runs stay in the
folder and are not run again.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision import models

import topolearn
from benchmarks.results import Record, ended, environment, extend_file
from topolearn.compiler import Network
from topolearn.recipes import Recipe
from topolearn.runs import FitResult
from topolearn.tasks import Evaluation, task_of
from topolearn.training.phases import recalibrate
from topolearn.training.prepare import prepare

FIXED = {"name": "fixed", "rule": "full"}
PHASES = {"search": 0.25, "fine_tune": 0.75}


def removable(net: Network) -> list[str]:
    """Return the branches that go if one learnable edge goes."""
    return [edge.src for edge in net.graph.edges if edge.learnable and edge.dst == f"{edge.src}_add"]


def without(net: Network, branches: Sequence[str]) -> Network:
    """Return the network without some branches, and without the longer edges, which are at 0."""
    frozen = topolearn.compile(net)
    frozen.set_edge_weights([0.0 if edge.src in branches else edge.weight for edge in net.graph.edges])
    return topolearn.prune(frozen)


class Demonstration:
    """The runs of one network with one seed."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args, self.seed = args, seed
        torch.manual_seed(seed)
        self.net = topolearn.lift(getattr(models, args.model)(num_classes=20), size=32)

    def run(self) -> tuple[list[str], list[Record]]:
        """Train, remove, train on; return which blocks the search removed, and a row for each way."""
        args = self.args
        base = self.fit(without(self.net, ()), "base", FIXED, args.epochs, args.base_lr, warmup_epochs=1.0)
        self.net.load_state_dict(base.model.state_dict())
        learner = {"name": "continuous", "budget": {"macs": args.budget}}
        learned = self.fit(self.net, "learned", learner, args.more, args.lr, phases=PHASES)
        candidates = removable(self.net)
        dropped = [name for name in candidates if name not in learned.graph.nodes]
        whole = self.fit(without(self.net, ()), "whole", FIXED, args.more, args.lr)
        rows = [self.row("base", base), self.row("whole", whole), self.row("learned", learned)]
        drawn = random.Random(self.seed).sample(candidates, len(dropped))
        for name, branches in (("chosen", dropped), ("random", drawn)):
            as_removed = self.accuracy(without(self.net, branches))
            smaller = self.fit(without(self.net, branches), name, FIXED, args.more, args.lr)
            rows.append({**self.row(name, smaller), "accuracy_as_removed": str(as_removed)})
        return dropped, rows

    def row(self, way: str, result: FitResult) -> Record:
        """Return a finished run as a row of a results file."""
        assert result.folder is not None
        own = {
            "recipe": f"lift-{self.args.model}",
            "variant": way,
            "seeds": self.seed,
            "accuracy": result.metrics["accuracy"],
            "parameters_learned": result.graph.cost.params,
            "macs_learned": result.graph.cost.macs,
            "data": result.info.name,
            "date": ended(result.folder),
        }
        return {**environment(), **{key: str(value) for key, value in own.items()}}

    def fit(
        self, start: Network, name: str, learner: Mapping[str, Any], epochs: int, lr: float, **training: Any
    ) -> FitResult:
        """Train from given weights; a finished run is only read."""
        folder = self.args.out / f"{name}-seed{self.seed}"
        return topolearn.fit(
            start, epochs=epochs, lr=lr, out=folder, export=False, resume=True, **self.settings(learner, **training)
        )

    def settings(self, learner: Mapping[str, Any], **training: Any) -> dict[str, Any]:
        """Return the settings that all runs share, with a learner and more training options."""
        return {
            "learner": learner,
            "data": "cifar100-coarse",
            "batch_size": 128,
            "seed": self.seed,
            "precision": self.args.precision,
            "training": {"weight_decay": 5.0e-4, "train_images": self.args.images, "evaluate_every": 100, **training},
            "data_root": self.args.data_root,
        }

    @torch.no_grad()
    def accuracy(self, net: Network) -> float:
        """Measure the accuracy of a network on the validation images; only its batch statistics are updated before."""
        data = prepare(Recipe.of(net, **self.settings(FIXED))).data
        recalibrate(net, data, 128, self.seed)
        task = task_of(data.info.task)
        evaluation = Evaluation(task.loss(data.info), task.metrics(data.info), torch.device("cpu"))
        return evaluation.run(net.eval(), data.val_batches(500))["accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet34")
    parser.add_argument("--budget", type=float, default=0.6)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the first training")
    parser.add_argument("--base-lr", type=float, default=0.03, help="peak learning rate of the first training")
    parser.add_argument("--more", type=int, default=4, help="epochs of each way after it")
    parser.add_argument("--lr", type=float, default=0.01, help="peak learning rate of each way")
    parser.add_argument("--images", type=int, default=25600)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, default=Path("runs/lift"))
    parser.add_argument("--results", type=Path, required=True, help="results file")
    args = parser.parse_args()
    for seed in map(int, args.seeds.split(",")):
        dropped, rows = Demonstration(args, seed).run()
        extend_file(args.results, rows)
        print(f"seed {seed} removed {', '.join(dropped)}")


if __name__ == "__main__":
    main()
