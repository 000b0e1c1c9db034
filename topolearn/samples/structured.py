"""Data of tensors for any graph: several named inputs, vectors, sequences, and targets in any form a loss takes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from topolearn.errors import DataError, suggest
from topolearn.graph import Graph
from topolearn.ops.basic import Input
from topolearn.samples.base import AnyBatch, Data, DataInfo, Part, full_batches, moved, shuffled
from topolearn.samples.census import Census
from topolearn.samples.describe import Classes, find_classes, innermost
from topolearn.samples.items import as_labels, as_numbers, check_finite, check_labels, first_place, stacked, told
from topolearn.samples.seeded import Key, SeededItems, SeededLoader, load, val_keys
from topolearn.samples.seeds import global_state_kept, mix
from topolearn.task_kinds import kind_of

Named = dict[str, Tensor]
"""Tensors by name. The name of an unnamed target is :data:`ALONE`."""

ALONE = ""

TRAINING = "the training set"


@dataclass(frozen=True)
class Signature:
    """What the items of a set hold: a tensor for each input of a graph, and targets of one form.

    Attributes:
        graph: The graph's name.
        inputs: The graph's inputs, by name.
        targets: Name of a target -> number of axes, and whether it holds floats. None before the first is known.
        labels: Number of classes if the target is a label, else 0.
    """

    graph: str
    inputs: Mapping[str, Input]
    targets: Mapping[str, tuple[int, bool]] | None = None
    labels: int = 0

    @classmethod
    def of(cls, graph: Graph) -> Signature:
        """Return the signature with the inputs of a graph and targets of any form."""
        return cls(graph.name, {name: graph.input_rule(name) for name in graph.inputs})

    @property
    def are_single(self) -> bool:
        """Whether a batch is one tensor of inputs and one of targets, without names."""
        return len(self.inputs) == 1 and self.targets is not None and ALONE in self.targets

    def read(self, given: Any, what: str, *, batched: bool = False) -> tuple[Named, Named]:
        """Return the inputs and the targets of an item, or of a loader's batch, by name.

        Args:
            given: A pair (inputs, targets). Inputs are a dict by name, or for a graph with one input its tensor.
                Targets are a number, an array or a tensor, or a dict of these.
            what: What errors call the item.
            batched: Whether the first axis of all tensors counts items.

        Returns:
            Inputs of the shapes that the graph takes, float32 or ids int64; targets float32 or int64.

        Raises:
            DataError: The item has another form.
        """
        if not isinstance(given, tuple | list) or len(given) != 2:
            length = f" of {len(given)}" if isinstance(given, tuple | list) else ""
            raise DataError(f"{what} is a {type(given).__name__}{length}, but must be a pair (inputs, targets)")
        inputs = {
            name: self._input(name, value, what, batched=batched) for name, value in self._named(given[0], what).items()
        }
        targets = _targets(given[1], what)
        if batched:
            lengths = {value.shape[:1] for value in (*inputs.values(), *targets.values())}
            if len(lengths) > 1:
                raise DataError(f"{what} holds tensors of different lengths; give all one row per item")
        form = form_of(targets, batched=batched)
        if self.targets is not None and form != self.targets:
            raise DataError(
                f"{what} has {_told_form(form)}, but the training set starts with {_told_form(self.targets)}; give all"
                " in one form"
            )
        return inputs, targets

    def _named(self, inputs: Any, what: str) -> Mapping[str, Any]:
        """Return the given inputs by name, unchanged."""
        names = ", ".join(map(repr, self.inputs))
        if len(self.inputs) == 1:
            if isinstance(inputs, Mapping):
                raise DataError(
                    f"the inputs of {what} are a dict, but graph '{self.graph}' has one input, {names}; give its tensor"
                    " alone"
                )
            return {next(iter(self.inputs)): inputs}
        if not isinstance(inputs, Mapping):
            raise DataError(
                f"the inputs of {what} are {told(inputs)}, but graph '{self.graph}' has the inputs {names}; give a dict"
                " by these names"
            )
        for name in inputs:
            if name not in self.inputs:
                raise DataError(
                    f"{what} has the input '{name}', but graph '{self.graph}' takes {names}"
                    f"{suggest(str(name), self.inputs) or '; leave it out'}"
                )
        for name in self.inputs:
            if name not in inputs:
                raise DataError(f"{what} lacks the input '{name}' of graph '{self.graph}', which takes {names}")
        return {name: inputs[name] for name in self.inputs}

    def _input(self, name: str, value: Any, what: str, *, batched: bool) -> Tensor:
        """Return an input as the graph takes it."""
        rule, called = self.inputs[name], f"input '{name}' of {what}"
        wanted, numbers = rule.shape, as_numbers(value)
        if numbers is None:
            raise DataError(f"{called} is {told(value)}, but must be a tensor or an array of numbers")
        if len(wanted) == 3 and not numbers.is_floating_point():
            raise DataError(f"{called} is {told(value)}, but must hold floats, which are used as they are; scale it")
        shape = tuple(numbers.shape[1:] if batched else numbers.shape)
        # Only a sequence may be shorter than the graph declares.
        whole = wanted if rule.length is None else (min(shape[0], rule.length) if shape else 0, *wanted[1:])
        if shape != whole or not numbers.numel():
            axes = ", ".join(map(str, ("N", *wanted) if batched else wanted))
            raise DataError(
                f"{called} has the shape {tuple(numbers.shape)}, but graph '{self.graph}' takes"
                f" ({axes}{'' if ',' in axes else ','}); change the data, or 'inputs' in the graph"
            )
        if rule.vocabulary is None:
            return numbers.float()
        if numbers.is_floating_point():
            raise DataError(f"{called} holds floats, but must hold ids, whole numbers below {rule.vocabulary}")
        return numbers.long()

    def batch(self, inputs: Named, targets: Named, name: Callable[[int], str]) -> AnyBatch:
        """Return a batch as the network and the loss take it, and check its values.

        Args:
            inputs: (N, …) each.
            targets: (N, …) each.
            name: What errors call the n-th item.

        Raises:
            DataError: A value is NaN or infinite, an id is out of range, or a label is unknown.
        """
        for key, values in inputs.items():
            check_finite(values, f"input '{key}'", name)
            limit = self.inputs[key].vocabulary
            wrong = (values < 0) | (values >= (limit or math.inf))
            if limit is not None and bool(wrong.any()):
                raise DataError(
                    f"input '{key}' of {name(first_place(wrong))} holds the id {int(values[wrong][0])}, but ids are 0"
                    f" to {limit - 1}; set 'inputs.{key}.vocabulary' to more"
                )
        for key, values in targets.items():
            check_finite(values, _target_name(key), name)
        if self.labels:
            check_labels(targets[ALONE], self.labels, None, name)
        alone = next(iter(inputs.values())) if len(self.inputs) == 1 else inputs
        return alone, targets.get(ALONE, targets)


def form_of(targets: Named, *, batched: bool = False) -> dict[str, tuple[int, bool]]:
    """Return name -> number of axes of an item's target, and whether it holds floats."""
    return {name: (value.ndim - batched, value.is_floating_point()) for name, value in sorted(targets.items())}


