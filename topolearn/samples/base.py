"""Base class of data for training: a description, and batches that are reproducible."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from topolearn.errors import DataError, utf8
from topolearn.samples.census import Census
from topolearn.samples.seeds import generator
from topolearn.task_kinds import TaskKind, kind_of

Batch = tuple[Tensor, Tensor]
"""Normalised images (N, C, H, W) float32 and targets int64, (N,) or (N, H, W). For text: ids (N, T) and next ids."""

Tensors = Tensor | dict[str, Tensor]
"""Inputs or targets (N, …) of a batch: one tensor, or several by name."""

AnyBatch = tuple[Tensors, Tensors]
"""Inputs and targets of any data."""

IGNORE = 255
"""The label of pixels that count neither in the loss nor in the metrics."""

BLACK_AND_WHITE = frozenset({0, IGNORE})
"""The values that most tools write to masks of two classes. If there is a third value, 255 is ignored."""


@dataclass(frozen=True, slots=True)
class DataInfo:
    """Description of a data set.

    Attributes:
        name: The set's name.
        task: ``classification`` (one class per image), ``segmentation`` (one class per pixel),
            ``saliency`` or ``edges`` (yes or no per pixel), or ``next_token``. Your own data may have another task.
            Then their targets are passed on unchanged.
        classes: Names of the classes. A task with one output channel has one name, text has none.
        size: (channels, height, width) of an image, or of the first one if they differ. For text (tokens,) of a
            context.
        mean: Mean per channel of pixel values in [0, 1].
        std: Standard deviation per channel of pixel values in [0, 1].
        ignore_index: The label that counts neither in the loss nor in the metrics.
        vocabulary: For text: all token ids are below this number.
        content: For text: what identifies it, such as its length and its hash.
        counted: If the classes were counted from labels: the item with the highest label.
        inputs: For tensors that a graph takes unchanged: the names of its inputs. Empty for images and text.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    ignore_index: int | None = None
    vocabulary: int = 0
    content: Mapping[str, Any] = field(default_factory=dict, compare=False)
    counted: str = field(default="", compare=False)
    inputs: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        # A class may have the name of a folder, in any bytes. Its name goes into UTF-8 files.
        object.__setattr__(self, "classes", tuple(map(utf8, self.classes)))

    @property
    def kind(self) -> TaskKind:
        """The kind of task: what its targets are."""
        return kind_of(self.task)

    @property
    def items(self) -> str:
        """What the items of a batch are called, in the plural."""
        return "samples" if self.inputs else self.kind.items

    @property
    def labels(self) -> int:
        """Number of values that a target can have, without the ignored one. 0 if it is not known."""
        return 2 if self.kind.is_binary else len(self.classes)


