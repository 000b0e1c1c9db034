"""A network that can be asked about images: that of a run, or an ONNX file, which needs nothing of the run."""

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
from topolearn.prediction.metadata import AboutTask, damaged, first_error, ports, read_metadata
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
    """What must be known of a network that takes images, as an exported file and a run have it.

    Attributes:
        output: What it gives.
        input_size: Id of its input -> (channels, height, width).
        mean: Per channel, of pixel values in [0, 1]; empty for 0.
        std: Likewise; empty for 1.
        classes: Names, without what a terminal would obey; may be empty.
        windows: (height, width) of those in which the network was evaluated; None for whole images.
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
        """The same as a description of images, which are those of ``name``."""
        (size,) = self.input_size.values()
        mean, std = self.mean or (0.0,) * size[0], self.std or (1.0,) * size[0]
        return DataInfo(name, self.task, self.classes, size, mean, std)


@dataclass(frozen=True)
class Model:
    """A network with what it must know of images.

    Attributes:
        info: The task, the classes, and how images are normalised; their size is the graph's.
        takes: Height and width that the network can be given alone; None for any.
        labels: Whether it gives classes (N, H, W) instead of logits.
        network: Images (1, C, H, W) float32, normalised, on the CPU -> what it gives, there too.
    """

    info: DataInfo
    takes: tuple[int | None, int | None]
    labels: bool
    network: Callable[[Tensor], Tensor]

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) at which an image is looked at.

        A class is told from an image of the size that training saw. For a class of every pixel an image
        keeps its own size, as in evaluation, where the network can be given that.
        """
        wanted = (height, width) if self.info.kind.is_dense else self.info.size[1:]
        return self.takes[0] or wanted[0], self.takes[1] or wanted[1]

    def __call__(self, pixels: Tensor, size: tuple[int, int]) -> Answer:
        """What the network says of an image; maps have the size of the image itself.

        Args:
            pixels: (1, C, h, w) uint8, of a size that it takes.
            size: (H, W) of the image itself.

        Raises:
            DataError: The network cannot take such an image, or makes infinities or NaN of it.
            ExportError: An ONNX file that gives something else than its task asks for.
        """
        image, _ = Finish(self.info, Augment())(pixels, torch.zeros(1))
        given = self.network(image)
        if given.ndim != (3 if self.labels else 4 if self.info.kind.is_dense else 2) or len(given) != 1:
            raise ExportError(f"'{self.info.name}' gives {tuple(given.shape)}, which does not fit {self.info.task}")
        if not bool(torch.isfinite(given).all()):
            raise DataError("the network gives infinite values or NaN")
        if self.labels:
            labels = given[:, None].float()
            return LabelMap(torch.nn.functional.interpolate(labels, size, mode="nearest-exact")[0, 0].long())
        logits = given.float() if given.ndim == 2 else resized(given.float(), size)
        return task_of(self.info.task).answer(logits[0], self.info)


def model_of_run(net: Network, folder: Path, device: torch.device) -> Model:
    """The network of a run.

    Raises:
        CheckpointError: A damaged run.
        DataError: A network for another task, or with other inputs than one image.
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
    """The network in an open ONNX file.

    Raises:
        DataError: A network for another task, or with other inputs than one image.
        ExportError: Damaged metadata.
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
    """The same, of a task and with channels that are known.

    Raises:
        DataError: Others.
    """
    info = model.info
    if info.task not in TASK_KINDS:
        raise DataError(f"'{info.name}' is for {info.task}; what can be predicted is {', '.join(sorted(TASK_KINDS))}")
    if info.size[0] not in MODES:
        raise DataError(f"'{info.name}' takes images of {info.size[0]} channels; files of images give 1 or 3")
    return model


def _cannot_take(image: Tensor, error: Exception) -> DataError:
    height, width = image.shape[-2:]
    return DataError(f"the network cannot take {height}x{width}: {str(error).strip().partition(chr(10))[0][:200]}")