def _targets(given: Any, what: str) -> Named:
    named = given if isinstance(given, Mapping) else {ALONE: given}
    if not named:
        raise DataError(f"the targets of {what} are an empty dict; give at least one")
    for name in given if isinstance(given, Mapping) else ():
        if not isinstance(name, str) or not name:  # the loss would look for a name that is not there
            raise DataError(f"{what} has a target of the name {name!r}, but a name must be text")
    targets = {}
    for name, value in named.items():
        numbers = as_numbers(value)
        if numbers is None:
            raise DataError(
                f"{_target_name(name)} of {what} is {told(value)}, but must be a number, an array or a tensor"
                f"{'' if name else ', or a dict of these'}"
            )
        targets[name] = numbers if numbers.is_floating_point() else numbers.long()
    return targets


def _target_name(name: str) -> str:
    return f"target '{name}'" if name else "the target"


def _told_form(form: Mapping[str, tuple[int, bool]]) -> str:
    said = []
    for name, (axes, floats) in form.items():
        each = f"of {axes} ax{'e' if axes == 1 else 'i'}s" if axes else "one per item"
        said.append(f"{_target_name(name)} in {'floats' if floats else 'whole numbers'}, {each}")
    return " and ".join(said)


def fits_images(train: Any, task: str) -> bool:
    """Whether the first target of your own set has the form for images: a label, or a mask of labels."""
    batched = isinstance(train, DataLoader)
    item = SeededLoader(train, "the training loader").first() if batched else SeededItems(train, TRAINING).look(0)
    if not isinstance(item, tuple | list) or len(item) != 2:
        return True
    if isinstance(item[1], Mapping):
        return False
    target, kind = as_numbers(item[1]), kind_of(task)
    if target is None or kind.target == "other":
        return True
    return not target.is_floating_point() and (kind.is_dense or target.ndim == batched)


