"""Data from a user's DataLoaders: batches as they give them."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from topolearn.data.augment import Augment, Finish
from topolearn.data.base import Batch
from topolearn.data.describe import describe
from topolearn.data.image_data import ImageData
from topolearn.data.items import Form, as_pair, check_labels, check_values, white_as_one
from topolearn.data.seeds import GlobalState, global_state_kept, mix, seed_global
from topolearn.errors import DataError


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

    mid_epoch_resume: ClassVar[bool] = False

    def __init__(
        self, train: DataLoader[Any], val: DataLoader[Any], *, task: str | None = None, classes: int | None = None
    ) -> None:
        self._train = train
        self._val = val
        self.train_size = _size(train, "the training loader")
        self.val_size = _size(val, "the validation loader")
        generators = [(each, each.get_state()) for loader in (train, val) for each in _generators(loader)]
        with global_state_kept():
            images, targets = _first(train, "the training loader")
            found = describe(
                train.dataset, images[0], targets[0], self._targets, is_first=False, task=task, classes=classes
            )
            self._form = Form.of(images[0], targets[0])
            self._form.check(*_first(val, "the validation loader"), "the validation loader")
        self.info, self._census, self._white_is_one = found.info, found.census, found.white_is_one
        for each, state in generators:
            each.set_state(state)
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
        if first:
            raise DataError(
                f"a DataLoader can be entered at the start of an epoch only, not at step {first}; give the Datasets "
                "instead of their DataLoaders to go on in the middle"
            )
        for each in _generators(self._train):
            each.manual_seed(mix("loader", seed, epoch))
        for sampler in _samplers(self._train):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        return self._batches(self._train, mix("loader", seed, epoch), "the training loader")

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """Batches of the validation loader, of its own batch size."""
        return self._batches(self._val, mix("val"), "the validation loader")

    def _batches(self, loader: DataLoader[Any], seed: int, what: str) -> Iterator[Batch]:
        with global_state_kept():
            seed_global(seed)
            batches = iter(loader)
            inner = GlobalState.capture()
        for given in itertools.count():
            with global_state_kept():
                inner.restore()
                # Also ends where the user's own code lets a StopIteration out.
                batch = next(batches, _END)
                inner = GlobalState.capture()
            if batch is _END:
                if given < _least(loader):
                    raise _ended(what, given, len(loader))
                break
            images, targets = _pair(batch, what)
            self._form.check(images, targets, what)
            if self._white_is_one:
                targets = white_as_one(targets, what)

            def name(place: int, number: int = given) -> str:
                return f"item {place} of batch {number} of {what}"

            if targets.device.type == "cpu":  # a GPU would have to be waited for
                check_values(images, targets, name)
                check_labels(targets, self.info.labels, self.info.ignore_index, name)
            if self._census is not None and loader is self._train:
                self._census.count(targets)
            yield self._finish(
                images.to(self._device, non_blocking=images.is_pinned()),
                targets.to(self._device, non_blocking=targets.is_pinned()),
            )
        if self._census is not None and loader is self._train:
            with global_state_kept():
                self._census.close()

    def _targets(self, count: int | None) -> Iterator[tuple[str, Tensor]]:
        """Names and targets of up to ``count`` training images; of all that a sampler may pick from for None."""
        loader = self._train if count is not None else _in_order(self._train)
        seen = 0
        for batch in loader:
            targets = _pair(batch, "the training loader")[1]
            yield from (("an item", target) for target in targets)
            seen += len(targets)
            if count is not None and seen >= count:
                return

    def to(self, device: torch.device | str) -> LoaderData:
        """The same data with batches on ``device``."""
        other = copy.copy(self)
        other._device = torch.device(device)
        other._finish = self._finish.to(device)
        return other

    def first_images(self, count: int) -> LoaderData:
        """Not possible.

        Raises:
            DataError: Always.
        """
        raise DataError("'train_images' cannot pick from a DataLoader; give it a torch.utils.data.Subset instead")


_END = object()
"""Stands for the end of a pass; a batch may be None where a user's function goes wrong."""


def _least(loader: DataLoader[Any]) -> int:
    """Fewest batches of a pass."""
    spread = isinstance(loader.dataset, IterableDataset) and loader.drop_last
    # Each worker leaves out a rest of its own.
    return len(loader) - (max(0, loader.num_workers - 1) if spread else 0)


def _ended(what: str, given: int, promised: int) -> DataError:
    return DataError(
        f"{what} ended after {given:,} of the {promised:,} batches that its length promises; let each pass over it give"
        " all of them, or correct its length"
    )


def _size(loader: DataLoader[Any], what: str) -> int:
    try:
        batches = len(loader)
    except TypeError:
        raise DataError(
            f"{what} has no length, so the number of steps is unknown; give its dataset a '__len__'"
        ) from None
    if not batches:
        raise DataError(f"{what} is empty")
    return len(loader.dataset)  # type: ignore[arg-type]  # the loader's length comes from it


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    samplers = [loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    return [each for index, each in enumerate(samplers) if each is not None and each not in samplers[:index]]


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    owners = [loader, *_samplers(loader)]
    found = [getattr(owner, "generator", None) for owner in owners]
    return [each for each in found if isinstance(each, torch.Generator)]


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


def _first(loader: DataLoader[Any], what: str) -> tuple[Tensor, Tensor]:
    """The first batch of a loader."""
    batch = next(iter(loader), _END)
    if batch is _END:
        raise _ended(what, 0, len(loader))
    return _pair(batch, what)


def _in_order(loader: DataLoader[Any]) -> Iterable[Any]:
    """Batches of all items of a loader's dataset, whatever its sampler leaves out; none where they have no numbers."""
    if isinstance(loader.dataset, IterableDataset):
        return ()
    size = None if loader.batch_sampler is None else loader.batch_size or 1
    return DataLoader(loader.dataset, batch_size=size, collate_fn=loader.collate_fn, generator=torch.Generator())
