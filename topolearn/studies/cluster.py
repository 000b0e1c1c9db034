"""Run ``topolearn fit`` several times as jobs of Slurm, through submitit; like :mod:`topolearn.studies.processes`."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.errors import OptionError, TrainingError
from topolearn.studies.cluster_run import ClusterRun
from topolearn.studies.processes import Job
from topolearn.training.interrupt import Interrupt

if TYPE_CHECKING:
    import submitit

FOLDER = "slurm"
"""Folder in that of a comparison for what submitit writes: scripts, and a log of each job."""
_KIND = "slurm"
"""submitit's name of the cluster; tests take its ``local``."""
_POLL = 1.0
"""Seconds between looks at the jobs; submitit asks Slurm less often."""
_GRACE = 90
"""Seconds before the end of its time at which Slurm warns a job, which then writes a checkpoint and queues again."""
_SHORT = {"cpus": "cpus-per-task", "memory": "mem"}
_OURS = ("array", "error", "job-name", "nodes", "ntasks", "ntasks-per-node", "output", "signal")
"""Options of sbatch that are set here: a run is one process in one job."""


@dataclass(frozen=True)
class Cluster:
    """How jobs are submitted.

    Attributes:
        minutes: Time that a job may take.
        options: Options of sbatch, by long name.
        at_once: Number of jobs at a time; None for as many as Slurm starts.
    """

    minutes: int
    options: Mapping[str, str]
    at_once: int | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], at_once: int | None) -> Cluster:
        """Check options of sbatch, some of which have a shorter name: ``cpus``, ``memory``.

        Raises:
            OptionError: An option cannot be used, submitit is not installed, or there is no Slurm here.
        """
        try:
            import submitit  # noqa: F401
        except ImportError:
            raise OptionError("submitit is not installed; run: pip install 'topolearn-torch[slurm]'") from None
        if _KIND == "slurm" and shutil.which("srun") is None:
            raise OptionError("there is no Slurm here: no command 'srun'; give the command on a machine of the cluster")
        found: dict[str, str] = {}
        for key, value in options.items():
            name = key.replace("_", "-")
            name = _SHORT.get(name, name)
            if not re.fullmatch(r"[a-z][a-z-]*", name):
                raise OptionError(
                    f"'{key}' is no option of Slurm; write sbatch's long names: partition, time, gpus, mem"
                )
            if name in _OURS:
                raise OptionError(f"Slurm's option '{key}' is set by compare: each run is one process; leave it out")
            found[name] = str(value)
        if "time" not in found:
            raise OptionError("say how long a run may take on the cluster: --slurm time=4:00:00")
        return cls(_minutes(found.pop("time")), found, at_once)


def _minutes(text: str) -> int:
    """Return a time limit of Slurm in minutes, rounded up.

    Slurm has minutes, M:S, H:M:S, D-H, D-H:M and D-H:M:S.
    """
    match = re.fullmatch(r"(?:(\d{1,4})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", text)
    if match is None:
        raise OptionError(f"the time is '{text}'; write minutes, or as Slurm does: 4:00:00, 1-12:00:00")
    days, *parts = (int(part or 0) for part in match.groups())
    if match[1] is None and match[4] is None:
        parts = [0, *parts[:2]]
    hours, minutes, seconds = parts
    total = math.ceil(days * 1440 + hours * 60 + minutes + seconds / 60)
    if not total:
        raise OptionError("the time is 0; say how long a run may take, such as 4:00:00")
    return total


def run_on_cluster(
    jobs: Sequence[Job],
    cluster: Cluster,
    folder: Path,
    device: str,
    *,
    say: Callable[[str], None],
    ended: Callable[[Job, str | None], None],
) -> None:
    """Run every job on the cluster; a failure in one does not affect the others.

    Args:
        jobs: The jobs, in the order in which they are queued.
        cluster: How they are submitted.
        folder: Folder for scripts and logs.
        device: Name of the device that each takes.
        say: Called with lines of progress.
        ended: Called with every job that has ended, and with why it failed, or None if it did not.

    Raises:
        TrainingError: Slurm does not take the jobs.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once the jobs are cancelled.
    """
    if not jobs:
        return
    with Interrupt() as interrupt:
        waiting = dict(zip(_submit(jobs, cluster, folder, device), jobs, strict=True))
        say(f"submitted {_count(waiting)} to the cluster, {next(iter(waiting)).job_id} first; logs are in {folder}")
        try:
            while waiting and not interrupt.asked:
                for handle, job in list(waiting.items()):
                    if handle.done():
                        del waiting[handle]
                        ended(job, _failure(handle))
                time.sleep(_POLL)
        finally:
            for handle in waiting:
                handle.cancel(check=False)
        if interrupt.asked:
            say(f"cancelled {_count(waiting)}; runs that had begun stop with a checkpoint")
            raise KeyboardInterrupt


def _count(jobs: Mapping[Any, Any]) -> str:
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)}"


def _submit(jobs: Sequence[Job], cluster: Cluster, folder: Path, device: str) -> list[submitit.Job[str | None]]:
    import submitit
    from submitit.core.utils import environment_variables

    options = dict(cluster.options)
    # Since Slurm 22.05, a step does not take the number of CPUs over from its job.
    cpus = options.get("cpus-per-task")
    try:
        executor = submitit.AutoExecutor(folder, cluster=_KIND)
        executor.update_parameters(
            timeout_min=cluster.minutes,
            slurm_job_name="topolearn",
            slurm_signal_delay_s=_GRACE,
            slurm_additional_parameters=options,
            slurm_srun_args=[] if cpus is None else [f"--cpus-per-task={cpus}"],
            **({} if cluster.at_once is None else {"slurm_array_parallelism": cluster.at_once}),
        )
        # Import the same modules as this process, and nothing from the current folder.
        path = os.pathsep.join(path for path in sys.path if path)
        with environment_variables(PYTHONPATH=path, PYTHONSAFEPATH="1"):
            return list(executor.submit_array([ClusterRun(job, device) for job in jobs]))
    except Exception as error:
        raise TrainingError(f"Slurm does not take the jobs: {error}; check the options given as --slurm") from None


def _failure(handle: submitit.Job[str | None]) -> str | None:
    """Return why an ended job failed; None if it did not."""
    try:
        failure: str | None = handle.result()
    except Exception as error:
        why = re.findall(r"^\S*Error: (.+)$", str(error), re.MULTILINE)
        reason = f": {why[-1]}" if why else f" as {handle.state}"
        return f"job {handle.job_id} ended{reason}; its log is {handle.paths.stderr}"
    return failure
