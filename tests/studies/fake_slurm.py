"""The commands of Slurm that submitit calls, on this machine: `sbatch`, `srun`, `sacct`, `scancel`, `scontrol`.

Each job is a shell that runs the batch script. What is known of it lies in files in the folder $FAKE_SLURM.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil

COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol")


def install(folder: Path) -> Path:
    """Write the commands to a folder, for PATH."""
    for name in COMMANDS:
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} {name} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def state() -> Path:
    return Path(os.environ["FAKE_SLURM"])


def processes(job: str) -> list[psutil.Process]:
    """All processes of a job; Slurm signals every one of them."""
    try:
        shell = psutil.Process(int((state() / f"{job}.pid").read_text()))
        return [shell, *shell.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def sbatch(script: str) -> None:
    text = Path(script).read_text()
    number = str(100 + len(list(state().glob("*.sbatch"))))
    kept = state() / f"{number}.sbatch"
    kept.write_text(text)
    array = re.search(r"^#SBATCH --array=0-(\d+)", text, re.MULTILINE)
    for job in [number] if array is None else [f"{number}_{place}" for place in range(int(array[1]) + 1)]:
        start(job)
    print(f"Submitted batch job {number}")


def start(job: str) -> None:
    number, _, place = job.partition("_")
    known = {"SLURM_JOB_ID": number, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}
    if place:
        known |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": place}
    over = shlex.quote(str(state() / f"{job}.over"))
    shell = subprocess.Popen(
        ["bash", "-c", f"trap : TERM USR2; bash {shlex.quote(str(state() / number))}.sbatch; echo $? > {over}"],
        env={**os.environ, **known},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    (state() / f"{job}.pid").write_text(str(shell.pid))


def srun(*arguments: str) -> None:
    given = list(arguments)
    while given[0].startswith("-"):
        option = given.pop(0)
        if option in ("--output", "--error"):
            place = given.pop(0).replace("%t", "0").replace("%j", os.environ["SLURM_JOB_ID"])
            place = place.replace("%A", os.environ["SLURM_JOB_ID"])
            place = place.replace("%a", os.environ.get("SLURM_ARRAY_TASK_ID", ""))
            os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1 if option == "--output" else 2)
    os.execvp(given[0], given)


def sacct(*arguments: str) -> None:
    print("JobID|State|NodeList")
    for path in sorted(state().glob("*.pid")):
        over = path.with_suffix(".over")
        if path.with_suffix(".queued").exists():
            word = "REQUEUED"
        elif path.with_suffix(".cancelled").exists():
            word = "CANCELLED"
        elif over.exists():
            word = "FAILED" if over.read_text().strip() != "0" else "COMPLETED"
        else:
            word = "RUNNING"
        print(f"{path.stem}|{word}|here")


def scancel(job: str) -> None:
    (state() / f"{job}.cancelled").touch()
    for process in processes(job)[1:]:
        process.terminate()


def scontrol(what: str, job: str) -> None:
    assert what == "requeue"
    (state() / f"{job}.queued").touch()
    again = [sys.executable, __file__, "_again", job]
    subprocess.Popen(again, start_new_session=True, stdin=subprocess.DEVNULL)


def _again(job: str) -> None:
    over = state() / f"{job}.over"
    while not over.exists():
        time.sleep(0.05)
    over.unlink()
    start(job)
    (state() / f"{job}.queued").unlink()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
