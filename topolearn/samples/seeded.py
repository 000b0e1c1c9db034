"""Read your own Datasets and DataLoaders reproducibly: their random numbers depend only on seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from topolearn.errors import DataError
from topolearn.samples.base import Part, moved
from topolearn.samples.census import Census
from topolearn.samples.seeds import GlobalState, global_state_kept, mix, seed_global

Key = list[tuple[int, int, tuple[int, ...]]]
"""What identifies a batch: index and seed of each item, and the numbers drawn for its crop, () without a crop."""


class SeededItems:
    """The items of a map-style Dataset. Each depends only on its index and a seed.

    Args:
        dataset: The Dataset.
        what: What errors call the Dataset.

    Raises:
        DataError: The Dataset is empty, or has no length or no items by number.
    """

    def __init__(self, dataset: Dataset[Any], what: str) -> None:
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"{what} is a {type(dataset).__name__} without length or items by number; wrap both sets in DataLoaders"
            )
        if not len(dataset):
            raise DataError(f"{what} is empty")
        self.dataset = dataset
        self.what = what
        self.size = len(dataset)

    def called(self, index: int) -> str:
        """Return what errors call an item."""
        return f"item {index} of {self.what}"

    def item(self, index: int, seed: int) -> Any:
        """Seed the global generators and return an item as the Dataset gives it."""
        seed_global(seed)
        try:
            return self.dataset[index]
        except StopIteration:  # it would end the pass as if it were complete
            raise DataError(
                f"{self.called(index)} raises StopIteration, but the set has a length of {self.size:,}; let it give"
                " every item, or correct '__len__'"
            ) from None

    def look(self, index: int) -> Any:
        """Return a single item, to look at it before training."""
        with global_state_kept():
            return self.item(index, mix("look", index))

    def labels(self, read: Callable[[int], Tensor], count: int | None) -> Iterator[tuple[str, Tensor]]:
        """Return the names and labels of up to ``count`` items, evenly spaced.

        Args:
            read: Returns the label of an item, given its number.
            count: How many items to look at. None takes all.
        """
        step = 1 if count is None else max(1, -(-self.size // count))
        return ((f"item {index}", read(index)) for index in range(0, self.size, step))


def val_keys(size: int, batch_size: int, part: Part) -> Iterator[Key]:
    """Yield the keys of all validation batches, cut to a process's part of each."""
    for start in range(0, size, batch_size):
        chosen = range(start, min(start + batch_size, size))
        mine = chosen[part.of(len(chosen))]
        if len(mine):
            yield [(index, mix("val", index), ()) for index in mine]


def load(
    items: Dataset[Any], keys: Iterable[Key], workers: int, device: torch.device, census: Census | None = None
) -> Iterator[tuple[Any, Any]]:
    """Load batches and yield them on ``device``.

    Args:
        items: Gives a list of batches for a key, or the DataError that stopped it.
        keys: The keys of the batches.
        workers: Number of processes that load. 0 loads in this process.
        device: The device of the batches.
        census: Counts the targets, unless None. At the end it checks that every class has occurred.
    """
    on_cuda = device.type == "cuda"
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=keys,  # each key is a batch, with the seeds of its items
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=on_cuda,
        generator=torch.Generator(),  # otherwise it draws from the global generator
    )
    for loaded in loader:
        if isinstance(loaded, DataError):
            raise loaded
        for inputs, targets in loaded:
            if census is not None:
                census.count(targets)
            yield moved(inputs, device, non_blocking=on_cuda), moved(targets, device, non_blocking=on_cuda)
    if census is not None:
        census.close()


def _as_is(loaded: Any) -> Any:
    return loaded


