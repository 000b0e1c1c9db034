"""Some training batches, on which a learner scores the blocks of a trained network."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from topolearn.compiler import Network, ReferenceDAG
from topolearn.samples import Data
from topolearn.samples.base import AnyBatch, moved
from topolearn.tasks import Loss
from topolearn.training.step import autocast

SAVE_EVERY = 60.0
"""Seconds between checkpoints while blocks are scored."""


@dataclass
class ScoringBatches:
    """A trained network and training batches for a learner that scores: a :class:`topolearn.learners.Trial`.

    The batches are those of the first epoch of training with this seed, augmented as in training.

    Attributes:
        net: The network, on the device.
        data: The training data.
        loss_function: The task loss.
        batch_size: Number of inputs per batch.
        seed: Seed of the batches.
        device: The device.
        precision: ``float32`` or ``bfloat16`` (autocast).
        paused: Called between two evaluations with what is done, and whether a checkpoint is due.
    """

    net: Network
    data: Data
    loss_function: Loss
    batch_size: int
    seed: int
    device: torch.device
    precision: str
    paused: Callable[[str, bool], None]
    _reader: Iterator[AnyBatch] | None = None
    _all_read: bool = False
    _batches: list[AnyBatch] = field(default_factory=list)
    _saved: float = field(default_factory=time.monotonic)

    def loss(self, edge_weights: Tensor, batch: int) -> Tensor:
        """Return the task loss of one batch; see :class:`topolearn.learners.Trial`."""
        inputs, targets = self.batch(batch)
        weights = self.net.divided(edge_weights)
        with batch_statistics(self.net), autocast(self.precision, self.device):
            # Numbers instead of a tensor: edges of weight 0 then cost nothing.
            outputs = self.net.dag(inputs, weights if edge_weights.requires_grad else weights.tolist())
            return self.loss_function(outputs, targets).reshape(())

    def watch(self, batch: int, see: Callable[[str, Mapping[int, Tensor]], None]) -> None:
        """Show what the nodes add up; see :class:`topolearn.learners.Trial`."""
        graph = self.net.graph
        reference = ReferenceDAG(graph, self.net.nodes, self.net.edges, self.net.shared)
        reference.see = lambda node, terms: see(node, terms) if node in graph.candidates else None
        weights = self.net.divided(torch.tensor([edge.weight for edge in graph.edges], device=self.device))
        with torch.no_grad(), batch_statistics(self.net), autocast(self.precision, self.device):
            reference(self.batch(batch)[0], weights.tolist())

    def pause(self, done: str) -> None:
        """Called between two evaluations."""
        due = time.monotonic() - self._saved > SAVE_EVERY
        if due:
            self._saved = time.monotonic()
        self.paused(done, due)

    def batch(self, number: int) -> AnyBatch:
        """Return a batch, on the device; those up to it are read once and kept.

        If there are fewer, they are used again.
        """
        while len(self._batches) <= number and not self._all_read:
            if self._reader is None:
                self._reader = iter(self.data.train_batches(self.batch_size, seed=self.seed, epoch=0))
            read = next(self._reader, None)
            if read is None:
                self._all_read = True
            else:
                self._batches.append((moved(read[0], self.device), moved(read[1], self.device)))
        return self._batches[number % len(self._batches)]


@contextlib.contextmanager
def batch_statistics(net: Network) -> Iterator[None]:
    """Put a network into eval mode, except its batch normalisations, which use the statistics of each batch.

    On exit, the network has its mode and its running statistics back.
    """
    modes = {module: module.training for module in net.modules()}
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    net.eval()
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for buffer, value in statistics:
            buffer.data.copy_(value)  # .data: what a gradient may need stays valid, because its values are the same
        net.train(modes[net])
        for module, mode in modes.items():
            if module.training != mode:
                module.train(mode)
