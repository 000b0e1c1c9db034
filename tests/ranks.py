"""Runs of ``fit`` in several processes, as torchrun would start them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.own_ranks import loop
from tests.training.runs import ROOT, SEVERAL, TEXT, Stopping, graph, pair, run, send, text_pair, untimed, usual_loss
from topolearn.errors import TopolearnError
from topolearn.format import loads
from topolearn.graph import Graph
from topolearn.learners import MaskConnect

PLAIN = """
topolearn: 1
name: plain
inputs: {image: [3, 8, 6]}
nodes:
  stem: {op: conv_relu, out_channels: 4}
  a[1..3]: {op: conv_relu, out_channels: 4}
  b[1..2]: {op: conv_relu, out_channels: 4, aggregate: mean}
  head: {op: classifier, classes: 4}
edges:
  - {from: image, to: stem}
  - {from: stem, to: "a[1..3]"}
  - {connect: bipartite, from: "a[1..3]", to: "b[1..2]", learnable: true}
  - {connect: bipartite, from: "b[1..2]", to: [head], learnable: true}
outputs: [head]
"""
"""Without batch statistics or dropout: what one image gives does not depend on the others."""

FAILED, STOPPED = 2, 130


def plain() -> Graph:
    """See :data:`PLAIN`."""
    return loads(PLAIN)


def text_graph() -> Graph:
    """See :data:`tests.training.runs.TEXT`."""
    return loads(TEXT)


def several_graph() -> Graph:
    """See :data:`tests.training.runs.SEVERAL`."""
    return loads(SEVERAL)


class Ranks:
    """A fresh interpreter that forks the processes of every job, and ends all when one has failed."""

    def __init__(self) -> None:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.server = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", "from tests.ranks import serve; serve()"],
            cwd=ROOT,
            env={**os.environ, **threads},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Ranks:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.communicate()

    def run(self, folder: Path, ranks: int = 2, **job: Any) -> tuple[list[int], list[dict[str, Any]]]:
        """Exit status and record of each process; ``folder`` keeps the records, and the run in ``run``."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        folder.mkdir(exist_ok=True)
        self.server.stdin.write(json.dumps({"folder": str(folder), "ranks": ranks, **job}) + "\n")
        self.server.stdin.flush()
        statuses = json.loads(self.server.stdout.readline())
        files = [folder / f"rank-{rank}.pt" for rank in range(ranks)]
        return statuses, [torch.load(file, weights_only=False) if file.is_file() else {} for file in files]


def serve() -> None:
    """Fork the processes of every job on stdin, and tell on stdout how they ended."""
    import torchmetrics.classification  # noqa: F401

    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
    for line in sys.stdin:
        job = json.loads(line)
        ranks = job.pop("ranks")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children: dict[int, int] = {}
        for rank in range(ranks):
            child = os.fork()
            if not child:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": str(rank)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                _process(rank, **job)
            children[child] = rank
        print(json.dumps(_wait(children)), flush=True)


def _wait(children: dict[int, int]) -> list[int]:
    """Statuses by rank; after a failure the others have five seconds."""
    statuses: dict[int, int] = {}
    deadline = time.monotonic() + 120
    while len(statuses) < len(children):
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            statuses[children[child]] = os.waitstatus_to_exitcode(status)
            if status:
                deadline = min(deadline, time.monotonic() + 5)
        elif time.monotonic() > deadline:
            for left in [child for child, rank in children.items() if rank not in statuses]:
                os.kill(left, signal.SIGKILL)
            deadline += 60
        else:
            time.sleep(0.02)
    return [statuses[rank] for rank in range(len(children))]


def _process(rank: int, folder: str, **job: Any) -> None:
    status, record = 1, {}
    try:
        with open(f"{folder}/rank-{rank}.log", "a", encoding="utf-8") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if job.pop("own_loop", False):
            loop(rank, record)
        else:
            with _masks(record):
                _fit(rank, Path(folder), record, **job)
        status = 0
    except KeyboardInterrupt:
        status = STOPPED
    except TopolearnError as error:
        record["error"] = f"{type(error).__name__}: {error}"
        status = FAILED
    except BaseException:
        traceback.print_exc()
    finally:
        torch.save(record, f"{folder}/rank-{rank}.pt")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _fit(
    rank: int,
    folder: Path,
    record: dict[str, Any],
    *,
    network: str = "plain",
    data: str = "tensors",
    stop: dict[str, Any] | None = None,
    own_group: bool = False,
    apart: bool = False,
    **options: Any,
) -> None:
    """A run; ``stop`` says which rank does what at which training batches, ``apart`` gives each its own folder."""
    if own_group:
        dist.init_process_group("gloo", rank=rank, world_size=int(os.environ["WORLD_SIZE"]))
    called: list[str] = []
    record["noise"] = []
    loss: Callable[..., Tensor] = _noting(record["noise"])
    if stop is not None and stop["rank"] == rank:
        loss = Stopping(lambda: _act(stop["action"]), stop["at"])
    result = run(
        folder / f"run{rank if apart else ''}",
        data=text_pair() if network == "text" else pair(data),
        graph={"plain": plain, "tiny": graph, "text": text_graph, "several": several_graph}[network](),
        loss=loss,
        callbacks=[lambda each: called.append(each["phase"])],
        quiet=False,
        **options,
    )
    record["history"] = untimed(result.history)
    record["weights"] = result.model.state_dict()
    record["graph"] = result.graph.to_yaml()
    record["called"] = called
    record["group"] = dist.is_initialized()


def _noting(noise: list[float]) -> Callable[[Any, Any], Tensor]:
    """The usual loss that notes where the global generator stands."""

    def loss(outputs: Any, targets: Any) -> Tensor:
        noise.append(float(torch.rand(())))
        return usual_loss(outputs, targets)

    return loss


def _act(action: str) -> None:
    if action == "fail":
        raise ValueError("out of paper")
    send(signal.Signals[action])


@contextlib.contextmanager
def _masks(record: dict[str, Any]) -> Iterator[None]:
    """Note the drawn masks of every step, and the real masks after it."""
    record["masks"], record["real"] = [], []
    after_step = MaskConnect.after_step

    def spy(self: MaskConnect) -> None:
        record["masks"].append(self.chosen().clone())
        after_step(self)
        record["real"].append(self.mask.detach().clone())

    MaskConnect.after_step = spy  # type: ignore[method-assign]
    yield
