"""What a job of a cluster does on its machine. Imports no torch: only the process that trains needs it."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from topolearn.errors import tell
from topolearn.studies.processes import Crew, Job, Process

if TYPE_CHECKING:
    import submitit

_POLL = 1.0
"""Seconds between looks at the run."""
_PATIENCE = 30.0
"""Seconds that a run has to write its checkpoint, and Slurm to say why it ended one."""
_INTERRUPTED = 130
"""Exit status of a run that was stopped from outside, with a checkpoint."""


@dataclass
class ClusterRun:
    """What a job does on its machine: train one run in a process of its own; called by submitit.

    Attributes:
        job: The run.
        device: Name of the device.
    """

    job: Job
    device: str
    process: Process | None = field(default=None, repr=False)

    def __call__(self) -> str | None:
        """Train, and return why that failed, or None."""
        crew = Crew((self.device,), 1, _threads())
        # A job that is queued again goes on.
        again = Job(self.job.label, (*self.job.arguments, "--resume"))
        self.process = process = Process(again, crew, 0, tell)
        while not process.has_ended():
            time.sleep(_POLL)
        if process.popen.returncode == _INTERRUPTED:
            # Slurm ends every process of a job that it takes back, and tells submitit a moment later.
            time.sleep(_PATIENCE)
        return process.failure()

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Stop with a checkpoint; called by submitit, in a signal handler, when time is up or Slurm wants the machine.

        Returns:
            What the job does when it is queued again.
        """
        from submitit.helpers import DelayedSubmission

        if self.process is not None:
            self.process.stop()
            end = time.monotonic() + _PATIENCE
            while _is_running(self.process.popen.pid) and time.monotonic() < end:
                time.sleep(0.1)
        return DelayedSubmission(ClusterRun(self.job, self.device))


def _is_running(pid: int) -> bool:
    """Whether a child runs. Unlike ``Popen``, this takes no lock, which the interrupted code might hold."""
    with contextlib.suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    return False


def _threads() -> int:
    """Return the number of threads to use: as the environment says, else one per CPU of the job."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() else len(os.sched_getaffinity(0))
