"""Next-token prediction: the task and its metrics."""

from __future__ import annotations

import math
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric as TorchMetric

from topolearn.errors import DataError, GraphError
from topolearn.graph import Graph
from topolearn.graph.sequences import check_next_token
from topolearn.ops import Shape
from topolearn.samples import DataInfo
from topolearn.tasks.base import Loss, Metric, NextToken, Task, one_output


@final
class TextScores(TorchMetric):
    """``bits_per_byte`` and ``accuracy`` of the predicted tokens over a whole text.

    Bits per byte are the cross entropy in bits. If tokens are not bytes, they are bits per token.
    """

    full_state_update = False
    nats: Tensor
    right: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, dtype in (("nats", torch.float64), ("right", torch.int64), ("count", torch.int64)):
            self.add_state(name, torch.zeros((), dtype=dtype), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Count a batch: (N, T, V) logits, (N, T) ids."""
        rows, ids = logits.flatten(0, 1).float(), targets.flatten()
        self.nats += F.cross_entropy(rows, ids, reduction="none").double().sum()
        self.right += (rows.argmax(1) == ids).sum()
        self.count += len(ids)

    def compute(self) -> dict[str, Tensor]:
        """Return ``bits_per_byte`` and ``accuracy``."""
        count = self.count.clamp(min=1)
        return {"bits_per_byte": self.nats / count / math.log(2), "accuracy": self.right / count}


@final
class NextTokenTask(Task):
    """Next-token prediction at each place of a text: cross entropy of (N, T, vocabulary) logits."""

    head: ClassVar[str] = "token_head"
    judged_by: ClassVar[tuple[str, ...]] = ("bits_per_byte", "accuracy")

    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """Return the cross entropy in nats per token, a mean over all places."""

        def loss(logits: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), label_smoothing=label_smoothing)

        return loss

    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """Return ``bits_per_byte`` and ``accuracy``."""
        return {"text": TextScores()}

    def answer(self, logits: Tensor, info: DataInfo) -> NextToken:
        """Return the softmax of the last token's (vocabulary,) logits."""
        return NextToken(logits[-1].softmax(0))

    def check_inputs(self, graph: Graph, info: DataInfo) -> None:
        """Check that the text fits the input of a graph.

        Raises:
            DataError: The input does not take ids, or its vocabulary is smaller than the text's.
        """
        name = graph.inputs[0]
        shape = graph.shapes[name]
        assert isinstance(shape, Shape)
        if shape.vocabulary is None:
            raise DataError(
                f"'{info.name}' is text, but input '{name}' of graph '{graph.name}' takes {shape}; declare"
                f" 'inputs: {{{name}: {{length: {info.size[0]}, vocabulary: 256}}}}'"
            )
        if info.vocabulary > shape.vocabulary:
            raise DataError(
                f"'{info.name}' holds the token {info.vocabulary - 1}, but input '{name}' of graph '{graph.name}' has a"
                f" vocabulary of {shape.vocabulary}; set 'inputs.{name}.vocabulary' to at least {info.vocabulary}"
            )

    def check_outputs(self, graph: Graph, info: DataInfo) -> None:
        """Check that each place of the output scores every token, and depends on no later token.

        Raises:
            OptionError: The graph has several outputs, which needs a loss from the user.
            DataError: The output is not tokens, it has another number of scores than the vocabulary, or a node sees
                later tokens.
        """
        one_output(graph)
        try:
            check_next_token(graph)
        except GraphError as error:
            raise DataError(error.message) from None
