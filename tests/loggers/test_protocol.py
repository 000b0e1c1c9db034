"""What callbacks are told of a run: its beginning, each epoch, and its end, however it ends."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import Stopping, run, send
from topolearn.errors import OptionError, TrainingError
from topolearn.loggers import LOGGERS, make_logger


class Told:
    """A callback with `begin` and `end`; it keeps what it is told."""

    def __init__(self, begins: bool = True) -> None:
        self.begun: list[tuple[Mapping[str, Any], Path | None, int]] = []
        self.records: list[Mapping[str, Any]] = []
        self.ended: list[tuple[Any, BaseException | None]] = []
        self.begins = begins

    def begin(self, config: Mapping[str, Any], out: Path | None, history: Any) -> None:
        if not self.begins:
            raise TrainingError("no service")
        self.begun.append((config, out, len(history)))
        assert out is None or not (out / "config.yaml").exists() or history

    def __call__(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)

    def end(self, result: Any, error: BaseException | None) -> None:
        self.ended.append((result, error))


def test_a_callback_is_told_of_a_run(tmp_path: Path) -> None:
    told, plain = Told(), []
    result = run(tmp_path / "run", callbacks=[told, plain.append])
    ((config, out, before),) = told.begun
    assert (config, out, before) == (result.config, tmp_path / "run", 0)
    assert plain == told.records == result.history[:-1]
    assert told.ended == [(result, None)]


def test_files_are_written_before_the_end(tmp_path: Path) -> None:
    left: list[bool] = []

    class Last(Told):
        def end(self, result: Any, error: BaseException | None) -> None:
            left.append((tmp_path / "run" / "weights.safetensors").is_file())

    run(tmp_path / "run", callbacks=[Last()], epochs=2)
    assert left == [True]


def test_a_run_that_is_stopped_and_goes_on(tmp_path: Path) -> None:
    first, second = Told(), Told()
    stopping = Stopping(lambda: send(signal.SIGINT), at=[8])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", loss=stopping, callbacks=[first])
    ((result, error),) = first.ended
    assert (result, type(error)) == (None, KeyboardInterrupt)
    finished = run(tmp_path / "run", loss=Stopping(lambda: None), callbacks=[second], resume=True)
    assert [before for _, _, before in (*first.begun, *second.begun)] == [0, len(first.records)]
    assert [*first.records, *second.records] == finished.history[:-1]


def test_a_run_that_fails() -> None:
    told = Told()

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as failure:
        run(loss=Stopping(fail, at=[8]), callbacks=[told])
    assert told.ended == [(None, failure.value)]


def test_an_error_at_the_beginning_leaves_nothing(tmp_path: Path) -> None:
    told = Told()
    with pytest.raises(TrainingError, match="no service") as failure:
        run(tmp_path / "run", callbacks=[told, Told(begins=False)])
    assert told.ended == [(None, failure.value)]
    assert not (tmp_path / "run").exists()
    run(tmp_path / "run", epochs=2)


def test_an_error_at_the_end_does_not_hide_why_a_run_failed() -> None:
    class Broken(Told):
        def end(self, result: Any, error: BaseException | None) -> None:
            raise RuntimeError("cannot be closed")

    told = Told()
    with pytest.raises(KeyboardInterrupt):
        run(loss=Stopping(lambda: send(signal.SIGINT), at=[8]), callbacks=[told, Broken()])
    assert len(told.ended) == 1


def test_what_a_logger_leaves_early_does_not_block_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "wandb").mkdir(parents=True)
    (folder / "wandb-run.txt").write_text("abc\n")
    (folder / "mlflow-run.txt").write_text("abc\n")
    assert run(folder, epochs=2).folder == folder


def test_loggers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    with pytest.raises(OptionError, match="unknown logger 'wandbb'; did you mean 'wandb'"):
        make_logger("wandbb")
    for module in ("mlflow", "wandb", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in LOGGERS:
        with pytest.raises(OptionError, match=rf"is not installed; run: pip install 'topolearn-torch\[{name}\]'"):
            make_logger(name)


def test_the_command_line_asks_for_loggers_before_anything_else(run: Any, tmp_path: Path) -> None:
    status, _, err = run("fit", "digits", "--log", "neptune", "--out", str(tmp_path / "run"))
    assert (status, err) == (2, "error: unknown logger 'neptune'; known: mlflow, tensorboard, wandb\n")
    assert not (tmp_path / "run").exists()
