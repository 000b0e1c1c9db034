"""TensorBoard, where it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.runs import run
from topolearn.errors import OptionError
from topolearn.loggers import TensorBoardLogger

pytest.importorskip("tensorboard")


def test_a_folder_of_your_own_replaces_the_usual_one(tmp_path: Path) -> None:
    run(tmp_path / "run", epochs=2, callbacks=[TensorBoardLogger(tmp_path / "curves")])
    assert len(list((tmp_path / "curves").iterdir())) == 1
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_run_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="TensorBoardLogger has no folder to write to"):
        run(callbacks=[TensorBoardLogger()])
    run(epochs=2, callbacks=[TensorBoardLogger(str(tmp_path / "curves"))])
    assert len(list((tmp_path / "curves").iterdir())) == 1


def test_a_folder_that_it_cannot_write_to(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="whose name is not UTF-8"):
        run(tmp_path / "r\udce9", callbacks=[TensorBoardLogger()])
