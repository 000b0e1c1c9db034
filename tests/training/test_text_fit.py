"""Runs on text: resumed to the bit, told by its hash, and what they say and write."""

from __future__ import annotations

import json
import platform
import re
import signal
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch

import topolearn
from tests.data.toys import toy
from tests.training.runs import (
    TEXT,
    Stopping,
    assert_same,
    graph,
    history,
    pair,
    quick_fit,
    send,
    text_pair,
    usual_loss,
)
from topolearn.data import TextFormat
from topolearn.data.text import TextData, text_of_ids
from topolearn.errors import CheckpointError, DataError, OptionError
from topolearn.format import loads
from topolearn.runs import FitResult
from topolearn.runs.config import read_config
from topolearn.tasks.next_token import TextScores

LEARNERS = ("continuous", "maskconnect")


def run(out: Path | None, learner: str = "continuous", data: Any = None, **options: Any) -> FitResult:
    """4 epochs of 3 steps, with dropout."""
    training = {"steps_per_epoch": 3, "checkpoint_steps": 1, "warmup_steps": 2}
    settings = {"graph": loads(TEXT), "epochs": 4, "batch_size": 4, "training": training} | options
    return quick_fit(learner=learner, data=text_pair() if data is None else data, out=out, **settings)


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_resumed_run_equals_an_undisturbed_one(learner: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run(whole, learner)
    for step in (2, 3, 5, 11):  # within an epoch, at its end, in the next one, after the search
        folder = tmp_path / f"stopped at {step}"
        with pytest.raises(KeyboardInterrupt):
            run(folder, learner, loss=Stopping(lambda: send(signal.SIGINT), at=[step]))
        assert not (folder / "weights.safetensors").exists()
        run(folder, learner, resume=True)
        assert_same(whole, folder)


def test_what_a_run_says_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my text.txt").write_bytes(bytes(range(16)) * 40)
    found = run(tmp_path / "run", data=str(tmp_path / "my text.txt"), quiet=False)
    lines = [line for line in capsys.readouterr().err.splitlines() if " left" in line]
    assert len(lines) == 4
    for line in lines:
        assert re.search(r"  val_loss \S+  val_bits_per_byte \S+  val_accuracy \S+  .*\d+ contexts/s, ", line), line
    config = read_config(tmp_path / "run" / "config.yaml")
    assert config["content"]["bytes"] == 640
    assert len(config["content"]["sha256"]) == 64
    assert config["input_size"] == {"tokens": {"length": 8, "vocabulary": 16}}
    last = json.loads((tmp_path / "run" / "history.jsonl").read_text().splitlines()[-1])
    assert last["phase"] == "result"
    assert last["metrics"]["bits_per_byte"] == pytest.approx(last["metrics"]["loss"] / torch.tensor(2.0).log().item())
    assert all(record["images_per_second"] > 0 for record in found.history[:-1])
    assert found.metrics == last["metrics"]
    again = topolearn.load_model(tmp_path / "run")
    assert again(torch.zeros(1, 5, dtype=torch.int64)).shape == (1, 5, 16)


def test_more_tokens_than_positions() -> None:
    model = run(None).model
    assert model(torch.zeros(2, 8, dtype=torch.int64)).shape == (2, 8, 16)
    assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 16)
    with pytest.raises(Exception, match="9") as caught:
        model(torch.zeros(2, 9, dtype=torch.int64))
    assert "8" in str(caught.value)


