"""MLflow, in a store of its own in a file."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.training.runs import Stopping, run, send, usual_loss
from topolearn.errors import TrainingError
from topolearn.loggers import MLflowLogger

mlflow = pytest.importorskip("mlflow")

# SQLAlchemy on how MLflow uses it, when the store is first opened.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore:The ``noload`` loader strategy")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a store in a file, which takes MLflow seconds to make."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/store.db"


def runs(store: str, experiment: str) -> list[Any]:
    client = mlflow.MlflowClient(store)
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def steps(store: str, run_id: str, name: str) -> dict[int, float]:
    return {point.step: point.value for point in mlflow.MlflowClient(store).get_metric_history(run_id, name)}


def test_a_run(store: str, tmp_path: Path) -> None:
    logger = MLflowLogger("whole", tracking_uri=store)
    result = run(tmp_path / "run", callbacks=[logger], metrics={"½ of /../ it": lambda outputs, targets: 0.5})
    (found,) = runs(store, "whole")
    assert (found.info.run_id, found.info.status) == (logger.run_id, "FINISHED")
    assert found.info.run_name == str(tmp_path / "run")
    assert (tmp_path / "run" / "mlflow-run.txt").read_text() == f"{logger.run_id}\n"
    assert found.data.params["training.schedule"] == "cosine"
    assert found.data.params["learner_options.fan_in"] == str(result.config["learner_options"]["fan_in"])
    losses = {step: record["train_loss"] for step, record in enumerate(result.history[:-1])}
    assert steps(store, logger.run_id, "train_loss") == losses
    assert found.data.metrics["final_loss"] == result.metrics["loss"]
    assert found.data.metrics["final_parameters"] == result.graph.cost.params
    assert found.data.metrics["val_½ of _.._ it"] == found.data.metrics["final_½ of _.._ it"] == 0.5


def test_a_run_that_is_stopped_goes_on_where_it_was(store: str, tmp_path: Path) -> None:
    first, second = (MLflowLogger("stopped", tracking_uri=store) for _ in range(2))
    stopping = Stopping(lambda: send(signal.SIGINT), at=[8])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", loss=stopping, callbacks=[first])
    assert [each.info.status for each in runs(store, "stopped")] == ["KILLED"]
    run(tmp_path / "run", loss=Stopping(lambda: None), callbacks=[second], resume=True)
    (found,) = runs(store, "stopped")
    assert (found.info.run_id, found.info.status) == (first.run_id, "FINISHED")
    assert sorted(steps(store, first.run_id, "train_loss")) == [0, 1, 2, 3, 4]


def test_a_run_that_fails(store: str) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(loss=Stopping(fail, at=[8]), callbacks=[MLflowLogger("failed", name="mine", tracking_uri=store)])
    (found,) = runs(store, "failed")
    assert (found.info.run_name, found.info.status) == ("mine", "FAILED")


def test_a_run_that_was_deleted_begins_again(store: str, tmp_path: Path) -> None:
    first, second = (MLflowLogger("deleted", tracking_uri=store) for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", loss=Stopping(lambda: send(signal.SIGINT), at=[8]), callbacks=[first])
    mlflow.MlflowClient(store).delete_run(first.run_id)
    run(tmp_path / "run", loss=Stopping(lambda: None), callbacks=[second], resume=True)
    (found,) = runs(store, "deleted")
    assert found.info.run_id == second.run_id != first.run_id
    assert (tmp_path / "run" / "mlflow-run.txt").read_text() == f"{second.run_id}\n"


def test_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"MLflow does not take this run: .*; check 'tracking_uri'"):
        run(tmp_path / "run", callbacks=[MLflowLogger(tracking_uri="gopher://nowhere")])
    assert not (tmp_path / "run").exists()


def test_a_store_that_fails_later_does_not_end_training(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = MLflowLogger("gone", tracking_uri=store)

    def loss(outputs: Any, targets: Any) -> Any:
        monkeypatch.setattr(logger._client, "log_batch", lambda *_, **__: 1 / 0)
        return usual_loss(outputs, targets)

    with pytest.warns(UserWarning, match="MLflow did not take the numbers of this run: division by zero"):
        assert run(epochs=2, loss=loss, callbacks=[logger]).metrics


def test_the_experiment_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MLflowLogger().experiment == "topolearn"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert (MLflowLogger().experiment, MLflowLogger("mine").experiment) == ("theirs", "mine")
