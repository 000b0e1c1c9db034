"""Runs of earlier versions load, go on and are pruned. Their folders are in old/; make_old_runs.py made them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import topolearn

Run = Callable[..., tuple[int, str, str]]

OLD = Path(__file__).resolve().parent / "old"
RUNS = sorted(path.relative_to(OLD).as_posix() for path in OLD.glob("*/*-*") if path.is_dir())
FINISHED = [name for name in RUNS if name.endswith("-finished")]
STOPPED = [name for name in RUNS if not name.endswith("-finished")]
SEARCHED = [name for name in RUNS if (OLD / name / "search.safetensors").is_file()]

BEGUN = {"config.yaml", "history.jsonl", "search.yaml"}
FILES = {
    "finished": {*BEGUN, "graph.yaml", "search.safetensors", "weights.safetensors"},
    "searching": {*BEGUN, "checkpoint/state.pt"},
    "fine_tuning": {*BEGUN, "checkpoint/state.pt", "search.safetensors"},
}
"""State of a run -> what it has left so far."""
FILES_OF_FIXED = {
    "finished": FILES["finished"] - {"search.safetensors"},
    "training": FILES["searching"],
}

# One machine gives the same bits. Others were measured by the kernels that PyTorch has for them: for SSE, AVX2 and
# AVX-512, with and without oneDNN, with one thread and two.
ROUNDING: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
"""In one pass through a network, even where batch statistics are computed again before it: 6e-8."""
DRIFT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-3}
"""In the weights after the up to 36 steps that a stopped run still takes: 4e-7, in one run 1.3e-4. What is kept was
always the same; the closest decision is between two masks that are 0.13 apart."""


def contents(folder: Path) -> dict[str, bytes]:
    """What is in the files of a run, but for the curves of TensorBoard."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if not name.startswith("tensorboard/")}


def recipe(name: str) -> Path:
    """What a run was begun with."""
    return OLD / f"{name.rpartition('-')[0]}.yaml"


def expected(name: str) -> dict[str, Any]:
    """What came of a run in the version that wrote it."""
    found: dict[str, Any] = json.loads(recipe(name).with_suffix(".json").read_text(encoding="utf-8"))
    return found


def copied(name: str, tmp_path: Path) -> Path:
    """A copy of a run, which may be changed."""
    return Path(shutil.copytree(OLD / name, tmp_path / "run"))


def by_python(name: str, folder: Path, run: Run) -> None:
    topolearn.fit(recipe(name), out=folder, resume=True, device="cpu", export=False, quiet=True)


def by_command(name: str, folder: Path, run: Run) -> None:
    options = ("--out", str(folder), "--resume", "--device", "cpu", "--no-export", "--quiet")
    status, out, err = run("fit", str(recipe(name)), *options)
    assert status == 0, err
    assert "parameters" in out


def kept(graph: topolearn.Graph) -> list[list[str]]:
    return sorted([edge.src, edge.dst] for edge in graph.edges)


def assert_gives(folder: Path, name: str, which: str) -> None:
    """A finished network has the edges and gives the logits that it had and gave."""
    wanted = expected(name)
    net = topolearn.load_model(folder)
    assert kept(net.graph) == sorted(wanted[which]["edges"])
    with torch.no_grad():
        logits = net(torch.tensor(wanted["pixels"]).unsqueeze(1) / 16)
    torch.testing.assert_close(logits, torch.tensor(wanted[which]["logits"]), **ROUNDING)


def history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()]


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what depends on the clock, and without levels."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            found |= {f"{key}.{name}": item for name, item in value.items()}
        elif key not in ("seconds", "images_per_second"):
            found[key] = value
    return found


@pytest.mark.parametrize("learner", ["continuous", "continuous-budget", "fixed", "maskconnect", "sparsemask"])
def test_nothing_is_missing(learner: str) -> None:
    wanted = FILES_OF_FIXED if learner == "fixed" else FILES
    states = ("finished", "searching", "fine_tuning", "training")
    folders = {state: OLD / "0.1.0" / f"{learner}-{state}" for state in states}
    assert {state: set(contents(folder)) for state, folder in folders.items() if folder.is_dir()} == wanted


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_loads(name: str) -> None:
    assert_gives(OLD / name, name, "finished")
    assert topolearn.load_model(OLD / name).about["classes"] == list("0123456789")


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_is_returned(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path)
    trained: list[Any] = []
    result = topolearn.fit(
        recipe(name), out=folder, resume=True, device="cpu", export=False, quiet=True, callbacks=[trained.append]
    )
    assert not trained
    assert contents(folder) == contents(OLD / name)
    assert result.history == history(folder)
    assert result.metrics == result.history[-1]["metrics"]
    assert kept(result.graph) == kept(topolearn.load_graph(folder / "graph.yaml"))
    assert result.searched == topolearn.load_graph(OLD / name / "search.yaml")


@pytest.mark.parametrize("name", FINISHED)
def test_the_command_returns_a_finished_run(name: str, tmp_path: Path, run: Run) -> None:
    folder = copied(name, tmp_path)
    by_command(name, folder, run)
    assert contents(folder) == contents(OLD / name)


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_is_shown(name: str, tmp_path: Path, run: Run) -> None:
    status, out, err = run("show", str(copied(name, tmp_path)), "--json")
    assert status == 0, err
    assert json.loads(out)["edges"] == len(expected(name)["finished"]["edges"])


@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_is_pruned_anew(name: str, tmp_path: Path, run: Run) -> None:
    small = tmp_path / "small"
    option = expected(name)["pruned"]["set"]
    status, _, err = run("prune", str(copied(name, tmp_path)), "--out", str(small), "--set", option, "--device", "cpu")
    assert status == 0, err
    assert_gives(small, name, "pruned")
    assert {"graph.svg", "matrix.svg"} <= contents(small).keys()


@pytest.mark.parametrize(
    ("name", "resume"),
    [(name, by_python) for name in STOPPED] + [(name, by_command) for name in STOPPED if name.endswith("-searching")],
)
def test_a_stopped_run_ends_as_the_finished_one(
    name: str, resume: Callable[..., None], tmp_path: Path, run: Run
) -> None:
    folder, finished = copied(name, tmp_path), recipe(name).with_name(f"{recipe(name).stem}-finished")
    before = history(folder)
    with pytest.raises(topolearn.TopolearnError, match="is not finished"):
        topolearn.load_model(folder)
    resume(name, folder, run)
    assert contents(folder).keys() - {"movement.f32"} == contents(finished).keys()  # which is newer
    assert kept(topolearn.load_graph(folder / "graph.yaml")) == sorted(expected(name)["finished"]["edges"])
    for file in ("weights.safetensors", "search.safetensors"):
        if (finished / file).is_file():
            torch.testing.assert_close(load_file(folder / file), load_file(finished / file), **DRIFT)
    records, wanted = history(folder), history(finished)
    assert records[: len(before)] == before
    assert len(records) == len(wanted)
    for record, other in zip(records, wanted, strict=True):
        assert flat(record) == pytest.approx(flat(other), abs=0.01)
