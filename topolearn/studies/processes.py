"""Run ``topolearn fit`` several times side by side, each in its own process, so that a failure stays in its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_POLL = 0.1
"""Seconds between checks of the processes."""
_PATIENCE = 30.0
"""Seconds that a process has to end after it is told to stop."""


@dataclass(frozen=True)
class Job:
    """A command to run.

    Attributes:
        label: Name in messages.
        arguments: Arguments of ``topolearn``, without the device.
    """

    label: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Crew:
    """Where jobs run, and how many at a time.

    Attributes:
        devices: Names of devices, which processes take in turn.
        jobs: Number of processes at a time.
        threads: Number of threads of each process.
    """

    devices: tuple[str, ...]
    jobs: int
    threads: int


def run_all(
    jobs: Sequence[Job], crew: Crew, *, say: Callable[[str], None], ended: Callable[[Job, str | None], None]
) -> None:
    """Run every job; a failure in one does not affect the others.

    Args:
        jobs: The jobs, in the order in which they start.
        crew: Where they run, and how many at a time.
        say: Called with every line that a job prints to stderr, from threads.
        ended: Called with every job that has ended, and with why it failed, or None if it did not.

    Raises:
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once every job has stopped.
    """
    from topolearn.training.interrupt import Interrupt  # imports torch, which a job on a cluster does without

    waiting = deque(jobs)
    running: dict[int, Process] = {}
    told = False
    with Interrupt() as interrupt:
        try:
            while running or (waiting and not interrupt.asked):
                for place in range(crew.jobs):
                    if waiting and place not in running and not interrupt.asked:
                        running[place] = Process(waiting.popleft(), crew, place, say)
                if interrupt.asked and not told:
                    told = True
                    for process in running.values():
                        process.stop()
                for place, process in list(running.items()):
                    if process.has_ended():
                        del running[place]
                        failure = process.failure()
                        if failure is None or not interrupt.asked:
                            ended(process.job, failure)
                time.sleep(_POLL)
        finally:
            for process in running.values():
                process.stop()
            for process in running.values():
                process.wait_or_kill()
        if interrupt.asked:
            raise KeyboardInterrupt


class Process:
    """A running job."""

    def __init__(self, job: Job, crew: Crew, place: int, say: Callable[[str], None]) -> None:
        self.job = job
        self.last = ""
        device, environment = _own_device(crew.devices[place % len(crew.devices)])
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[variable] = str(crew.threads)
        # Import the same modules as this process, and nothing from the current folder (-P).
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "topolearn.studies.worker", *job.arguments, "--device", device],
            stdin=subprocess.PIPE,  # closes when this process dies, which ends the child
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C on a terminal reaches only this process, which passes it on once
        )
        self.reader = threading.Thread(target=self._read, args=(say,), daemon=True)
        self.reader.start()

    def _read(self, say: Callable[[str], None]) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            text = line.rstrip()
            if text:
                self.last = text
                say(f"{self.job.label}: {text}")

    def has_ended(self) -> bool:
        """Whether the process has ended; if so, its output has been read."""
        if self.popen.poll() is None:
            return False
        self._close()
        return True

    def failure(self) -> str | None:
        """Return why the process failed; None if it succeeded."""
        status = self.popen.returncode
        if status == 0:
            return None
        if status < 0:
            return f"the process was ended by {signal.Signals(-status).name}"
        return self.last.removeprefix("error: ") or f"the process ended with status {status}"

    def stop(self) -> None:
        """Ask the process to write a checkpoint and end; a second call asks it to end at once."""
        if self.popen.poll() is None:
            self.popen.terminate()  # not SIGINT, which a background job ignores

    def wait_or_kill(self) -> None:
        """Wait until the process has ended; kill it if that takes too long."""
        try:
            self.popen.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self._close()

    def _close(self) -> None:
        self.reader.join(_PATIENCE)
        if self.reader.is_alive():  # a child of the process holds the pipe
            return
        for pipe in (self.popen.stdin, self.popen.stderr):
            assert pipe is not None
            pipe.close()


def _own_device(device: str) -> tuple[str, dict[str, str]]:
    """Return the name of ``device`` in a child process, and an environment in which it sees only that GPU."""
    environment = dict(os.environ)
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        return device, environment
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(number)].strip() if visible else number
    return "cuda", environment