class Data(ABC):
    """A training set and a validation set that give batches.

    Everything random in the training batches (order, augmentation, your transforms) depends only on the arguments
    of :meth:`train_batches`. So a run that resumes in another process sees the same batches.

    Attributes:
        mid_epoch_resume: Whether an epoch can start at any step.
        info: The description of the data set.
        train_size: Number of training images. For text, number of consecutive contexts.
        val_size: Number of validation images, or contexts.
        path: Absolute path of the folder or file that was read. None for your own sets, and for those that come
            with a library.
        notes: What was converted or skipped when the files were read, one sentence each.
    """

    mid_epoch_resume: bool
    info: DataInfo
    train_size: int
    val_size: int
    path: Path | None = None
    notes: tuple[str, ...] = ()

    _part: Part  # only if the data can be divided; they cut their batches to it
    _census: Census | None = None  # only for your own data with labels

    @property
    def content(self) -> dict[str, Any]:
        """What identifies these data among others with their name: number and size of items; for text also its hash."""
        return {"train": self.train_size, "val": self.val_size, "size": self.info.size, **self.info.content}

    def check_classes(self) -> None:
        """Raise a DataError if it is known before training that a class has no training example.

        Your own data without ``targets`` are checked at the end of their first epoch.
        """
        if self._census is not None:
            self._census.check()

    def check_numbers(self, outputs: int) -> None:
        """Raise a DataError if labels do not start at 0 or have a gap, and so do not fit a number of outputs.

        Only your own data are checked, if all their labels are known before training.
        """
        if self._census is not None:
            self._census.check_numbers(outputs, self.info.ignore_index)

    @abstractmethod
    def steps(self, batch_size: int) -> int:
        """Return the number of training batches per epoch."""

    @abstractmethod
    def train_batches(self, batch_size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[AnyBatch]:
        """Yield training batches ``first``, ``first + 1``, … of an epoch.

        Args:
            batch_size: Images or contexts per batch.
            seed: Seed of the run.
            epoch: Number of the epoch, from 0.
            first: Number of the first batch.
        """

    def val_batch_size(self, batch_size: int) -> int:
        """Return the size of the batches of an evaluation, for training batches of ``batch_size``."""
        return batch_size

    @abstractmethod
    def val_batches(self, batch_size: int) -> Iterator[AnyBatch]:
        """Yield all validation images or contexts in order, without augmentation.

        A batch ends early if the size of images changes.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> Data:
        """Return the same data with batches on ``device``."""

    def part(self, rank: int, ranks: int) -> Self:
        """Return the same data with every batch cut to the part of process ``rank`` of ``ranks``.

        Random numbers are those of whole batches. ``train_size``, ``val_size`` and the number of steps stay the same.

        Raises:
            DataError: The data cannot be divided.
        """
        if not hasattr(self, "_part"):
            raise DataError(
                f"'{self.info.name}' cannot be divided over {ranks} processes; give Datasets instead of DataLoaders, or"
                " data by name"
            )
        other = copy.copy(self)
        other._part = Part(rank, ranks)
        return other

    def first_images(self, count: int) -> Data:
        """Return the same data with only ``count`` training images, the same ones for every seed.

        They are the first of a fixed shuffle, so that sets sorted by class keep all their classes.

        Raises:
            DataError: There are fewer images, or the data do not allow a choice.
        """
        raise DataError(
            f"'train_images' cannot pick from '{self.info.name}'; give it a torch.utils.data.Subset instead"
        )


def picked(info: DataInfo, size: int, count: int) -> Tensor:
    """Return (count,) sorted indices of the images that :meth:`Data.first_images` keeps from ``size`` images.

    Raises:
        DataError: ``count`` is larger than ``size``.
    """
    if count > size:
        raise DataError(f"'{info.name}' has {size:,} training images, not {count:,}; set 'train_images' to less")
    return torch.randperm(size, generator=generator("subset"))[:count].sort().values


@dataclass(frozen=True, slots=True)
class Part:
    """The part of every batch that one of several processes takes: consecutive images.

    The parts of a batch differ by at most one image.

    Attributes:
        rank: Number of the process.
        ranks: Number of processes.
    """

    rank: int = 0
    ranks: int = 1

    def of(self, size: int) -> slice:
        """Return the slice of the process's images in a batch of ``size``."""
        return slice(size * self.rank // self.ranks, size * (self.rank + 1) // self.ranks)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Copy ``values`` from the CPU to ``device`` without waiting."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def each(values: Tensors, function: Callable[[Tensor], Tensor]) -> Tensors:
    """Apply ``function`` to each tensor."""
    if isinstance(values, Tensor):
        return function(values)
    return {name: function(value) for name, value in values.items()}


def listed(values: Tensors) -> list[Tensor]:
    """Return the tensors as a list. All have the length and the device of the first."""
    return [values] if isinstance(values, Tensor) else list(values.values())


def moved(values: Tensors, device: torch.device, *, non_blocking: bool = False) -> Tensors:
    """Return the same tensors on ``device``."""
    return each(values, lambda value: value.to(device, non_blocking=non_blocking))


def full_batches(size: int, batch_size: int) -> int:
    """Return the number of batches per training epoch over ``size`` images.

    Remaining images that fill no batch are left out, because batch normalisation over a few images is too noisy. A
    set smaller than one batch is one batch.
    """
    return max(1, size // batch_size)


def shuffled(size: int, batch_size: int, *, seed: int, epoch: int, first: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (step, indices (N,)) of the training batches of an epoch, from step ``first``."""
    order = torch.randperm(size, generator=generator("order", seed, epoch))
    for step in range(first, full_batches(size, batch_size)):
        yield step, order[step * batch_size : (step + 1) * batch_size]
