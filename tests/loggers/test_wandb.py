"""W&B: offline for real, in a process of its own; what W&B is told, by something that stands in for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.training.runs import Stopping, run, send
from topolearn.errors import TrainingError
from topolearn.loggers import WandbLogger

ROOT = Path(__file__).resolve().parent.parent.parent

OFFLINE = """
import signal, sys, topolearn
from tests.training.runs import Stopping, run, send

for how, places in (("stopped", [8]), ("finished", [])):
    logger = topolearn.loggers.WandbLogger(project="toys", mode="offline")
    try:
        stopping = Stopping(lambda: send(signal.SIGINT), at=places)
        run(sys.argv[1], loss=stopping, callbacks=[logger], resume=how == "finished")
    except KeyboardInterrupt:
        assert how == "stopped"
    print(logger.run_id)
"""


def test_offline_for_real(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    folder = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.split()
    assert first == second
    assert (folder / "wandb-run.txt").read_text() == f"{first}\n"
    before, after = (path.read_bytes() for path in sorted(folder.glob(f"wandb/offline-run-*/run-{first}.wandb")))
    for written in (before, after):
        assert b"toys" in written
        assert b"val_accuracy" in written
        assert b"fan_in" in written
    assert b"final_accuracy" in after
    assert b"final_accuracy" not in before


class StandIn(ModuleType):
    """What stands in for W&B; it keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.codes: list[int] = []
        self.fails: str | None = None

    def init(self, **options: Any) -> Any:
        if self.fails is not None:
            raise RuntimeError(self.fails)
        self.started.append(options)
        return SimpleNamespace(
            id=options["id"] or "new",
            log=self.logged.append,
            summary=self.summary,
            define_metric=lambda *_, **__: None,
            finish=lambda exit_code: self.codes.append(exit_code),
        )


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_a_run(wandb: StandIn, tmp_path: Path) -> None:
    result = run(tmp_path / "run", callbacks=[WandbLogger(tags=["a"])])
    (started,) = wandb.started
    assert started["config"] == result.config
    assert {key: value for key, value in started.items() if key != "config"} == {
        "project": "topolearn",
        "name": str(tmp_path / "run"),
        "id": None,
        "resume": "allow",
        "dir": str(tmp_path / "run"),
        "tags": ["a"],
    }
    assert [record["epoch"] for record in wandb.logged] == [0, 1, 2, 3, 4]
    assert [record["phase"] for record in wandb.logged] == [record["phase"] for record in result.history[:-1]]
    assert [record["train_loss"] for record in wandb.logged] == [each["train_loss"] for each in result.history[:-1]]
    assert wandb.summary["final_accuracy"] == result.metrics["accuracy"]
    assert wandb.codes == [0]


def test_a_run_that_is_stopped_goes_on_where_it_was(wandb: StandIn, tmp_path: Path) -> None:
    stopping = Stopping(lambda: send(signal.SIGINT), at=[8])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", loss=stopping, callbacks=[WandbLogger()])
    run(tmp_path / "run", loss=Stopping(lambda: None), callbacks=[WandbLogger()], resume=True)
    assert [started["id"] for started in wandb.started] == [None, "new"]
    assert [record["epoch"] for record in wandb.logged] == [0, 1, 2, 3, 4]
    assert wandb.codes == [255, 0]


def test_a_run_that_fails(wandb: StandIn) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(loss=Stopping(fail, at=[8]), callbacks=[WandbLogger("mine", name="first")])
    assert (wandb.started[0]["project"], wandb.started[0]["name"]) == ("mine", "first")
    assert "dir" not in wandb.started[0]
    assert wandb.codes == [1]


def test_without_a_login(wandb: StandIn, tmp_path: Path) -> None:
    wandb.fails = "No API key configured."
    with pytest.raises(TrainingError, match="W&B does not start: No API key configured; log in with `wandb login`"):
        run(tmp_path / "run", callbacks=[WandbLogger()])
    assert not (tmp_path / "run").exists()
