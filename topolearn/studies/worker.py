"""Run ``topolearn`` in a process that ends with its parent; see :mod:`topolearn.studies.processes`."""

from __future__ import annotations

import os
import signal
import threading


def _end_with_parent() -> None:
    """Wait for the other end of stdin to close, then stop as after Ctrl-C: with a checkpoint."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # Slurm's warning goes to every process of a job; the parent answers it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from topolearn.cli import main

    main()
