"""What every task says: its loss, its metrics, what a network for it must give, and what that output means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from topolearn.errors import DataError, OptionError
from topolearn.graph import Graph
from topolearn.ops import Shape
from topolearn.samples import DataInfo

Loss = Callable[[Any, Any], Tensor]
"""(outputs, targets) -> a number to make small."""

Metric = Callable[[Any, Any], Any]
"""A ``torchmetrics.Metric``, or a function of (outputs, targets)."""


OWN_DATA = (
    "in Python, give fit() a pair (train, val) of Datasets or DataLoaders of (inputs, targets), or train it in a loop"
    " of your own"
)
"""What to do where data are no images, for errors."""


@dataclass(frozen=True)
class ClassShares:
    """How probable each class is for an image.

    Attributes:
        shares: (classes,) probabilities.
    """

    shares: Tensor


@dataclass(frozen=True)
class LabelMap:
    """The class of each pixel.

    Attributes:
        labels: (H, W) int64.
    """

    labels: Tensor


@dataclass(frozen=True)
class ScoreMap:
    """How probable it is for each pixel that it is something.

    Attributes:
        name: What that is.
        scores: (H, W) probabilities.
    """

    name: str
    scores: Tensor


@dataclass(frozen=True)
class NextToken:
    """How probable each token is to come next.

    Attributes:
        shares: (vocabulary,) probabilities.
    """

    shares: Tensor


Answer = ClassShares | LabelMap | ScoreMap | NextToken
"""What a network says of one input. Prediction writes a table, coloured or grey masks, or text of it."""


class Task(ABC):
    """What a task trains and judges by, and what its networks' outputs mean.

    What its targets are is in :data:`topolearn.task_kinds.TASK_KINDS`.

    Class attributes:
        head: The op that its graphs end in, for errors.
    """

    head: ClassVar[str]

    @abstractmethod
    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """The loss of (logits, targets), in float32; maps of logits are resized to the labels first."""

    @abstractmethod
    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """Name -> metric. One that gives several numbers names them itself."""

    @abstractmethod
    def answer(self, logits: Tensor, info: DataInfo) -> Answer:
        """What the logits of one input mean: (classes,), (channels, H, W) of the image's size, or (T, vocabulary)."""

    def check_inputs(self, graph: Graph, info: DataInfo) -> None:
        """Check that images can go into a graph of one input.

        Raises:
            DataError: An input of another kind, or of another number of channels.
        """
        name = graph.inputs[0]
        if name not in graph.image_inputs:
            sequence = graph.input_rule(name).length is not None
            raise DataError(
                f"data '{info.name}' has images, but input '{name}' of graph '{graph.name}' takes"
                f" {graph.shapes[name] if sequence else 'vectors'}; {OWN_DATA}"
            )
        channels = graph.input_size(name)[0]
        if channels != info.size[0]:
            raise DataError(
                f"data '{info.name}' has {info.size[0]} channels, but input '{name}' of graph"
                f" '{graph.name}' takes {channels}; change 'inputs' in the graph"
            )

    def check_outputs(self, graph: Graph, info: DataInfo) -> None:
        """Check that loss and metrics can judge what comes out of a graph.

        Raises:
            OptionError: Several outputs, or data without classes; only a loss of the user's own fits these.
            DataError: An output of another kind than the task's, or of another number of classes than the data's.
        """
        output, shape = one_output(graph)
        if not info.classes:
            raise OptionError(f"data '{info.name}' has no classes; give a 'loss' of (outputs, targets)")
        if shape.is_tokens or shape.is_map != info.kind.is_dense:
            raise DataError(
                f"{info.task} cannot be learned from {output}, which is {shape}; end the graph in a {self.head}"
            )
        if shape.channels != len(info.classes):
            why, otherwise = (f" ({info.counted})", ", or correct that label") if info.counted else ("", "")
            params = graph.nodes[graph.outputs[0]].params
            key = next((key for key in ("out_features", "out_channels", "channels") if key in params), "classes")
            raise DataError(
                f"data '{info.name}' has {len(info.classes)} classes{why}, but {output} has {shape.channels}; set"
                f" 'nodes.{graph.outputs[0]}.{key}' to {len(info.classes)}{otherwise}"
            )


def one_output(graph: Graph) -> tuple[str, Shape]:
    """A graph's only output: what to call it in errors, and its shape.

    Raises:
        OptionError: There are several.
    """
    if len(graph.outputs) > 1:
        raise OptionError(
            f"graph '{graph.name}' has the outputs {', '.join(graph.outputs)}; give a 'loss' of (outputs, targets),"
            " in which the outputs are a dict by node id"
        )
    shape = graph.shapes[graph.outputs[0]]
    assert isinstance(shape, Shape)
    return f"output '{graph.outputs[0]}' of graph '{graph.name}'", shape
