"""Data from your own DataLoaders, with their own batches."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from topolearn.errors import DataError
from topolearn.samples.augment import Augment, Finish
from topolearn.samples.base import Batch
from topolearn.samples.describe import describe
from topolearn.samples.image_data import ImageData
from topolearn.samples.items import Form, as_pair, check_labels, check_values, white_as_one
from topolearn.samples.seeded import SeededLoader
from topolearn.samples.seeds import mix


@final
class LoaderData(ImageData):
    """Data from a pair of DataLoaders of (images, targets) batches.

    At the start of an epoch the global generators and the loader's own are seeded from the run's seed and the epoch.
    So a whole epoch is reproducible, but training cannot resume within one. The loader sees its own sequence of the
    global generators, independent of what training draws. Leave ``persistent_workers`` off: with it, the workers'
    generators continue from epoch to epoch.

    Args:
        train: Gives (N, C, H, W) images and (N,) or (N, H, W) targets, as a pair or as a dict such as
            ``{"image": …, "label": …}``. Float images are used unchanged, uint8 images are scaled to [0, 1]. Its
            batch size is used.
        val: The same for validation.
        task: ``classification`` or ``segmentation``. None infers it from the first targets.
        classes: Number of classes. None takes it from the dataset's ``classes`` or ``targets``, else from up to 2,000
            items.

    Raises:
        DataError: A loader is empty or has no length, its batches are not such pairs, or it gives fewer batches than
            its length promises.
    """

    mid_epoch_resume = False

    def __init__(
        self, train: DataLoader[Any], val: DataLoader[Any], *, task: str | None = None, classes: int | None = None
    ) -> None:
        self._train = SeededLoader(train, "the training loader")
        self._val = SeededLoader(val, "the validation loader")
        self.train_size, self.val_size = self._train.size, self._val.size
        images, targets = _pair(self._train.first(), self._train.what)
        self.info, found = describe(
            train.dataset,
            images[0],
            targets[0],
            partial(_targets, self._train),
            partial(_targets, self._val),
            is_first=False,
            task=task,
            classes=classes,
        )
        self._census, self._white_is_one = found.census, found.white_is_one
        self._form = Form.of(images[0], targets[0])
        self._form.check(*_pair(self._val.first(), self._val.what), self._val.what)
        self._finish = Finish(self.info, Augment())
        self._device = torch.device("cpu")

    def steps(self, batch_size: int) -> int:
        """Return the length of the training loader. It has its own batch size."""
        return len(self._train)

    def train_batches(self, batch_size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch; see :meth:`Data.train_batches`. The loader's own batch size is used.

        Raises:
            DataError: ``first`` is not 0.
        """
        return self._batches(self._train, self._train.epoch(seed, epoch, first))

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Yield the batches of the validation loader, with its own batch size."""
        return self._batches(self._val, self._val.batches(mix("val")))

    def _batches(self, seeded: SeededLoader, batches: Iterator[Any]) -> Iterator[Batch]:
        what = seeded.what
        census = self._census if seeded is self._train else None
        for number, batch in enumerate(batches):
            images, targets = _pair(batch, what)
            self._form.check(images, targets, what)
            if self._white_is_one:
                targets = white_as_one(targets, what)
            if targets.device.type == "cpu":  # on a GPU, the check would have to wait for it
                check_values(images, targets, seeded.names(number))
                check_labels(targets, self.info.labels, self.info.ignore_index, seeded.names(number))
            if census is not None:
                census.count(targets)
            yield self._finish(
                images.to(self._device, non_blocking=images.is_pinned()),
                targets.to(self._device, non_blocking=targets.is_pinned()),
            )
        if census is not None:
            census.close()

    def to(self, device: torch.device | str) -> LoaderData:
        """Return the same data with batches on ``device``."""
        other = copy.copy(self)
        other._device = torch.device(device)
        other._finish = self._finish.to(device)
        return other


def _targets(source: SeededLoader, count: int | None) -> Iterator[tuple[str, Tensor]]:
    """Yield names and targets of up to ``count`` images. None takes all that a sampler may pick from."""
    return source.labels(lambda batch: _pair(batch, source.what)[1], count)


def _pair(batch: Any, what: str) -> tuple[Tensor, Tensor]:
    if isinstance(batch, Mapping):
        batch = as_pair(batch, f"a batch of {what}")
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not all(isinstance(each, Tensor) for each in batch):
        raise DataError(f"{what} gives a {type(batch).__name__}, but must give pairs of tensors (images, targets)")
    images, targets = batch
    if images.ndim != 4 or not (images.is_floating_point() or images.dtype == torch.uint8):
        raise DataError(
            f"{what} gives images {tuple(images.shape)} of {images.dtype}, but they must be (N, C, H, W) of floats or "
            "of uint8"
        )
    return (
        images.float() if images.is_floating_point() else images,
        targets.float() if targets.is_floating_point() else targets,
    )
