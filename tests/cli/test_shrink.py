"""``topolearn shrink``: from weights and a folder of pictures to a smaller network as ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.shrinking import MODEL, folder, weights
from topolearn.runs import read_result

Run = Callable[..., tuple[int, str, str]]

__all__ = ["folder", "weights"]  # fixtures


def test_it_shrinks_and_exports(run: Run, folder: Path, weights: Path, tmp_path: Path) -> None:
    target = tmp_path / "small"
    command = ["shrink", MODEL, "--weights", str(weights), "--data", str(folder), "--size", "32", "--out", str(target)]
    command += [
        "--budget",
        "macs=0.8",
        "--learner",
        "similarity",
        "--epochs",
        "2",
        "--lr",
        "0.0001",
        "--batch-size",
        "8",
    ]
    command += ["--set", "batches=1", "--set", "schedule=step", "--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2", "-q"]
    status, out, _ = run(*command)
    assert status == 0
    assert "as removed" in out
    assert (target / "model.onnx").is_file()
    result = read_result(target)
    assert result.config["learner_options"]["batches"] == 1
    assert result.config["learner_options"]["budget"]["macs"] == 0.8
    assert result.config["training"]["schedule"] == "step"
    assert tuple(result.config["mean"]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "macs"], "--budget macs: write it as KEY=VALUE"),
        (["--budget", "seconds=1"], "seconds"),
        (["--budget", "macs=2"], "budget"),
        (["--budget", "macs=0.5", "--set", "epochs=3"], "this command has its own option for it: --epochs"),
        (["--budget", "macs=0.5", "--set", "nodes.fc.classes=3"], "this command reads no graph file"),
        (["--budget", "macs=0.5", "--set", "btches=3"], "unknown setting; did you mean 'batches'"),
        (["--budget", "macs=0.5", "--learner", "tailor"], "unknown learner 'tailor'; did you mean 'taylor'"),
        (["--budget", "macs=0.5", "--size", "big"], "--size big: write a number of pixels"),
    ],
)
def test_errors_are_one_line(
    run: Run, options: list[str], message: str, folder: Path, weights: Path, tmp_path: Path
) -> None:
    command = ["shrink", MODEL, "--weights", str(weights), "--data", str(folder), "--out", str(tmp_path / "small")]
    status, out, err = run(*command, *options)
    assert (status, out) == (2, "")
    assert message in err
    notes, _, last = err.rstrip("\n").rpartition("\n")  # that the last layer starts at random, if it comes so far
    assert last.startswith("error: ")
    assert not notes or notes.startswith("the last layer")
    assert not (tmp_path / "small").exists()