def describe_tensors(
    graph: Graph,
    dataset: Any,
    targets: Named,
    labels: Callable[[int | None], Iterable[tuple[str, Tensor]]],
    *,
    is_first: bool,
    own_loss: bool,
) -> tuple[DataInfo, Census | None]:
    """Describe your own data of tensors.

    Args:
        graph: The graph to train.
        dataset: The training set. Its attributes ``classes`` and ``targets`` are used.
        targets: The targets of an item.
        labels: See ``targets`` of :func:`topolearn.samples.describe.describe`.
        is_first: Whether ``targets`` belong to the set's first item.
        own_loss: Whether you give the loss. Then targets may have any form, else they are labels.

    Returns:
        The description, and a census of labels. The census is None if the targets are not labels.

    Raises:
        DataError: The task's own loss for classification needs labels, but the targets are something else.
    """
    kind, found = kind_of(graph.task), Classes()
    if not own_loss and kind.target == "label":
        if form_of(targets) != {ALONE: (0, False)}:
            code = as_labels(targets[ALONE], 0) if ALONE in targets else ""
            raise DataError(
                f"the training set starts with {_told_form(form_of(targets))}, but {graph.task} by its own loss needs"
                " one whole number per item; give a 'loss' of (outputs, targets) in Python for other targets"
                f"{code and f', or use {code}'}"
            )
        known = getattr(graph.shapes[graph.outputs[0]], "channels", 0)
        for count in (None, known):
            found = find_classes(dataset, targets[ALONE], labels, kind, "samples", is_first=is_first, count=count)
            if not found.counted or len(found.names) >= known:
                break  # otherwise only labels that were seen are counted; the graph declares rarer ones too
    name, size = type(innermost(dataset)).__name__, graph.input_size(graph.inputs[0])
    info = DataInfo(name, graph.task, found.names, size, (), (), counted=found.counted, inputs=graph.inputs)
    return info, found.census


