"""A run that was stopped, however, and resumed in another process gives what an undisturbed one gives."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import topolearn
from tests.training.runs import Processes, Stopping, assert_same, graph, run, send, untimed
from topolearn.runs.tensor_files import save_tensors

LEARNERS = ("maskconnect", "continuous", "continuous with a budget", "sparsemask", "fixed")

STATES = {
    "maskconnect": {"mask", "noise", "random._extra_state"},
    "continuous": {"alpha"},
    "continuous with a budget": {"alpha", "pricing.weight", "pricing.shrinkage", "pricing.held", "pricing.steps"},
    "sparsemask": {"gate", "noise", "random._extra_state"},
    "fixed": set(),
}
"""What a learner's state holds, among others."""

# 5 training steps an epoch, 2 validation batches an evaluation; 3 epochs of search.
KILLED = {
    "in the search": {"at": [8]},
    "while the last epoch of the search is evaluated": {"val": [5]},
    "at the boundary after the search": {"val": [7]},
    "in the later phase": {"at": [18]},
}
INTERRUPTED = {
    "in the search": {"at": [8]},
    "in the last step of the search": {"at": [15]},
    "in the later phase": {"at": [18]},
}


@pytest.fixture(scope="module")
def first() -> Iterator[Processes]:
    with Processes(hash_seed=1) as processes:
        yield processes


@pytest.fixture(scope="module")
def second() -> Iterator[Processes]:
    """Another interpreter, with other hashes."""
    with Processes(hash_seed=2) as processes:
        yield processes


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "checkpoint" / "state.pt", weights_only=True)
    return found | {"history": untimed(found["history"])}


def assert_equal(first: Any, second: Any, where: str = "state") -> None:
    assert type(first) is type(second), where
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    elif isinstance(first, dict):
        assert list(first) == list(second), where
        for key in first:
            assert_equal(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for i, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f"{where}.{i}")
    else:
        assert first == second, where


