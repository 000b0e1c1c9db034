"""Small runs of ``fit``, in this process or in others, stopped wherever a test wants."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from tests.data.toys import Noisy, NoisyParts, toy
from topolearn.data import Augment
from topolearn.errors import TopolearnError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.runs import FitResult
from topolearn.training import fit

ROOT = Path(__file__).resolve().parent.parent.parent

GRAPH = """
topolearn: 1
name: {name}
inputs: {{image: [{channels}, 8, 6]}}
nodes:
  stem: {{op: conv_bn_relu, out_channels: 3}}
  a[1..3]: {{op: conv_bn_relu, out_channels: 3}}
  b[1..2]: {{op: conv_bn_relu, out_channels: 3, aggregate: mean}}
  head: {{op: classifier, classes: {classes}, dropout: 0.2}}
edges:
  - {{from: image, to: stem}}
  - {{from: stem, to: "a[1..3]"}}
  - {{connect: bipartite, from: "a[1..3]", to: "b[1..2]", learnable: {learnable}}}
  - {{connect: bipartite, from: "b[1..2]", to: [head], learnable: {learnable}}}
outputs: [head]
"""
SEGMENTATION = """
topolearn: 1
name: tiny-maps
task: segmentation
inputs: {image: [3, 8, 8]}
nodes:
  stem: {op: conv_bn_relu, out_channels: 6}
  a[1..2]: {op: conv_bn_relu, out_channels: 6}
  join: {op: relu, aggregate: mean}
  head: {op: segmentation_head, classes: 3}
edges:
  - {from: image, to: stem}
  - {from: stem, to: "a[1..2]"}
  - {connect: bipartite, from: [stem, "a[1..2]"], to: [join], learnable: true}
  - {from: join, to: head}
outputs: [head]
"""
TEXT = """
topolearn: 1
name: tiny-text
task: next_token
inputs: {tokens: {length: 8, vocabulary: 16}}
nodes:
  embed: {op: embedding, channels: 4}
  block[1..3]: {op: transformer.block, heads: 2, causal: true, layers: 3}
  head: {op: token_head, classes: 16}
edges:
  - {from: tokens, to: embed}
  - {connect: complete, nodes: [embed, "block[1..3]", head], learnable: true, start: chain}
outputs: [head]
"""
SEVERAL = """
topolearn: 1
name: tiny-several
inputs: {left: [3], right: [5]}
nodes:
  a: {op: linear, out_features: 6, activation: relu}
  b: {op: linear, out_features: 6, activation: relu}
  c[1..3]: {op: linear, out_features: 6, activation: relu, aggregate: mean}
  kind: {op: linear, out_features: 4}
  size: {op: linear, out_features: 1}
edges:
  - {from: left, to: a}
  - {from: right, to: b}
  - {connect: bipartite, from: [a, b], to: "c[1..3]", learnable: true}
  - {connect: bipartite, from: "c[1..3]", to: [kind, size], learnable: true}
outputs: [kind, size]
"""
EPOCHS, BATCH, STEPS = 5, 4, 5
"""Of :func:`run`: 22 images make 5 steps of 4 per epoch."""
TIMINGS = ("seconds", "images_per_second")


def graph(*, name: str = "tiny", channels: int = 3, classes: int = 4, learnable: bool = True) -> Graph:
    """Two layers of candidates and a dropout, milliseconds per step."""
    return loads(GRAPH.format(name=name, channels=channels, classes=classes, learnable=str(learnable).lower()))


def pair(kind: str = "tensors") -> Any:
    """Data of 22 or 13 images: built-in, Datasets with random transforms, or DataLoaders of them."""
    if kind == "tensors":
        return toy(Augment(pad=1, flip=True))
    if kind == "several":
        return NoisyParts(13), NoisyParts(5)
    sets = Noisy(13), Noisy(5)
    if kind == "datasets":
        return sets
    return DataLoader(sets[0], BATCH, shuffle=True, drop_last=True), DataLoader(sets[1], BATCH)


def text_pair() -> tuple[Tensor, Tensor]:
    """Ids below 16 to train on, and 6 contexts of 8 to validate on."""
    ids = torch.randint(16, (490,), generator=torch.Generator().manual_seed(0))
    return ids[:440], ids[440:]


def several_loss(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    """For :data:`SEVERAL`: cross entropy of one output, squared error of the other."""
    return F.cross_entropy(outputs["kind"], targets["kind"]) + F.mse_loss(outputs["size"][:, 0], targets["size"])


def run(out: Path | None = None, learner: Any = "maskconnect", data: Any = None, **options: Any) -> FitResult:
    """A run of 3 search and 2 later epochs (or as the learner has it)."""
    training = {"phases": PHASES.get(learner, {}) if isinstance(learner, str) else {}, "checkpoint_steps": 2}
    learner = VARIANTS.get(learner, learner) if isinstance(learner, str) else learner
    settings = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.05, "graph": graph()}
    settings |= options
    settings["training"] = training | dict(options.get("training", {}))
    return quick_fit(learner=learner, data=pair() if data is None else data, out=out, **settings)


def quick_fit(*args: Any, **options: Any) -> FitResult:
    """``fit`` on the CPU, with one thread: more would only wait for each other on so little work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return fit(*args, **{"quiet": True, "device": "cpu", "export": False} | options)
    finally:
        torch.set_num_threads(threads)


