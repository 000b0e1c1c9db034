"""What training needs of data: its description, and batches that can be had again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topolearn.errors import DataError, utf8
from topolearn.samples.seeds import generator
from topolearn.task_kinds import TaskKind, kind_of

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W) float32, normalised; targets int64, (N,) or (N, H, W). Of text, ids (N, T) and the next ones."""

Tensors = Tensor | dict[str, Tensor]
"""Inputs or targets (N, …) of a batch: one tensor, or several by name."""

AnyBatch = tuple[Tensors, Tensors]
"""Inputs and targets of whatever data."""

IGNORE = 255
"""The label of pixels that count neither in the loss nor in the metrics."""

BLACK_AND_WHITE = frozenset({0, IGNORE})
"""The values of masks of two classes as most tools write them. Beside a third value, 255 is ignored."""


@dataclass(frozen=True, slots=True)
class DataInfo:
    """What a data set is.

    Attributes:
        name: The set's name.
        task: ``classification`` (one class per image), ``segmentation`` (one class per pixel),
            ``saliency`` or ``edges`` (yes or no per pixel), ``next_token``; a user's own data may have another,
            with targets that are passed on as they are.
        classes: Names of the classes; of a task of one channel, its one name; none of text.
        size: (channels, height, width) of an image; of the first one, where they differ. (tokens,) of a text's context.
        mean: Per channel, of pixel values in [0, 1].
        std: Per channel, of pixel values in [0, 1].
        ignore_index: The label that counts neither in the loss nor in the metrics.
        vocabulary: Of text: all ids of tokens are below this number.
        content: Of text: what tells it from another, as its length and its hash.
        counted: Where the classes were counted from labels: which item has the highest one.
        inputs: Of tensors that go into a graph as they are: the names of its inputs; none of images and text.
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
        # A class may be called as a folder is, in any bytes; its name goes into files that are UTF-8.
        object.__setattr__(self, "classes", tuple(map(utf8, self.classes)))

    @property
    def kind(self) -> TaskKind:
        """What the targets of the task are."""
        return kind_of(self.task)

    @property
    def items(self) -> str:
        """What a batch is made of, in the plural."""
        return "samples" if self.inputs else self.kind.items

    @property
    def labels(self) -> int:
        """How many values a target can have, the ignored one aside; 0 where that is not known."""
        return 2 if self.kind.is_binary else len(self.classes)


class Data(ABC):
    """A training and a validation set.

    Everything random in the training batches (order, augmentation, a user's transforms) is a
    function of the arguments of :meth:`train_batches`, so that a run resumed in another process
    sees the batches it would have seen.

    Attributes:
        mid_epoch_resume: Whether an epoch can be entered at any step.
        info: What the data set is.
        train_size: Number of training images; of text, of contexts that follow one another.
        val_size: Number of validation images, or contexts.
        path: The folder or file that they were read from, absolute; None for a user's own sets, and for those that
            come with a library.
        notes: What was converted or skipped when the files were read, a sentence each.
    """

    mid_epoch_resume: bool
    info: DataInfo
    train_size: int
    val_size: int
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def content(self) -> dict[str, Any]:
        """What tells these data from others of their name: how much they hold, of what size; of text its hash too."""
        return {"train": self.train_size, "val": self.val_size, "size": self.info.size, **self.info.content}

    def check_classes(self) -> None:
        """Raise a DataError if it is known before training that a class has no training example.

        A user's own data without ``targets`` are judged when their first epoch ends.
        """
        return

    @abstractmethod
    def steps(self, batch_size: int) -> int:
        """Number of training batches per epoch."""

    @abstractmethod
    def train_batches(self, batch_size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[AnyBatch]:
        """Training batches ``first``, ``first + 1``, … of an epoch.

        Args:
            batch_size: Images or contexts per batch.
            seed: Seed of the run.
            epoch: Number of the epoch, from 0.
            first: Number of the first batch to give.
        """

    @abstractmethod
    def val_batches(self, batch_size: int) -> Iterator[AnyBatch]:
        """All validation images or contexts in order, in full, not augmented.

        A batch ends early where the size of images changes.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> Data:
        """The same data with batches on ``device``."""

    def part(self, rank: int, ranks: int) -> Data:
        """The same data with every batch cut down to the part of process ``rank`` of ``ranks``.

        Everything random is as in whole batches; their sizes and the number of images stay as they are.

        Raises:
            DataError: Data that cannot be divided.
        """
        raise DataError(
            f"'{self.info.name}' cannot be divided over {ranks} processes; give Datasets instead of DataLoaders, or"
            " data by name"
        )

    def first_images(self, count: int) -> Data:
        """The same data with ``count`` training images, the same ones for every seed.

        They are the first of a fixed shuffle, so that sets sorted by class keep all their classes.

        Raises:
            DataError: More images than there are, or data that cannot be picked from.
        """
        raise DataError(
            f"'train_images' cannot pick from '{self.info.name}'; give it a torch.utils.data.Subset instead"
        )


def picked(info: DataInfo, size: int, count: int) -> Tensor:
    """(count,) indices of the images that :meth:`Data.first_images` keeps of ``size``, in their own order.

    Raises:
        DataError: More than there are.
    """
    if count > size:
        raise DataError(f"'{info.name}' has {size:,} training images, not {count:,}; set 'train_images' to less")
    return torch.randperm(size, generator=generator("subset"))[:count].sort().values


@dataclass(frozen=True, slots=True)
class Part:
    """What one of several processes takes of every batch: a run of images, as long as the others' but for one.

    Attributes:
        rank: Number of the process.
        ranks: How many there are.
    """

    rank: int = 0
    ranks: int = 1

    def of(self, size: int) -> slice:
        """Its images of a batch of ``size``."""
        return slice(size * self.rank // self.ranks, size * (self.rank + 1) // self.ranks)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` from the CPU on ``device``, without waiting for it."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def each(values: Tensors, function: Callable[[Tensor], Tensor]) -> Tensors:
    """What ``function`` makes of each tensor."""
    if isinstance(values, Tensor):
        return function(values)
    return {name: function(value) for name, value in values.items()}


def listed(values: Tensors) -> list[Tensor]:
    """The tensors alone; the length and the device of all are those of the first."""
    return [values] if isinstance(values, Tensor) else list(values.values())


def moved(values: Tensors, device: torch.device, *, non_blocking: bool = False) -> Tensors:
    """The same tensors on ``device``."""
    return each(values, lambda value: value.to(device, non_blocking=non_blocking))


def full_batches(size: int, batch_size: int) -> int:
    """Batches per training epoch over ``size`` images.

    The rest that fills no batch is left out (the statistics of a batch normalisation over a few
    images are too noisy), except that a set smaller than one batch is a batch.
    """
    return max(1, size // batch_size)


def shuffled(size: int, batch_size: int, *, seed: int, epoch: int, first: int) -> Iterator[tuple[int, Tensor]]:
    """(step, indices (N,)) of the training batches of an epoch, from step ``first``."""
    order = torch.randperm(size, generator=generator("order", seed, epoch))
    for step in range(first, full_batches(size, batch_size)):
        yield step, order[step * batch_size : (step + 1) * batch_size]