class SeededLoader:
    """The batches of a DataLoader. Each pass depends only on a seed.

    Args:
        loader: The DataLoader.
        what: What errors call the DataLoader.

    Raises:
        DataError: The loader is empty or has no length.
    """

    def __init__(self, loader: DataLoader[Any], what: str) -> None:
        try:
            batches = len(loader)
        except TypeError:
            raise DataError(
                f"{what} has no length, so the number of steps is unknown; give its dataset a '__len__'"
            ) from None
        if not batches:
            raise DataError(f"{what} is empty")
        self.loader = loader
        self.dataset = loader.dataset
        self.what = what
        self.size = len(loader.dataset)  # type: ignore[arg-type]  # the loader's length comes from it

    def __len__(self) -> int:
        return len(self.loader)

    def names(self, number: int) -> Callable[[int], str]:
        """Return a function that says what errors call the n-th item of a batch, given the number of the batch."""
        return lambda place: f"item {place} of batch {number} of {self.what}"

    def first(self) -> Any:
        """Return the first batch as the loader gives it, to look at it before training."""
        with self.kept_for_a_look():
            batch = next(iter(self.loader), _END)
        if batch is _END:
            raise self._ended(0)
        return batch

    @contextmanager
    def kept_for_a_look(self) -> Iterator[None]:
        """Restore all generators at the end, also the loader's own."""
        generators = [(each, each.get_state()) for each in _generators(self.loader)]
        try:
            with global_state_kept():
                yield
        finally:  # also if a look ends early
            for each, state in generators:
                each.set_state(state)

    def labels(self, read: Callable[[Any], Tensor], count: int | None) -> Iterator[tuple[str, Tensor]]:
        """Yield the names and labels of the first items.

        Args:
            read: Returns the labels (N, …) of a batch.
            count: About how many items to look at. None takes all items that a sampler may pick from.
        """
        seen = 0
        with self.kept_for_a_look():
            for batch in self.loader if count is not None else self._in_order():
                labels = read(batch)
                yield from (("an item", label) for label in labels)
                seen += len(labels)
                if count is not None and seen >= count:
                    return

    def _in_order(self) -> Iterable[Any]:
        """Return batches of all items of the dataset, without its sampler. Empty for an IterableDataset."""
        loader = self.loader
        if isinstance(loader.dataset, IterableDataset):
            return ()
        size = None if loader.batch_sampler is None else loader.batch_size or 1
        return DataLoader(loader.dataset, batch_size=size, collate_fn=loader.collate_fn, generator=torch.Generator())

    def epoch(self, seed: int, epoch: int, first: int) -> Iterator[Any]:
        """Return the batches of a training epoch.

        Raises:
            DataError: ``first`` is not 0.
        """
        if first:
            raise DataError(
                f"a DataLoader can only start at the beginning of an epoch, not at step {first}; give the Datasets "
                "instead of their DataLoaders to resume within an epoch"
            )
        for each in _generators(self.loader):
            each.manual_seed(mix("loader", seed, epoch))
        for sampler in _samplers(self.loader):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        return self.batches(mix("loader", seed, epoch))

    def batches(self, seed: int) -> Iterator[Any]:
        """Yield the batches of a pass. The loader sees its own sequence of the global generators."""
        with global_state_kept():
            seed_global(seed)
            batches = iter(self.loader)
            inner = GlobalState.capture()
        given = 0
        while True:
            with global_state_kept():
                inner.restore()
                # Also ends here if your own code raises StopIteration.
                batch = next(batches, _END)
                inner = GlobalState.capture()
            if batch is _END:
                if given < self._least():
                    raise self._ended(given)
                return
            yield batch
            given += 1

    def _least(self) -> int:
        """Return the fewest batches that a complete pass can have."""
        spread = isinstance(self.loader.dataset, IterableDataset) and self.loader.drop_last
        # Each worker drops its own incomplete last batch.
        return len(self) - (max(0, self.loader.num_workers - 1) if spread else 0)

    def _ended(self, given: int) -> DataError:
        return DataError(
            f"{self.what} ended after {given:,} of the {len(self):,} batches that its length promises; let each pass"
            " over it give all of them, or correct its length"
        )


_END = object()
"""Marks the end of a pass. None cannot, since a faulty dataset or collate function may return it as a batch."""


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    samplers = [loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    return [each for index, each in enumerate(samplers) if each is not None and each not in samplers[:index]]


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    owners = [loader, *_samplers(loader)]
    found = [getattr(owner, "generator", None) for owner in owners]
    return [each for each in found if isinstance(each, torch.Generator)]