@final
class StructuredData(Data):
    """Data from a pair of map-style Datasets of (inputs, targets) items, or of DataLoaders of such batches.

    Training can resume at any step with Datasets, and at the start of an epoch with DataLoaders. Random transforms are
    reproducible, as in :class:`DatasetData` and :class:`LoaderData`.

    Args:
        graph: The graph that takes the inputs; see :meth:`Signature.read`.
        train: Training set.
        val: Validation set, of the same kind.
        own_loss: See :func:`describe_tensors`.
        workers: Number of processes that load the items of Datasets. 0 loads in this process.

    Attributes:
        signature: What the items hold.

    Raises:
        DataError: A set is empty, a loader has no length or gives fewer batches than its length promises, or the
            first items do not fit the graph.
    """

    def __init__(self, graph: Graph, train: Any, val: Any, *, own_loss: bool = False, workers: int = 0) -> None:
        self._train: SeededItems | SeededLoader
        self._val: SeededItems | SeededLoader
        if isinstance(train, DataLoader):
            self._train = SeededLoader(train, "the training loader")
            self._val = SeededLoader(val, "the validation loader")
        else:
            self._train, self._val = SeededItems(train, TRAINING), SeededItems(val, "the validation set")
        self.mid_epoch_resume = isinstance(self._train, SeededItems)
        self.train_size, self.val_size = self._train.size, self._val.size
        self.signature = Signature.of(graph)
        targets = self._targets(self._train)
        self.signature = replace(self.signature, targets=form_of(targets))
        self._targets(self._val)
        self.info, self._census = describe_tensors(
            graph, self._train.dataset, targets, self._labels, is_first=self.mid_epoch_resume, own_loss=own_loss
        )
        self.signature = replace(self.signature, labels=len(self.info.classes))
        self._workers = workers
        self._device = torch.device("cpu")
        if self.mid_epoch_resume:
            self._part = Part()

    def _targets(self, source: SeededItems | SeededLoader) -> Named:
        """Return the targets of the first item, and check that it fits the graph."""
        if isinstance(source, SeededItems):
            return self._look(source, 0)
        return {name: values[0] for name, values in self._read(source, source.first())[1].items()}

    def _labels(self, count: int | None) -> Iterator[tuple[str, Tensor]]:
        """Return names and labels of up to ``count`` training items. None takes all that are available."""
        source = self._train
        if isinstance(source, SeededItems):
            return source.labels(lambda index: self._look(source, index)[ALONE], count)
        return source.labels(lambda batch: self._read(source, batch)[1][ALONE], count)

    def _look(self, items: SeededItems, index: int) -> Named:
        return self.signature.read(items.look(index), items.called(index))[1]

    def _read(self, loader: SeededLoader, batch: Any) -> tuple[Named, Named]:
        return self.signature.read(batch, f"a batch of {loader.what}", batched=True)

    def steps(self, batch_size: int) -> int:
        """Return the number of training batches per epoch. A loader has its own batch size."""
        if isinstance(self._train, SeededLoader):
            return len(self._train)
        return full_batches(self.train_size, batch_size)

    def train_batches(self, batch_size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[AnyBatch]:
        """See :meth:`Data.train_batches`. A loader can only give a whole epoch.

        Raises:
            DataError: The data are a loader, and ``first`` is not 0.
        """
        if isinstance(self._train, SeededLoader):
            return self._ready(self._train, self._train.epoch(seed, epoch, first), self._census)
        batches = shuffled(self.train_size, batch_size, seed=seed, epoch=epoch, first=first)
        parts = (chosen[self._part.of(len(chosen))].tolist() for _, chosen in batches)
        keys: Iterator[Key] = ([(index, mix("item", seed, epoch, index), ()) for index in part] for part in parts)
        items = _Loaded(self._train, self.signature)
        return load(items, keys, self._workers, self._device, self._census)

    def val_batches(self, batch_size: int) -> Iterator[AnyBatch]:
        """See :meth:`Data.val_batches`."""
        if isinstance(self._val, SeededLoader):
            return self._ready(self._val, self._val.batches(mix("val")))
        keys = val_keys(self.val_size, batch_size, self._part)
        return load(_Loaded(self._val, self.signature), keys, self._workers, self._device)

    def _ready(self, loader: SeededLoader, batches: Iterator[Any], census: Census | None = None) -> Iterator[AnyBatch]:
        for number, batch in enumerate(batches):
            inputs, targets = self.signature.batch(*self._read(loader, batch), loader.names(number))
            if census is not None and isinstance(targets, Tensor):
                census.count(targets)
            yield moved(inputs, self._device), moved(targets, self._device)
        if census is not None:
            census.close()

    def to(self, device: torch.device | str) -> StructuredData:
        """Return the same data with batches on ``device``."""
        other = copy.copy(self)
        other._device = torch.device(device)
        return other


@dataclass(frozen=True)
class _Loaded(Dataset[Any]):
    """Dataset that gives a list with one batch of items for a key."""

    items: SeededItems
    signature: Signature

    def __getitem__(self, key: Key) -> list[AnyBatch] | DataError:
        # Return an error, do not raise it: from a worker process it would arrive wrapped in the
        # text of its traceback.
        items = self.items
        try:
            with global_state_kept():
                read = [self.signature.read(items.item(index, seed), items.called(index)) for index, seed, _ in key]
            inputs, targets = (
                {
                    name: stacked(
                        [each[name] for each in one],
                        f"{items.what} has {kind}{f' {name!r}' if name else ''}",
                        "give them one size",
                    )
                    for name in one[0]
                }
                for kind, one in zip(("inputs", "targets"), zip(*read, strict=True), strict=True)
            )
            return [self.signature.batch(inputs, targets, lambda place: items.called(key[place][0]))]
        except DataError as error:
            return error