PHASES = {
    "maskconnect": {"search": 3, "fine_tune": 2},
    "continuous": {"search": 3, "fine_tune": 2},
    "continuous with a budget": {"search": 3, "fine_tune": 2},
    "sparsemask": {"search": 3, "retrain": 2},
}
VARIANTS = {"continuous with a budget": {"name": "continuous", "budget": {"macs": 0.7}}}
"""Learners with options, by a name for the tests."""


class Stopping:
    """Cross entropy that does something at its n-th training or validation batch.

    The toy's validation set is two batches; every epoch ends with it.
    """

    def __init__(self, action: Callable[[], object], at: Sequence[int] = (), val: Sequence[int] = ()) -> None:
        self.action = action
        self.places = {"train": set(at), "val": set(val)}
        self.calls = {"train": 0, "val": 0}

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        kind = "train" if torch.is_grad_enabled() else "val"
        self.calls[kind] += 1
        if self.calls[kind] in self.places[kind]:
            self.action()
        return usual_loss(outputs, targets)


def usual_loss(outputs: Any, targets: Any) -> Tensor:
    """Cross entropy, also of text, (N, T, vocabulary); of several outputs, :func:`several_loss`."""
    if isinstance(outputs, dict):
        return several_loss(outputs, targets)
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def send(number: int) -> None:
    """Send this process a signal."""
    os.kill(os.getpid(), number)


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A history without what depends on the clock."""
    return [{key: value for key, value in record.items() if key not in TIMINGS} for record in records]


def history(folder: Path) -> list[dict[str, Any]]:
    """The history of a run without what depends on the clock."""
    return untimed([json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()])


def assert_same(folder: Path, other: Path) -> None:
    """Two finished runs have left the same, byte by byte but for the clock."""
    for name in (
        "weights.safetensors",
        "graph.yaml",
        "search.safetensors",
        "search.yaml",
        "config.yaml",
        "movement.f32",
    ):
        assert (folder / name).exists() == (other / name).exists(), name
        if (folder / name).exists():
            assert (folder / name).read_bytes() == (other / name).read_bytes(), f"{name} differs"
    assert history(folder) == history(other)
    for each in (folder, other):
        left = {path.name for path in each.iterdir()} - {"tensorboard"}
        assert left <= {
            "config.yaml",
            "graph.yaml",
            "history.jsonl",
            "movement.f32",
            "search.safetensors",
            "search.yaml",
            "weights.safetensors",
        }


# -- other processes ----------------------------------------------------------------------------


class Processes:
    """A fresh interpreter that runs every job in a process of its own.

    It has imported everything and computed nothing; each job is forked off it, which saves the
    seconds that importing torch takes.
    """

    def __init__(self, hash_seed: int) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.server = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", "from tests.training.runs import serve; serve()"],
            cwd=ROOT,
            env={**os.environ, **threads, "PYTHONHASHSEED": str(hash_seed)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def run(self, out: Path, **job: Any) -> int:
        """Run a job; its exit status, or the negative number of the signal that killed it."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps({"out": str(out), **job}) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


def serve() -> None:
    """Fork a process for every job on stdin, and tell on stdout how it ended."""
    import torchmetrics.classification  # noqa: F401

    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _job(**json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _job(
    out: str, learner: str, data: str = "tensors", resume: bool = False, stop: dict[str, Any] | None = None
) -> None:
    several: dict[str, Any] = {"graph": loads(SEVERAL), "loss": several_loss} if data == "several" else {}
    status = 1
    try:
        with open(f"{out}.log", "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 2)
        loss = several.get("loss")
        if stop is not None:
            number = signal.Signals[stop["signal"]]
            times = 2 if stop.get("twice") else 1
            loss = Stopping(lambda: [send(number) for _ in range(times)], stop.get("at", ()), stop.get("val", ()))
        run(Path(out), learner, pair(data), **several | {"resume": resume, "loss": loss, "quiet": False})
        status = 0
    except KeyboardInterrupt:
        status = 130
    except TopolearnError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
