"""The base class of tasks: loss, metrics, checks of the network, and the meaning of its output."""

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
from topolearn.samples.items import channels_last

Loss = Callable[[Any, Any], Tensor]
"""A function of (outputs, targets) that returns the number to minimise."""

Metric = Callable[[Any, Any], Any]
"""A ``torchmetrics.Metric``, or a function of (outputs, targets)."""


OWN_DATA = (
    "in Python, give fit() a pair (train, val) of Datasets or DataLoaders of (inputs, targets), or train it in a loop"
    " of your own"
)
"""What to do if the data are not images, for errors."""


@dataclass(frozen=True)
class ClassShares:
    """The probability of each class for an image.

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
    """The probability that each pixel is positive (salient, or an edge).

    Attributes:
        name: What a positive pixel is called.
        scores: (H, W) probabilities.
    """

    name: str
    scores: Tensor


@dataclass(frozen=True)
class NextToken:
    """The probability that each token comes next.

    Attributes:
        shares: (vocabulary,) probabilities.
    """

    shares: Tensor


Answer = ClassShares | LabelMap | ScoreMap | NextToken
"""What a network says about one input. Prediction writes it as a table, as coloured or grey masks, or as text."""


class Task(ABC):
    """A task: its loss, its metrics, checks of the graph and the data, and the meaning of the outputs.

    :data:`topolearn.task_kinds.TASK_KINDS` describes its targets.

    Class attributes:
        head: The op that graphs for this task end in, for errors.
        judged_by: Names of metrics, the one by which runs are compared first.
    """

    head: ClassVar[str]
    judged_by: ClassVar[tuple[str, ...]]

    @abstractmethod
    def loss(self, info: DataInfo, label_smoothing: float = 0.0) -> Loss:
        """Return the loss of (logits, targets), in float32; it first resizes maps of logits to the labels."""

    @abstractmethod
    def metrics(self, info: DataInfo) -> dict[str, Metric]:
        """Return the metrics by name. A metric that returns several numbers names them itself."""

    @abstractmethod
    def answer(self, logits: Tensor, info: DataInfo) -> Answer:
        """Return the meaning of the logits of one input.

        The logits are (classes,), (channels, H, W) at the size of the image, or (T, vocabulary).
        """

    def check_inputs(self, graph: Graph, info: DataInfo) -> None:
        """Check that the images fit the input of a graph with one input.

        Raises:
            DataError: The input takes something else than images, or another number of channels.
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
            if channels == info.size[-1]:
                raise DataError(f"an image of data '{info.name}' {channels_last(info.size)}")
            has = f"{info.size[0]} channel{'s' * (info.size[0] != 1)}"
            raise DataError(
                f"data '{info.name}' has {has}, but input '{name}' of graph '{graph.name}' takes {channels}; use images"
                f" with {channels}, or change 'inputs' in the graph"
            )

    def check_outputs(self, graph: Graph, info: DataInfo) -> None:
        """Check that the default loss and metrics fit the output of a graph.

        Raises:
            OptionError: The graph has several outputs, or the data have no classes. Both need a loss from the user.
            DataError: The output has another kind than the task, or another number of classes than the data.
        """
        output, shape = one_output(graph)
        if not info.classes:
            raise OptionError(f"data '{info.name}' has no classes; give a 'loss' of (outputs, targets) in Python")
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
    """Return the only output of a graph: its description for errors, and its shape.

    Raises:
        OptionError: The graph has several outputs.
    """
    if len(graph.outputs) > 1:
        raise OptionError(
            f"graph '{graph.name}' has the outputs {', '.join(graph.outputs)}; give a 'loss' of (outputs, targets) in"
            " Python, where the outputs are a dict by node id"
        )
    shape = graph.shapes[graph.outputs[0]]
    assert isinstance(shape, Shape)
    return f"output '{graph.outputs[0]}' of graph '{graph.name}'", shape
