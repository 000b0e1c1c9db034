"""Passes over a user's Dataset or DataLoader whose random numbers are a function of seeds."""

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
"""Of a batch: index and seed of each item, and what was drawn for its crop; () where it is left as it is."""


class SeededItems:
    """The items of a map-style Dataset, each a function of its index and a seed.

    Args:
        dataset: Whose items.
        what: How errors call it.

    Raises:
        DataError: An empty set, or one without length or items by number.
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
        """How errors call an item."""
        return f"item {index} of {self.what}"

    def item(self, index: int, seed: int) -> Any:
        """An item as the set gives it; seeds the global generators."""
        seed_global(seed)
        try:
            return self.dataset[index]
        except StopIteration:  # would end the pass as if it were complete
            raise DataError(
                f"{self.called(index)} raises StopIteration, but the set has a length of {self.size:,}; let it give"
                " every item, or correct '__len__'"
            ) from None

    def look(self, index: int) -> Any:
        """An item on its own, for a look at it."""
        with global_state_kept():
            return self.item(index, mix("look", index))

    def labels(self, read: Callable[[int], Tensor], count: int | None) -> Iterator[tuple[str, Tensor]]:
        """Labels of up to ``count`` items, evenly spaced, each with the name of its item; of all for None.

        Args:
            read: The number of an item -> its label.
            count: How many to look at.
        """
        step = 1 if count is None else max(1, -(-self.size // count))
        return ((f"item {index}", read(index)) for index in range(0, self.size, step))


def val_keys(size: int, batch_size: int, part: Part) -> Iterator[Key]:
    """The keys of all validation batches, or of a process's part of them."""
    for start in range(0, size, batch_size):
        chosen = range(start, min(start + batch_size, size))
        mine = chosen[part.of(len(chosen))]
        if len(mine):
            yield [(index, mix("val", index), ()) for index in mine]


def load(
    items: Dataset[Any], keys: Iterable[Key], workers: int, device: torch.device, census: Census | None = None
) -> Iterator[tuple[Any, Any]]:
    """Batches on ``device``.

    Args:
        items: Gives for a key a list of batches, or the DataError that stopped it.
        keys: What to load.
        workers: Processes that load; 0 to load in this one.
        device: Where the batches go.
        census: Counts the targets; None for none.
    """
    on_cuda = device.type == "cuda"
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=keys,  # each is a batch, with the seeds of its items
        num_workers=workers,
        collate_fn=_as_is,
        pin_memory=on_cuda,
        generator=torch.Generator(),  # else it draws from the global one
    )
    for loaded in loader:
        if isinstance(loaded, DataError):
            raise loaded
        for inputs, targets in loaded:
            if census is not None:
                census.count(targets)
            yield moved(inputs, device, non_blocking=on_cuda), moved(targets, device, non_blocking=on_cuda)


def _as_is(loaded: Any) -> Any:
    return loaded


class SeededLoader:
    """Passes over a DataLoader, each a function of a seed.

    Args:
        loader: Whose batches.
        what: How errors call it.

    Raises:
        DataError: An empty loader, or one without a length.
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

    def first(self) -> Any:
        """The first batch, as the loader gives it, for a look at it."""
        with self.kept_for_a_look():
            batch = next(iter(self.loader), _END)
        if batch is _END:
            raise self._ended(0)
        return batch

    @contextmanager
    def kept_for_a_look(self) -> Iterator[None]:
        """Put all generators back where they were, the loader's own too."""
        generators = [(each, each.get_state()) for each in _generators(self.loader)]
        try:
            with global_state_kept():
                yield
        finally:  # also where a look ends early
            for each, state in generators:
                each.set_state(state)

    def labels(self, read: Callable[[Any], Tensor], count: int | None) -> Iterator[tuple[str, Tensor]]:
        """Labels of the first items, for a look at them, each with the name of its item.

        Args:
            read: A batch -> its labels (N, …).
            count: About how many to look at; None for all items that a sampler may pick from.
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
        """Batches of all items of the dataset, whatever the sampler leaves out; none where they have no numbers."""
        loader = self.loader
        if isinstance(loader.dataset, IterableDataset):
            return ()
        size = None if loader.batch_sampler is None else loader.batch_size or 1
        return DataLoader(loader.dataset, batch_size=size, collate_fn=loader.collate_fn, generator=torch.Generator())

    def epoch(self, seed: int, epoch: int, first: int) -> Iterator[Any]:
        """The batches of a training epoch.

        Raises:
            DataError: Where ``first`` is not 0.
        """
        if first:
            raise DataError(
                f"a DataLoader can be entered at the start of an epoch only, not at step {first}; give the Datasets "
                "instead of their DataLoaders to go on in the middle"
            )
        for each in _generators(self.loader):
            each.manual_seed(mix("loader", seed, epoch))
        for sampler in _samplers(self.loader):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
        return self.batches(mix("loader", seed, epoch))

    def batches(self, seed: int) -> Iterator[Any]:
        """The batches of a pass; the loader sees its own course of the global generators."""
        with global_state_kept():
            seed_global(seed)
            batches = iter(self.loader)
            inner = GlobalState.capture()
        given = 0
        while True:
            with global_state_kept():
                inner.restore()
                # Also ends where the user's own code lets a StopIteration out.
                batch = next(batches, _END)
                inner = GlobalState.capture()
            if batch is _END:
                if given < self._least():
                    raise self._ended(given)
                return
            yield batch
            given += 1

    def _least(self) -> int:
        """Fewest batches of a pass."""
        spread = isinstance(self.loader.dataset, IterableDataset) and self.loader.drop_last
        # Each worker leaves out a rest of its own.
        return len(self) - (max(0, self.loader.num_workers - 1) if spread else 0)

    def _ended(self, given: int) -> DataError:
        return DataError(
            f"{self.what} ended after {given:,} of the {len(self):,} batches that its length promises; let each pass"
            " over it give all of them, or correct its length"
        )


_END = object()
"""Stands for the end of a pass; a batch may be None where a user's function goes wrong."""


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    samplers = [loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    return [each for index, each in enumerate(samplers) if each is not None and each not in samplers[:index]]


def _generators(loader: DataLoader[Any]) -> list[torch.Generator]:
    owners = [loader, *_samplers(loader)]
    found = [getattr(owner, "generator", None) for owner in owners]
    return [each for each in found if isinstance(each, torch.Generator)]
