"""Data from a user's DataLoaders: batches as they give them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
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
    """A pair of DataLoaders of (images, targets) batches.

    At the start of an epoch the global generators and the loader's own are seeded from the run's
    seed and the epoch, so a whole epoch can be had again; a place within it cannot. The loader
    sees its own course of the global generators, whatever training draws in between. With
    ``persistent_workers`` the workers' generators live on from epoch to epoch: leave that off.

    Args:
        train: Gives (N, C, H, W) float images, used as they are, or uint8 images, which are scaled
            to [0, 1]; and targets (N,) or (N, H, W), as a pair or as a dict such as ``{"image": …, "label": …}``.
            Its batch size is the one that counts.
        val: The same for validation.
        task: ``classification`` or ``segmentation``; None to infer it from the first targets.
        classes: Number of classes; None to take it from the dataset's ``classes`` or ``targets``,
            else from up to 2,000 items.

    Raises:
        DataError: An empty loader, one without a length, or batches that are no such pairs; in a pass, fewer batches
            than the loader's length promises.
    """

    mid_epoch_resume = False

    def __init__(
        self, train: DataLoader[Any], val: DataLoader[Any], *, task: str | None = None, classes: int | None = None
    ) -> None:
        self._train = SeededLoader(train, "the training loader")
        self._val = SeededLoader(val, "the validation loader")
        self.train_size, self.val_size = self._train.size, self._val.size
        images, targets = _pair(self._train.first(), self._train.what)
        found = describe(
            train.dataset, images[0], targets[0], self._targets, is_first=False, task=task, classes=classes
        )
        self.info, self._census, self._white_is_one = found.info, found.census, found.white_is_one
        self._form = Form.of(images[0], targets[0])
        self._form.check(*_pair(self._val.first(), self._val.what), self._val.what)
        self._finish = Finish(self.info, Augment())
        self._device = torch.device("cpu")

    def check_classes(self) -> None:
        """See :meth:`Data.check_classes`."""
        if self._census is not None:
            self._census.check()

    def steps(self, batch_size: int) -> int:
        """Length of the training loader, which has a batch size of its own."""
        return len(self._train)

    def train_batches(self, batch_size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Batches of an epoch; see :meth:`Data.train_batches`. ``batch_size`` is the loader's own.

        Raises:
            DataError: Where ``first`` is not 0.
        """
        return self._batches(self._train, self._train.epoch(seed, epoch, first))

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Batches of the validation loader, of its own batch size."""
        return self._batches(self._val, self._val.batches(mix("val")))

    def _batches(self, seeded: SeededLoader, batches: Iterator[Any]) -> Iterator[Batch]:
        what = seeded.what
        census = self._census if seeded is self._train else None
        for number, batch in enumerate(batches):
            images, targets = _pair(batch, what)
            self._form.check(images, targets, what)
            if self._white_is_one:
                targets = white_as_one(targets, what)

            def name(place: int, number: int = number) -> str:
                return f"item {place} of batch {number} of {what}"

            if targets.device.type == "cpu":  # a GPU would have to be waited for
                check_values(images, targets, name)
                check_labels(targets, self.info.labels, self.info.ignore_index, name)
            if census is not None:
                census.count(targets)
            yield self._finish(
                images.to(self._device, non_blocking=images.is_pinned()),
                targets.to(self._device, non_blocking=targets.is_pinned()),
            )
        if census is not None:
            census.close()

    def _targets(self, count: int | None) -> Iterator[tuple[str, Tensor]]:
        """Names and targets of up to ``count`` training images; of all that a sampler may pick from for None."""
        return self._train.labels(lambda batch: _pair(batch, self._train.what)[1], count)

    def to(self, device: torch.device | str) -> LoaderData:
        """The same data with batches on ``device``."""
        other = copy.copy(self)
        other._device = torch.device(device)
        other._finish = self._finish.to(device)
        return other


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
