"""Data from your own map-style Datasets. Training can resume at any step."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from topolearn.errors import DataError
from topolearn.samples.augment import Augment, Crop, Finish
from topolearn.samples.base import Batch, DataInfo, Part, full_batches, picked, sent, shuffled
from topolearn.samples.describe import describe
from topolearn.samples.image_data import ImageData
from topolearn.samples.items import (
    Form,
    as_pair,
    check_labels,
    check_size,
    check_values,
    to_batch,
    to_item,
    white_as_one,
)
from topolearn.samples.modes import conversions
from topolearn.samples.seeded import Key, SeededItems, load, val_keys
from topolearn.samples.seeds import global_state_kept, mix


@final
class DatasetData(ImageData):
    """Data from a pair of map-style Datasets of (image, target) items.

    For every item, the global generators of Python, numpy and torch are seeded from the run's seed, the epoch and the
    item's index, and restored afterwards. So random transforms are reproducible. A transform with its own generator
    (``numpy.random.default_rng()``) is not.

    Args:
        train: Training set of pairs (image, target), or of dicts such as ``{"image": …, "label": …}``. Images are
            float tensors (C, H, W), which are used unchanged. Or they are uint8 tensors (C, H, W), uint8 arrays
            (H, W, C) or PIL images, which are scaled to [0, 1] and normalised by ``info``. Targets are class numbers
            or masks (H, W).
        val: Validation set.
        task: ``classification`` or ``segmentation``. None infers it from the first target.
        classes: Number of classes. None takes it from the set's ``classes`` or ``targets``, else from up to 2,000
            items.
        channels: 1 or 3: PIL images are converted to it. None takes 1 for grey images, else 3.
        info: The description of the data, if known. Then ``task`` and ``classes`` are not used.
        augment: Augmentation of training batches, after the set's own transforms. None leaves it out. With a
            :class:`Crop`, images may have different sizes.
        workers: Number of processes that load items. 0 loads in this process.

    Raises:
        DataError: A set is empty, or its items are not such pairs.
    """

    mid_epoch_resume = True

    def __init__(
        self,
        train: Dataset[Any],
        val: Dataset[Any],
        *,
        task: str | None = None,
        classes: int | None = None,
        channels: int | None = None,
        info: DataInfo | None = None,
        augment: Augment | Crop | None = None,
        workers: int = 0,
    ) -> None:
        self._train = _Items(train, "the training set", channels)
        self._val = _Items(val, "the validation set", channels)
        self.train_size = self._train.size
        self.val_size = self._val.size
        if info is None:
            image, target = self._train.one(0)
            info, found = describe(
                train,
                image,
                target,
                self._train.targets,
                self._val.targets,
                is_first=True,
                task=task,
                classes=classes,
            )
            self._census = found.census
            self._train.form = self._val.form = Form.of(image, target)
            val_image, val_target = self._val.one(0)
            self._val.form.check(val_image[None], val_target[None], self._val.what)
            if not isinstance(augment, Crop):
                check_size(val_image[None], info.size, self._val.what)
            modes = Counter([*self._train.modes.values(), *self._val.modes.values()])
            self.notes = tuple(conversions(modes, info.size[0], "PIL images that were looked at"))
            for items in (self._train, self._val):
                items.white_is_one = found.white_is_one
        self.info = info
        self._finish = Finish(info, augment or Augment())
        self._crops = isinstance(augment, Crop)
        for items in (self._train, self._val):
            items.info = info
            items.crop = self._finish if self._crops else None
        self._workers = workers
        self._device = torch.device("cpu")
        self._part = Part()

    def steps(self, batch_size: int) -> int:
        """Return the number of training batches per epoch; see :func:`full_batches`."""
        return full_batches(self.train_size, batch_size)

    def train_batches(self, batch_size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """See :meth:`Data.train_batches`."""
        whole = min(batch_size, self.train_size)
        mine = self._part.of(whole)

        def keys() -> Iterator[Key]:
            for step, chosen in shuffled(self.train_size, batch_size, seed=seed, epoch=epoch, first=first):
                drawn = self._finish.draw(whole, seed, epoch, step)[:, mine].T.tolist() if self._crops else None
                yield [
                    (index, mix("item", seed, epoch, index), tuple(drawn[place]) if drawn else ())
                    for place, index in enumerate(chosen[mine].tolist())
                ]

        loaded = load(self._train, keys(), self._workers, self._device, self._census)
        for step, (images, targets) in enumerate(loaded, first):
            if self._crops:  # already cropped when they were loaded, since their sizes may differ
                yield self._finish(images, targets)
            else:
                draws = self._finish.draw(whole, seed, epoch, step)[:, mine]
                yield self._finish.train(images, targets, sent(draws, self._device))

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """See :meth:`Data.val_batches`."""
        keys = val_keys(self.val_size, batch_size, self._part)
        for images, targets in load(self._val, keys, self._workers, self._device):
            yield self._finish(images, targets)

    def to(self, device: torch.device | str) -> DatasetData:
        """Return the same data with batches on ``device``."""
        other = copy.copy(self)
        other._device = torch.device(device)
        other._finish = self._finish.to(device)
        return other

    def first_images(self, count: int) -> DatasetData:
        """See :meth:`Data.first_images`."""
        chosen = picked(self.info, self.train_size, count).tolist()
        other = copy.copy(self)
        other._train = copy.copy(self._train)
        other._train.dataset = Subset(self._train.dataset, chosen)
        other._train.size = other.train_size = count
        return other


class _Items(SeededItems, Dataset[Any]):
    """Dataset that gives a list of batches for a key: one batch per run of items of one size."""

    info: DataInfo  # set before batches are loaded

    def __init__(self, dataset: Dataset[Any], what: str, channels: int | None) -> None:
        super().__init__(dataset, what)
        self.form: Form | None = None
        self.crop: Finish | None = None
        self.white_is_one = False
        self.channels = channels
        self.modes: dict[int, str] = {}
        """Index -> mode of the PIL images that :meth:`one` has looked at."""

    def one(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a single item, to look at it before training."""
        pair = as_pair(self.look(index), self.called(index))
        if isinstance(pair[0], Image.Image):
            self.modes[index] = pair[0].mode
        return to_item(pair, self.called(index), self.channels)

    def targets(self, count: int | None) -> Iterator[tuple[str, Tensor]]:
        """Yield names and targets of up to ``count`` items, evenly spaced. None takes all."""
        return self.labels(lambda index: self.one(index)[1], count)

    def _tensors(self, index: int, seed: int, drawn: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return an item, cropped by the numbers drawn for it."""
        called = self.called(index)
        image, target = to_item(as_pair(self.item(index, seed), called), called, self.channels)
        if self.white_is_one:
            target = white_as_one(target, called)
        if drawn and self.crop is not None:
            images, targets = self.crop.augmented(image[None], target[None], torch.tensor(drawn)[:, None])
            return images[0], targets[0]
        return image, target

    def _batch(self, indices: Sequence[int], items: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return a checked batch of items of one size."""
        images, targets = to_batch(items, self.what)
        if self.form is not None:
            self.form.check(images, targets, self.what)
        size = self.info.size if self.crop is None else (self.info.size[0], *images.shape[2:])
        check_size(images, size, self.what)

        def name(place: int) -> str:
            return self.called(indices[place])

        check_values(images, targets, name)
        check_labels(targets, self.info.labels, self.info.ignore_index, name)
        return images, targets

    def __getitem__(self, key: Key) -> list[tuple[Tensor, Tensor]] | DataError:
        # Return an error, do not raise it: from a worker process it would arrive wrapped in the
        # text of its traceback.
        try:
            with global_state_kept():
                read = [(index, self._tensors(index, seed, drawn)) for index, seed, drawn in key]
            # Without a crop all must have one size, so they are one run.
            runs = groupby(read, key=lambda each: None if self.crop is None else each[1][0].shape)
            return [self._batch(*zip(*run, strict=True)) for _, run in runs]
        except DataError as error:
            return error