class TestPythonSource:
    @pytest.fixture
    def library(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Stands in for the standard library, in bytes below 16."""
        folder = tmp_path / "library"
        folder.mkdir()
        (folder / "a.py").write_bytes(bytes(range(16)) * 40)
        monkeypatch.setattr(sysconfig, "get_path", lambda name: {"stdlib": str(folder)}[name])
        return folder

    def stopped(self, folder: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            run(folder, data="python-source", loss=Stopping(lambda: send(signal.SIGINT), at=[2]))
        assert read_config(folder / "config.yaml")["content"]["python"] == platform.python_version()

    def test_another_python_with_the_same_text_goes_on(
        self, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.stopped(tmp_path / "run")
        monkeypatch.setattr(platform, "python_version", lambda: "3.99.1")
        run(tmp_path / "run", data="python-source", resume=True)
        run(tmp_path / "whole", data="python-source")
        assert history(tmp_path / "run") == history(tmp_path / "whole")

    def test_another_number_of_tokens_is_another_setting(self, library: Path, tmp_path: Path) -> None:
        self.stopped(tmp_path / "run")
        training = {"steps_per_epoch": 3, "checkpoint_steps": 1, "warmup_steps": 2, "validation_tokens": 8}
        with pytest.raises(
            CheckpointError, match=r"began with training\.validation_tokens null, not 8; resume it with"
        ):
            run(tmp_path / "run", data="python-source", resume=True, training=training)

    def test_another_text_is_another_run(self, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stopped(tmp_path / "run")
        (library / "a.py").write_bytes(bytes(reversed(range(16))) * 40)
        monkeypatch.setattr(platform, "python_version", lambda: "3.99.1")
        with pytest.raises(CheckpointError) as caught:
            run(tmp_path / "run", data="python-source", resume=True)
        assert re.fullmatch(
            r"the run in .*/run began with other data: 'python-source' has another text \(sha256 [0-9a-f]{12}, Python"
            r" 3\.99\.1, not sha256 [0-9a-f]{12}, Python [\d.]+\); resume it with the same data, or choose another"
            r" folder",
            caught.value.message,
        )


def test_steps_of_an_epoch_are_for_text() -> None:
    with pytest.raises(OptionError, match="'steps_per_epoch' is for text, but graph 'tiny' is for classification"):
        quick_fit(graph(), data=pair(), training={"steps_per_epoch": 5})


@pytest.mark.parametrize("option", ["steps_per_epoch", "validation_tokens"])
def test_a_text_for_an_image_graph_is_the_first_mistake(option: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words " * 100)
    with pytest.raises(DataError, match=r"a.txt' is for next_token, but the task is classification; use other data"):
        quick_fit(graph(), data=str(tmp_path / "a.txt"), training={option: 5})
    with pytest.raises(OptionError, match=f"'{option}' is for text, but graph 'tiny' is for classification"):
        quick_fit(graph(), data=pair(), training={option: 5})


class Judging:
    """The usual loss; counts the contexts of each batch that is judged."""

    def __init__(self) -> None:
        self.judged: list[int] = []

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            self.judged.append(len(targets))
        return usual_loss(logits, targets)


def test_an_evaluation_has_its_own_batches_and_can_be_shorter() -> None:
    loss = Judging()
    found = run(None, batch_size=1, loss=loss, training={"steps_per_epoch": 1})
    assert set(loss.judged) == {6}  # all contexts at once
    shorter = Judging()
    training = {"steps_per_epoch": 1, "validation_tokens": 25}
    assert run(None, batch_size=1, loss=shorter, training=training).metrics != found.metrics
    assert set(shorter.judged) == {3}


def test_batches_of_an_evaluation_do_not_change_its_result(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = run(None).metrics
    monkeypatch.setattr(TextData, "val_batch_size", lambda data, batch_size: 1)
    assert run(None).metrics == pytest.approx(at_once, rel=1e-6)


@pytest.mark.parametrize(("threshold", "times"), [(0.0, 4), (0.5, 5)])
def test_a_network_that_lost_nothing_is_not_judged_again(threshold: float, times: int) -> None:
    loss = Judging()
    learner: Any = {"name": "continuous", "penalty_strength": 0.0, "threshold": threshold}
    phases = {"training": {"steps_per_epoch": 1, "phases": {"fine_tune": 0}}}
    found = run(None, learner, loss=loss, **phases)
    assert (len(loss.judged), len(found.history) - 1) == (times, 4)
    assert (found.metrics == found.searched_metrics) == (threshold == 0)
    again = TextScores()
    with torch.no_grad():
        for ids, targets in text_of_ids(*text_pair(), TextFormat(8)).val_batches(6):
            again.update(found.model(ids), targets)
    assert float(again.compute()["bits_per_byte"]) == pytest.approx(found.metrics["bits_per_byte"], rel=1e-6)


def test_transformer_blocks_with_sgd_get_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    vit = loads(
        "topolearn: 1\nname: vit\ninputs: {image: [3, 8, 6]}\nnodes:\n"
        "  patches: {op: patch_embedding, channels: 4, patch: 2}\n  block: {op: transformer.block, heads: 2}\n"
        "  pool: {op: token_pool}\n  head: {op: classifier, classes: 4}\nedges:\n"
        "  - {connect: chain, nodes: [image, patches, block, pool, head]}\noutputs: [head]\n"
    )
    settings: dict[str, Any] = {"data": toy(), "epochs": 1}
    found = quick_fit(vit, "fixed", **settings)
    assert capsys.readouterr().err.startswith("transformer blocks usually learn better with AdamW than with SGD, the")
    assert "notes" not in found.history[-1]  # it is about the settings, not about the data
    for training in ({"optimizer": "sgd"}, {"optimizer": "adamw"}):
        quick_fit(vit, "fixed", **settings, training=training)
        assert capsys.readouterr().err == ""
    run(None)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("options", [{"penalty_strength": float("inf")}, {"auto_factor": float("nan")}])
def test_options_of_learners_are_finite(options: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="should be a finite number"):
        quick_fit(graph(), {"name": "continuous", **options}, pair())
