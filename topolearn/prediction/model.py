"""A network that predicts images: from the folder of a run, or from an ONNX file, which needs nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, FiniteFloat, PositiveInt, ValidationError, field_validator, model_validator
from torch import Tensor

from topolearn.compiler import Network
from topolearn.errors import CheckpointError, DataError, ExportError, Location, printable
from topolearn.ops import Shape
from topolearn.prediction.metadata import NOT_FINITE, AboutTask, damaged, first_error, ports, read_metadata
from topolearn.runs.config import read_config
from topolearn.runs.folder import CONFIG
from topolearn.runs.searched import train_options
from topolearn.samples import DataInfo
from topolearn.samples.augment import Augment, Finish
from topolearn.samples.modes import MODES
from topolearn.task_kinds import TASK_KINDS, kind_of
from topolearn.tasks import Answer, LabelMap, task_of
from topolearn.tasks.losses import resized
from topolearn.tasks.sliding import judged, sliding

_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class About(AboutTask):
    """The metadata of a network that takes images, from an exported file or a run.

    Attributes:
        output: What the network returns.
        input_size: Id of its input -> (channels, height, width).
        mean: Mean per channel, of pixel values in [0, 1]; empty for 0.
        std: Standard deviation likewise; empty for 1.
        classes: Names of the classes, without control characters; may be empty.
        windows: (height, width) of the windows in which the network was evaluated. None: whole images.
    """

    output: Literal["logits", "argmax"] = "logits"
    input_size: Annotated[dict[str, tuple[PositiveInt, PositiveInt, PositiveInt]], Field(min_length=1, max_length=1)]
    mean: tuple[FiniteFloat, ...]
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...]
    classes: tuple[str, ...]
    windows: tuple[PositiveInt, PositiveInt] | None = None

    @field_validator("classes")
    @classmethod
    def _printable(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(printable, classes))

    @model_validator(mode="after")
    def _labels_are_masks(self) -> About:
        if self.output == "argmax" and kind_of(self.task).target != "mask":
            raise ValueError(f"'output' is argmax, which is for segmentation, but the task is {self.task}")
        return self

    @model_validator(mode="after")
    def _one_per_channel(self) -> About:
        (size,) = self.input_size.values()
        if any(len(values) not in (0, size[0]) for values in (self.mean, self.std)):
            raise ValueError(f"'mean' and 'std' are not for {size[0]} channels")
        return self

    def info(self, name: str) -> DataInfo:
        """Return the metadata as a DataInfo with the given name."""
        (size,) = self.input_size.values()
        mean, std = self.mean or (0.0,) * size[0], self.std or (1.0,) * size[0]
        return DataInfo(name, self.task, self.classes, size, mean, std)


@dataclass(frozen=True)
class Model:
    """A network that predicts images, with its task, classes and normalisation.

    Attributes:
        info: The task, the classes, and the normalisation of images. Their size is the graph's.
        takes: The only height and width that the network accepts; None: any.
        labels: Whether the network returns classes (N, H, W) instead of logits.
        network: Function of normalised images (1, C, H, W) float32 on the CPU; returns the output, also on the CPU.
    """

    info: DataInfo
    takes: tuple[int | None, int | None]
    labels: bool
    network: Callable[[Tensor], Tensor]

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which an image of this size is resized for the network.

        To classify an image, this is the size used in training. To classify its pixels, the image
        keeps its own size, as in evaluation, if the network accepts that.
        """
        wanted = (height, width) if self.info.kind.is_dense else self.info.size[1:]
        return self.takes[0] or wanted[0], self.takes[1] or wanted[1]

    def __call__(self, pixels: Tensor, size: tuple[int, int]) -> Answer:
        """Return what the network says about an image; maps have the size of the image itself.

        Args:
            pixels: (1, C, h, w) uint8, of a size that the network accepts.
            size: (H, W) of the image itself.

        Raises:
            DataError: The network cannot take the image, or returns infinite values or NaN.
            ExportError: The output of an ONNX file does not fit its task.
        """
        image, _ = Finish(self.info, Augment())(pixels, torch.zeros(1))
        given = self.network(image)
        if given.ndim != (3 if self.labels else 4 if self.info.kind.is_dense else 2) or len(given) != 1:
            raise ExportError(f"'{self.info.name}' gives {tuple(given.shape)}, which does not fit {self.info.task}")
        if not bool(torch.isfinite(given).all()):
            raise DataError(NOT_FINITE)
        if self.labels:
            labels = given[:, None].float()
            return LabelMap(torch.nn.functional.interpolate(labels, size, mode="nearest-exact")[0, 0].long())
        logits = given.float() if given.ndim == 2 else resized(given.float(), size)
        return task_of(self.info.task).answer(logits[0], self.info)