@pytest.fixture(scope="module")
def whole(first: Processes, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Gives the folder of an undisturbed run."""

    @functools.cache
    def folder(learner: str, data: str = "tensors") -> Path:
        place = tmp_path_factory.mktemp("whole") / "run"
        assert first.run(place, learner=learner, data=data) == 0
        return place

    return folder


@pytest.mark.parametrize("learner", LEARNERS)
def test_resumed_run_equals_undisturbed_one(
    learner: str, first: Processes, second: Processes, tmp_path: Path, whole: Callable[..., Path]
) -> None:
    for name, place in KILLED.items():
        folder = tmp_path / f"killed {name}"
        assert first.run(folder, learner=learner, stop={"signal": "SIGKILL", **place}) == -signal.SIGKILL, name
        assert (folder / "checkpoint" / "state.pt").is_file(), name
        assert not (folder / "weights.safetensors").exists(), name
        assert second.run(folder, learner=learner, resume=True) == 0, name
        assert_same(whole(learner), folder)
    for name, place in INTERRUPTED.items():
        folder = tmp_path / f"interrupted {name}"
        assert first.run(folder, learner=learner, stop={"signal": "SIGINT", **place}) == 130, name
        assert not (folder / "weights.safetensors").exists(), name
        assert second.run(folder, learner=learner, resume=True) == 0, name
        assert_same(whole(learner), folder)


@pytest.mark.parametrize("learner", LEARNERS)
def test_resumed_state_equals_undisturbed_one(
    learner: str, first: Processes, second: Processes, tmp_path: Path
) -> None:
    """Weights, gates, optimisers, generators and all else that a checkpoint holds; stopped twice on the way."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert first.run(whole, learner=learner, stop={"signal": "SIGKILL", "at": [13]}) == -signal.SIGKILL
    assert first.run(parts, learner=learner, stop={"signal": "SIGKILL", "at": [4]}) == -signal.SIGKILL
    assert second.run(parts, learner=learner, resume=True, stop={"signal": "SIGINT", "at": [6]}) == 130
    # The first stop went back to step 2, the second one to step 8.
    assert first.run(parts, learner=learner, resume=True, stop={"signal": "SIGKILL", "at": [5]}) == -signal.SIGKILL
    ours, theirs = state(whole), state(parts)
    assert ours["position"] == {"phase": 0, "epoch": 2, "step": 2, "epochs": 2, "settled": learner == "fixed"}
    assert_equal(ours, theirs)
    assert set(ours["learner"]) >= STATES[learner]
    assert any(entry["state"] for entry in ours["optimizers"])


@pytest.mark.parametrize("data", ["datasets", "several"])
def test_datasets_with_random_transforms(
    data: str, first: Processes, second: Processes, tmp_path: Path, whole: Callable[..., Path]
) -> None:
    for number, at in (("SIGKILL", 5), ("SIGINT", 7), ("SIGKILL", 12)):
        folder = tmp_path / f"{number}-{at}"
        first.run(folder, learner="maskconnect", data=data, stop={"signal": number, "at": [at]})
        assert second.run(folder, learner="maskconnect", data=data, resume=True) == 0
        assert_same(whole("maskconnect", data), folder)


def test_loaders_from_the_end_of_the_last_epoch(
    first: Processes, second: Processes, tmp_path: Path, whole: Callable[..., Path]
) -> None:
    for number, status in (("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)):
        folder = tmp_path / number
        stop = {"signal": number, "at": [8]}
        assert first.run(folder, learner="maskconnect", data="loaders", stop=stop) == status
        assert state(folder)["position"] == {"phase": 0, "epoch": 2, "step": 0, "epochs": 2, "settled": False}
        assert second.run(folder, learner="maskconnect", data="loaders", resume=True) == 0
        assert_same(whole("maskconnect", "loaders"), folder)
    said = (tmp_path / "SIGINT.log").read_text()
    assert f"go on with --resume ({tmp_path / 'SIGINT'}), from the end of the last epoch" in said
    assert "a DataLoader cannot start in the middle" in said


def test_interrupted_before_the_first_checkpoint(
    first: Processes, second: Processes, tmp_path: Path, whole: Callable[..., Path]
) -> None:
    folder = tmp_path / "stopped"
    assert first.run(folder, learner="maskconnect", stop={"signal": "SIGKILL", "at": [1]}) == -signal.SIGKILL
    assert not (folder / "checkpoint").exists()
    assert second.run(folder, learner="maskconnect") == 2
    assert "already holds a run; give --resume" in (tmp_path / "stopped.log").read_text()
    assert second.run(folder, learner="maskconnect", resume=True) == 0
    assert f"nothing to resume in {folder}; starting from the beginning" in (tmp_path / "stopped.log").read_text()
    assert_same(whole("maskconnect"), folder)


def test_it_is_said_that_nothing_is_resumed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    for line in (f"nothing to resume in {folder}; starting from", f"the run in {folder} is already finished"):
        run(folder, "fixed", resume=True, quiet=False)
        assert line in capfd.readouterr().err
    run(tmp_path / "other", "fixed", quiet=False)
    assert "resume" not in capfd.readouterr().err


def test_second_interrupt_acts_at_once(
    first: Processes, second: Processes, tmp_path: Path, whole: Callable[..., Path]
) -> None:
    folder = tmp_path / "stopped"
    assert first.run(folder, learner="sparsemask", stop={"signal": "SIGINT", "at": [8], "twice": True}) == 130
    assert state(folder)["position"]["step"] == 2, "the step was not finished, its checkpoint not written"
    assert second.run(folder, learner="sparsemask", resume=True) == 0
    assert_same(whole("sparsemask"), folder)


@pytest.mark.parametrize("learner", ["maskconnect", "sparsemask"])  # the latter starts again from the given weights
def test_a_resumed_run_needs_no_weights_to_start_from(
    learner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "start.safetensors"
    save_tensors(file, topolearn.compile(graph()).state_dict(), {})
    settings: dict[str, Any] = {"learner": learner, "weights": file}
    run(tmp_path / "whole", loss=Stopping(lambda: None), **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", loss=Stopping(lambda: send(signal.SIGINT), at=[8]), **settings)
    file.unlink()
    run(tmp_path / "parts", loss=Stopping(lambda: None), resume=True, **settings)
    assert_same(tmp_path / "whole", tmp_path / "parts")
    monkeypatch.setattr("topolearn.training.fitting.load_pretrained", lambda net: pytest.fail("asked for weights"))
    settings = {"learner": learner}
    with pytest.raises(pytest.fail.Exception):
        run(tmp_path / "fresh", **settings)
    assert not (tmp_path / "fresh").exists(), "nothing is written before the weights are there"
