"""A user's own training loop with DistributedDataParallel, for every learner: one process's part of it."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import topolearn
from tests.learner_settings import SETTINGS
from tests.learners.samples import batch, graph, loss_of
from topolearn.compiler import Network
from topolearn.learners import EdgeLearner

STEPS = 3


def loop(rank: int, record: dict[str, Any]) -> None:
    """Search and train the pruned network with each learner; note edge weights by step, and the state at the end."""
    dist.init_process_group("gloo", rank=rank, world_size=int(os.environ["WORLD_SIZE"]))
    for name, setting in SETTINGS.items():
        torch.manual_seed(rank)
        seeds = {"seed": 100 + rank} if "seed" in setting.options else {}
        net = Network(graph("mixed"), setting.make(graph("mixed"), **seeds))
        steps = _steps(net, rank)
        small = topolearn.prune(net)
        _steps(small, rank)
        record[name] = {"steps": steps, "searched": net.state_dict(), "pruned": small.state_dict()}


def _steps(net: Network, rank: int) -> list[Any]:
    """Take some steps, each process with its own batches; return the edge weights of each."""
    wrapped: nn.Module = DistributedDataParallel(net, find_unused_parameters=False)
    optimizers = topolearn.optimizers(wrapped, lr=0.05, momentum=0.9)
    weights = []
    learner = net.learner
    for step in range(STEPS):
        loss = loss_of(wrapped(**batch(net.graph, 10 * step + rank)))
        if isinstance(learner, EdgeLearner):
            weights.append(learner.edge_weights().detach().clone())
            loss = loss + learner.penalty()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for buffer in net.buffers():
        dist.broadcast(buffer, 0)  # what the next forward pass would do
    return weights
