"""Runs on a user's own Datasets, loss and metrics are pruned and swept again, or the error says how."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.runs import SEVERAL, pair, several_loss
from tests.training.runs import run as train
from topolearn.errors import DataError, OptionError
from topolearn.format import loads
from topolearn.prediction import predict_validation
from topolearn.studies.reprune import reprune
from topolearn.studies.sweep import OWN, sweep

MEND = (
    "a set of your own that was given in Python; say where such data are with --data-root or --data, or give the set"
    " again as 'data' in Python"
)


def error(outputs: Any, targets: Any) -> Tensor:
    return (outputs["size"][:, 0] - targets["size"]).abs().mean()


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two inputs and two outputs, on the user's Datasets, with the user's loss and metric."""
    folder = tmp_path_factory.mktemp("several") / "run"
    train(folder, data=pair("several"), graph=loads(SEVERAL), loss=several_loss, metrics={"error": error})
    return folder


def test_the_loss_and_the_metrics_of_the_run_judge_again(several: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": pair("several"), "loss": several_loss, "device": "cpu"}
    again = reprune(several, tmp_path / "again", metrics={"error": error}, **given)
    assert again.metrics.keys() == {"loss", "error"}
    whole = sweep(several, tmp_path / "swept", shares=(0.0,), seeds=(0,), metrics={"error": error}, quiet=True, **given)
    (own,) = whole.at(OWN, None)
    assert own.metrics == pytest.approx(again.metrics, abs=1e-6)
    assert "error" in whole.table().columns
    alone = sweep(several, tmp_path / "swept", shares=(0.0,), seeds=(0,), quiet=True, **given)
    assert alone.metrics == ("loss",)
    assert alone.at(OWN, None)[0].metrics == {"loss": pytest.approx(again.metrics["loss"])}


def test_without_them_the_error_says_to_give_them(several: Path, tmp_path: Path) -> None:
    data = pair("several")
    with pytest.raises(
        DataError, match=r"needs one whole number per item; give a 'loss' of \(outputs, targets\) in Python"
    ):
        sweep(several, data=data, quiet=True)
    with pytest.raises(OptionError, match="'loss' is 3, but must be a function"):
        reprune(several, tmp_path / "again", data=data, loss=3)  # type: ignore[arg-type]
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("kind", ["datasets", "loaders"])
def test_own_sets_are_not_looked_for_by_the_name_of_their_class(
    kind: str,
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(tmp_path / "run", data=pair(kind))
    capsys.readouterr()
    (tmp_path / "Noisy").mkdir()  # a folder of that name is something else
    monkeypatch.chdir(tmp_path)
    says = f"there is no way to find the run's data 'Noisy', {MEND}"
    assert run("prune", "run", "--sweep", "--device", "cpu") == (2, "", f"error: {says}\n")
    with pytest.raises(DataError) as caught:
        predict_validation("run")
    assert str(caught.value) == says
    with pytest.warns(UserWarning, match=f"so nothing is measured: {re.escape(says)}"):
        assert reprune("run", "unmeasured", device="cpu").metrics == {}
    assert torch.isfinite(torch.tensor(reprune("run", "again", data=pair(kind), device="cpu").metrics["accuracy"]))
