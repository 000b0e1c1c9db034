"""What training hands to a learner that scores: the trained network, on some batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from torch import Tensor


class Trial(Protocol):
    """The trained network and some training batches, on which a learner tries what can go.

    The network is in eval mode, but its batch normalisations use the statistics of each batch: those that it was
    trained with do not fit once a block is gone. Nothing of the network changes.
    """

    def loss(self, edge_weights: Tensor, batch: int) -> Tensor:
        """Return the task loss of one batch, a scalar.

        Args:
            edge_weights: (E,) edge weights; a gradient reaches them if they ask for one.
            batch: Number of the batch, from 0.
        """

    def watch(self, batch: int, see: Callable[[str, Mapping[int, Tensor]], None]) -> None:
        """Run the network, with the graph's edge weights, and show what its nodes add up.

        Args:
            batch: Number of the batch, from 0.
            see: Called for each node with learnable in-edges, in order: its id, and index of each in-edge -> the tensor
                that the edge brings, before weighting.
        """

    def pause(self, done: str) -> None:
        """Called between two evaluations: shows what is done, and writes a checkpoint now and then.

        Raises:
            KeyboardInterrupt: The run was asked to stop; a checkpoint is written.
        """
