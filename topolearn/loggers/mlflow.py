"""The numbers of a run in MLflow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.errors import OptionError, TrainingError
from topolearn.loggers.base import Logger, closing_numbers, flat, keep_id, numbers, only_warned, read_id, run_name
from topolearn.runs import FitResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_ID = "mlflow-run.txt"
"""File in the folder of a run that holds its id in MLflow."""
_AT_ONCE = 100
"""Most parameters that MLflow takes in one call."""
_LONGEST_NAME, _LONGEST_VALUE = 250, 6000
"""MLflow's limits, in characters."""


class MLflowLogger(Logger):
    """Logs settings as parameters, and the numbers of each epoch as metrics, to MLflow.

    Needs ``topolearn-torch[mlflow]``. A resumed run goes on in the run that it began: its id is in the folder.

    Args:
        experiment: Name of the experiment, which is made if it does not exist. Default: the environment variable
            ``MLFLOW_EXPERIMENT_NAME``, else ``topolearn``.
        name: Name of the run. Default: its folder, or its graph and learner.
        tracking_uri: Address of the server, or a file such as ``sqlite:///mlflow.db``. Default: MLflow's, which is
            ``MLFLOW_TRACKING_URI`` if that is set.
    """

    def __init__(
        self, experiment: str | None = None, *, name: str | None = None, tracking_uri: str | None = None
    ) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise OptionError("MLflow is not installed; run: pip install 'topolearn-torch[mlflow]'") from None
        self._open = MlflowClient
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "topolearn"
        self.name = name
        self.tracking_uri = tracking_uri
        self.run_id = ""

    def begin(self, config: Mapping[str, Any], out: Path | None, history: Sequence[Mapping[str, Any]]) -> None:
        """Make a run with the settings, or go on in the one whose id is in the folder.

        Raises:
            TrainingError: MLflow cannot be reached, or refuses the run.
        """
        self._step = len(history)
        try:
            self._client = self._open(tracking_uri=self.tracking_uri)
            before = read_id(out, RUN_ID)
            if before is not None and self._goes_on(before):
                self.run_id = before
                return
            experiment = _experiment(self._client, self.experiment)
            made = self._client.create_run(experiment, run_name=self.name or run_name(config, out))
            self.run_id = made.info.run_id
            self._send_settings(config)
        except Exception as error:
            raise TrainingError(
                f"MLflow does not take this run: {str(error).rstrip('.')}; check 'tracking_uri' (MLFLOW_TRACKING_URI)"
            ) from None
        keep_id(out, RUN_ID, self.run_id)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of an epoch."""
        self._send(numbers(record))
        self._step += 1

    def end(self, result: FitResult | None, error: BaseException | None) -> None:
        """Log the closing numbers, and close the run: finished, killed (after Ctrl-C) or failed."""
        if result is not None:
            self._send(closing_numbers(result))
        status = "FINISHED" if error is None else "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        with only_warned("MLflow"):
            self._client.set_terminated(self.run_id, status)

    def _goes_on(self, run_id: str) -> bool:
        """Whether MLflow still has a run; it is then marked as running."""
        from mlflow.exceptions import MlflowException

        try:
            if self._client.get_run(run_id).info.lifecycle_stage != "active":
                return False
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        self._client.update_run(run_id, status="RUNNING")
        return True

    def _send_settings(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        texts = {_name(key): value[:_LONGEST_VALUE] for key, value in flat(config).items()}
        found = [Param(key, value) for key, value in texts.items()]
        for start in range(0, len(found), _AT_ONCE):
            self._client.log_batch(self.run_id, params=found[start : start + _AT_ONCE])

    def _send(self, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_name(name), value, now, self._step) for name, value in values.items()]
        with only_warned("MLflow"):
            self._client.log_batch(self.run_id, metrics=metrics)


def _experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, which is made if it does not exist."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException:  # another run has just made it
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


def _name(text: str) -> str:
    """Return a name that MLflow takes: letters, digits, and some signs; no path."""
    return re.sub(r"[^\w .:-]", "_", text)[:_LONGEST_NAME]
