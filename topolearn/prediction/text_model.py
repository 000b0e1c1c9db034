"""A network that continues text: from the folder of a run, or from an ONNX file, which needs nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from topolearn.compiler import Network
from topolearn.errors import DataError, ExportError
from topolearn.ops import Shape
from topolearn.prediction.metadata import NOT_FINITE, AboutTask, damaged, ports, read_metadata
from topolearn.samples import DataInfo
from topolearn.tasks import NextToken, task_of

_FLOATS = ("tensor(float)", "tensor(float16)")


class Ids(BaseModel):
    """The size of a text network's input.

    Attributes:
        length: Largest number of tokens at a time.
        vocabulary: All ids are below this number.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    length: Annotated[int, Field(ge=1, le=2**20)]
    vocabulary: Annotated[int, Field(ge=1, le=2**24)]


class AboutText(AboutTask):
    """The metadata of an exported network that takes text.

    Attributes:
        output: What the network returns.
        input_size: Id of its input -> length and vocabulary.
    """

    output: Literal["logits"] = "logits"
    input_size: Annotated[dict[str, Ids], Field(min_length=1, max_length=1)]


@dataclass(frozen=True)
class TextModel:
    """A network that predicts the next token, with its vocabulary and length.

    Attributes:
        info: The task, the vocabulary, and the largest number of tokens that the network reads at a time (``size``).
        network: Function of ids (1, T) int64 on the CPU, with T up to that number; returns logits (1, T, vocabulary),
            also on the CPU.
    """

    info: DataInfo
    network: Callable[[Tensor], Tensor]

    def __call__(self, ids: Sequence[int], temperature: float = 1.0) -> NextToken:
        """Return the probability of each token to come next, in float64.

        Args:
            ids: The text so far, at least one token. The network reads as many of the last ones as it can.
            temperature: Divisor of the logits before the softmax; above 0.

        Raises:
            DataError: The network cannot take the ids, or returns infinite values or NaN.
            ExportError: The output of an ONNX file does not fit its task.
        """
        read = torch.tensor([ids[-self.info.size[0] :]])
        logits = self.network(read)
        if logits.shape != (*read.shape, self.info.vocabulary):
            raise ExportError(f"'{self.info.name}' gives {tuple(logits.shape)}, which does not fit {self.info.task}")
        last = logits[0, -1:].double()
        if not bool(torch.isfinite(last).all()):
            raise DataError(NOT_FINITE)
        answer = task_of(self.info.task).answer((last - last.max()) / temperature, self.info)
        assert isinstance(answer, NextToken)
        return answer


def text_model_of_run(net: Network, folder: Path, device: torch.device) -> TextModel:
    """Make a TextModel from the network of a run.

    Raises:
        DataError: The network does not have exactly one input of ids and one output.
    """
    graph = net.graph
    shapes = [graph.shapes[name] for name in (*graph.inputs, *graph.outputs)]
    source = shapes[0]
    if len(shapes) != 2 or not isinstance(source, Shape) or source.vocabulary is None or source.length is None:
        raise DataError(
            f"graph '{graph.name}' has the inputs {', '.join(graph.inputs)} and the outputs {', '.join(graph.outputs)};"
            " to continue a text it needs one input of ids and one output"
        )
    net = net.to(device)

    def network(ids: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                given: Tensor = net(ids.to(device))
        except (RuntimeError, ValueError) as error:
            raise _cannot_take(ids, error) from None
        return given.cpu()

    return TextModel(_info(str(folder), graph.task, source.length, source.vocabulary), network)


def text_model_of_file(session: Any, metadata: str, path: Path) -> TextModel:
    """Make a TextModel from an open ONNX file.

    If the file has a fixed length, shorter texts are padded on the right. The network is causal, so the padding
    changes nothing before it.

    Raises:
        DataError: The network does not have exactly one input of ids and one output.
        ExportError: The metadata are damaged.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if inputs else []
    fits = len(inputs) == len(outputs) == 1 and inputs[0].type == "tensor(int64)" and outputs[0].type in _FLOATS
    if not fits or len(shape) != 2:
        raise DataError(
            f"'{path}' has {ports(session)}; to continue a text it needs ids (batch, length) and one output"
        )
    if isinstance(shape[0], int) and shape[0] != 1:
        raise DataError(f"'{path}' takes {shape[0]} texts at a time; export it with a dynamic batch")
    about = read_metadata(AboutText, metadata, path)
    ((name, size),) = about.input_size.items()
    fixed = shape[1] if isinstance(shape[1], int) else None
    if inputs[0].name != name or fixed not in (None, size.length):
        raise damaged(path, f"its input is {inputs[0].name} {shape}, but 'input_size' is {name} {size.length}")

    def network(ids: Tensor) -> Tensor:
        count = ids.shape[1]
        fed = np.zeros((1, fixed or count), np.int64)
        fed[:, :count] = ids.numpy()
        try:
            (given,) = session.run(None, {name: fed})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise _cannot_take(ids, error) from None
        return torch.from_numpy(given)[:, :count]

    return TextModel(_info(str(path), about.task, size.length, size.vocabulary), network)


def _info(name: str, task: str, length: int, vocabulary: int) -> DataInfo:
    return DataInfo(name, task, (), (length,), (), (), vocabulary=vocabulary)


def _cannot_take(ids: Tensor, error: Exception) -> DataError:
    why = str(error).strip().partition("\n")[0][:200]
    return DataError(f"the network cannot take {ids.shape[1]:,} tokens: {why}")
