"""Make the run folders in ``old/``: of each recipe a finished run, and the same run stopped on the way.

Those in ``old/0.1.0`` were written by topolearn 0.1.0 (commit 2e3235c; format 1 of checkpoints and of weights), with
PyTorch 2.14.1 on a CPU. They are there for later versions to be tested with, so no later version may overwrite them:
run this with that very version, in a copy of it. A version that writes other files gets a folder of its own, with
copies of the recipes:

    PYTHONPATH=THE-VERSION python tests/runs/make_old_runs.py

For each ``RECIPE.yaml`` there it writes

- ``RECIPE-finished``,
- ``RECIPE-searching`` and ``RECIPE-fine_tuning`` (``RECIPE-training`` where there is no search): the same run, stopped
  by SIGTERM in the middle of an epoch of that phase,
- ``RECIPE.json``: what the finished network, and the same one pruned with another option, gives for two images.

A stopped run that is resumed ends as the finished one did, bit by bit on one machine; this is checked here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

import topolearn

OLD = Path(__file__).resolve().parent / "old"
STOPS = {"searching": 14, "fine_tuning": 34}
"""State -> training step after which a run stops: 10 make an epoch, the first 30 are the search."""
STOPS_OF_FIXED = {"training": 24}
PRUNED = {
    "maskconnect": "fan_in=1",
    "continuous": "threshold=0.83",
    "continuous-budget": "budget={macs: 0.5}",
    "sparsemask": "threshold=0.5",
}
"""Recipe -> another option to prune its run with, which keeps other edges."""
WEIGHTS = {"sparsemask": "continuous-finished/search.safetensors"}
"""Recipe -> what its weights start from, which is in the checkpoint until the search has ended."""
TIMINGS = ("seconds", "images_per_second")


class Stopping:
    """The default loss, which asks its own process to end at the n-th training step."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGTERM)
        return F.cross_entropy(logits, targets)


def fit(recipe: Path, folder: Path, **options: Any) -> None:
    """A run, without the curves for TensorBoard."""
    topolearn.fit(recipe, out=folder, device="cpu", export=False, quiet=True, **options)
    shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def stop(recipe: Path, folder: Path, at: int, **options: Any) -> None:
    """A run that stops after ``at`` steps."""
    try:
        fit(recipe, folder, loss=Stopping(at), **options)
    except KeyboardInterrupt:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    else:
        raise SystemExit(f"{folder} was not stopped")


def contents(folder: Path) -> dict[str, Any]:
    """What is in a run's folder, but for what a clock says."""
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    records = [json.loads(line) for line in found["history.jsonl"].splitlines()]
    untimed = [{key: value for key, value in record.items() if key not in TIMINGS} for record in records]
    return found | {"history.jsonl": untimed}


def outcome(folder: Path, images: Tensor) -> dict[str, Any]:
    """What a finished run's network keeps and gives."""
    net = topolearn.load_model(folder)
    with torch.no_grad():
        logits = net(images)
    return {"edges": [[edge.src, edge.dst] for edge in net.graph.edges], "logits": logits.tolist()}


def make(recipe: Path) -> None:
    """The folders and the expectations of a recipe."""
    name = recipe.stem
    pixels = load_digits().images[:2].astype(int).tolist()
    images = torch.tensor(pixels).unsqueeze(1) / 16
    finished = recipe.with_name(f"{name}-finished")
    start = {"weights": recipe.parent / WEIGHTS[name]} if name in WEIGHTS else {}
    fit(recipe, finished, **start)
    expected = {"pixels": pixels, "finished": outcome(finished, images)}
    with tempfile.TemporaryDirectory() as temporary:
        for state, at in (STOPS_OF_FIXED if name == "fixed" else STOPS).items():
            stopped = recipe.with_name(f"{name}-{state}")
            stop(recipe, stopped, at, **start)
            resumed = Path(shutil.copytree(stopped, Path(temporary) / state))
            fit(recipe, resumed, resume=True)
            if contents(resumed) != contents(finished):
                raise SystemExit(f"{stopped}, resumed, does not end as {finished}")
        if name in PRUNED:
            small = Path(temporary) / "pruned"
            command = [sys.executable, "-m", "topolearn", "prune", str(finished), "--out", str(small)]
            subprocess.run([*command, "--set", PRUNED[name], "--device", "cpu"], check=True, stdout=subprocess.DEVNULL)
            expected["pruned"] = {"set": PRUNED[name], **outcome(small, images)}
    recipe.with_suffix(".json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def main() -> None:
    """All recipes of this version."""
    folder = OLD / topolearn.__version__
    print(f"topolearn {topolearn.__version__} of {topolearn.__file__} writes {folder}")
    recipes = [path for path in sorted(folder.glob("*.yaml")) if path.name != "tiny.yaml"]
    if not recipes or any(path.is_dir() for path in folder.iterdir()):
        raise SystemExit(f"{folder} has no recipes, or runs already; remove those to make them again")
    for recipe in recipes:
        make(recipe)


if __name__ == "__main__":
    main()