def model_of_run(net: Network, folder: Path, device: torch.device) -> Model:
    """Make a Model from the network of a run.

    Raises:
        CheckpointError: The run is damaged.
        DataError: The network is for another task, or does not have exactly one image as input and one output.
    """
    config = read_config(folder / CONFIG)
    graph = net.graph
    shapes = [graph.shapes[name] for name in (*graph.inputs, *graph.outputs)]
    if len(shapes) != 2 or not isinstance(shapes[0], Shape) or not shapes[0].is_map:
        raise DataError(
            f"graph '{graph.name}' has the inputs {', '.join(graph.inputs)} and the outputs {', '.join(graph.outputs)};"
            " prediction needs one image and one output"
        )
    try:
        known = {key: config[key] for key in ("mean", "std", "classes")}
        size = {"image": graph.input_size(graph.inputs[0])}
        about = About.model_validate({**known, "task": graph.task, "input_size": size})
    except ValidationError as error:
        raise CheckpointError(f"is damaged ({first_error(error)})", Location(str(folder / CONFIG))) from None
    net = net.to(device)
    run = judged(net, train_options(config)) if kind_of(about.task).is_dense else net

    def network(image: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                given: Tensor = run(image.to(device))
        except (RuntimeError, ValueError) as error:
            raise _cannot_take(image, error) from None
        return given.cpu()

    return _checked(Model(about.info(str(folder)), (None, None), labels=False, network=network))


def model_of_file(session: Any, metadata: str, path: Path) -> Model:
    """Make a Model from an open ONNX file.

    Raises:
        DataError: The network is for another task, or does not have exactly one image as input and one output.
        ExportError: The metadata are damaged.
    """
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = inputs[0].shape if inputs else []
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type not in _DTYPES or len(shape) != 4:
        raise DataError(f"'{path}' has {ports(session)}; prediction needs one image (batch, C, H, W) and one output")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise DataError(f"'{path}' takes {shape[0]} images at a time; export it with a dynamic batch")
    name, dtype = inputs[0].name, _DTYPES[inputs[0].type]
    about = read_metadata(About, metadata, path)
    channels, height, width = (side if isinstance(side, int) else None for side in shape[1:])
    info = about.info(str(path))
    if channels not in (None, info.size[0]):
        raise damaged(path, f"its input is {shape}, but 'input_size' is {info.size}")

    def whole(image: Tensor) -> Tensor:
        try:
            (given,) = session.run(None, {name: image.numpy().astype(dtype)})
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise _cannot_take(image, error) from None
        return torch.from_numpy(given)

    network, windows = whole, about.windows
    if windows is not None and info.kind.is_dense and about.output == "logits" and height is None and width is None:

        def network(image: Tensor) -> Tensor:
            return sliding(whole, image, windows)

    return _checked(Model(info, (height, width), labels=about.output == "argmax", network=network))


def _checked(model: Model) -> Model:
    """Return the model after a check of its task and its number of channels.

    Raises:
        DataError: The task is unknown, or images do not have this number of channels.
    """
    info = model.info
    if info.task not in TASK_KINDS:
        raise DataError(f"'{info.name}' is for {info.task}; prediction works for {', '.join(sorted(TASK_KINDS))}")
    if info.size[0] not in MODES:
        raise DataError(f"'{info.name}' takes images of {info.size[0]} channels; image files have 1 or 3")
    return model


def _cannot_take(image: Tensor, error: Exception) -> DataError:
    height, width = image.shape[-2:]
    return DataError(f"the network cannot take {height}x{width}: {str(error).strip().partition(chr(10))[0][:200]}")
