"""The numbers of a run in Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topolearn.errors import OptionError, TrainingError
from topolearn.loggers.base import Logger, closing_numbers, keep_id, numbers, only_warned, read_id, run_name
from topolearn.runs import FitResult

RUN_ID = "wandb-run.txt"
"""File in the folder of a run that holds its id in Weights & Biases."""
_KILLED = 255
"""Exit code that Weights & Biases shows as killed, as after Ctrl-C."""


class WandbLogger(Logger):
    """Logs settings, the numbers of each epoch, and a summary, to Weights & Biases. Needs ``topolearn-torch[wandb]``.

    A resumed run goes on in the run that it began: its id is in the folder. What W&B writes itself is in ``wandb/`` of
    the folder of the run.

    Args:
        project: Name of the project. Default: the environment variable ``WANDB_PROJECT``, else ``topolearn``.
        name: Name of the run. Default: its folder, or its graph and learner.
        options: Other arguments of ``wandb.init``: ``mode="offline"``, ``entity``, ``tags``, ``group`` …
    """

    def __init__(self, project: str | None = None, *, name: str | None = None, **options: Any) -> None:
        try:
            import wandb
        except ImportError:
            raise OptionError("W&B is not installed; run: pip install 'topolearn-torch[wandb]'") from None
        self._wandb = wandb
        self.project = project or os.environ.get("WANDB_PROJECT") or "topolearn"
        self.name = name
        self.options = options
        self.run_id = ""

    def begin(self, config: Mapping[str, Any], out: Path | None, history: Sequence[Mapping[str, Any]]) -> None:
        """Make a run with the settings, or go on in the one whose id is in the folder.

        Raises:
            TrainingError: W&B does not start: no login, no network, or an unknown option.
        """
        self._epoch = len(history)
        place = {} if out is None or "WANDB_DIR" in os.environ else {"dir": str(out)}
        asked = {"name": self.name or run_name(config, out), "id": read_id(out, RUN_ID), "resume": "allow", **place}
        try:
            self._run = self._wandb.init(project=self.project, config=dict(config), **(asked | self.options))
            # A resumed run may repeat an epoch, and W&B's own steps only grow.
            self._run.define_metric("epoch", hidden=True)
            self._run.define_metric("*", step_metric="epoch")
        except Exception as error:
            raise TrainingError(
                f"W&B does not start: {str(error).rstrip('.')}; log in with `wandb login`, or give mode='offline'"
                " (WANDB_MODE=offline)"
            ) from None
        self.run_id = self._run.id
        keep_id(out, RUN_ID, self.run_id)

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Log the numbers of an epoch, and its phase."""
        with only_warned("W&B"):
            self._run.log({"epoch": self._epoch, "phase": str(record["phase"]), **numbers(record)})
        self._epoch += 1

    def end(self, result: FitResult | None, error: BaseException | None) -> None:
        """Write the closing numbers to the summary, and close the run: finished, killed (after Ctrl-C) or failed."""
        status = 0 if error is None else _KILLED if isinstance(error, KeyboardInterrupt) else 1
        with only_warned("W&B"):
            if result is not None:
                self._run.summary.update(closing_numbers(result))
            self._run.finish(exit_code=status)
