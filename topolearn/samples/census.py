"""Count the labels in the training targets of your own data, and check that every class occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from topolearn.errors import DataError, first_few
from topolearn.samples.occurrence import LISTED, check_occurrence


class Census:
    """Counts the labels of training targets until every class has occurred, and raises if a class never does.

    Copies of the data share it. After one epoch of one copy, counting is finished.

    Args:
        classes: Names of the classes, in the order of their labels.
        are_declared: Whether the data name these classes. Then each must occur. If only their number is given, a
            graph may have more classes than the data. Then the classes up to the highest label found must occur.
        unit: What is counted, ``images`` or ``pixels``.
        found: Label -> how often it occurs, if known before training.
        is_whole: Whether ``found`` covers all training targets.
        everything: Gives all available training targets, one after the other, for a last look at the end of an
            epoch. It is needed since batches leave out some images, and crops leave out parts of masks.
    """

    def __init__(
        self,
        classes: Sequence[str],
        unit: str,
        found: Mapping[int, int],
        *,
        are_declared: bool,
        is_whole: bool,
        everything: Callable[[], Iterable[Tensor]],
    ) -> None:
        self._classes = classes
        self._are_declared = are_declared
        self._unit = unit
        self._found = Counter(found)
        self._counted: Counter[int] = Counter()
        self._is_whole = is_whole
        self._everything = everything
        self._is_settled = False

    def count(self, targets: Tensor) -> None:
        """Count the labels of a batch, unless every class has occurred already."""
        if not self._is_settled and not self._is_whole:
            self._counted.update(count_labels(targets))
            self._is_settled = _all_occur(self._classes, self._counted)

    def check(self) -> None:
        """Check the classes if all targets are known.

        Raises:
            DataError: A class has no training example, or there is only one class.
        """
        if self._is_whole:
            classes = self._judged(self._found)
            counts = [self._found[label] for label in range(len(classes))]
            found = {str(label): count for label, count in sorted(self._found.items())}
            mend = "number the labels 0, 1, … without a gap, and remove classes that do not occur from 'classes'"
            check_occurrence(classes, counts, found, self._unit, "the training targets", mend)

    def check_numbers(self, outputs: int, ignored: int | None) -> None:
        """Check that the labels start at 0 and have no gap, if all targets are known and some labels are too high.

        Otherwise the highest label alone would seem to tell the number of classes.

        Args:
            outputs: Number of classes that the network has.
            ignored: The label that does not count, or None.

        Raises:
            DataError: The labels fit the outputs, but are numbered in another way.
        """
        labels = sorted(label for label in self._found if label != ignored)
        if not self._is_whole or len(labels) < 2 or labels[-1] < outputs:
            return
        first, last = labels[0], labels[-1]
        if first > 0 and labels == list(range(first, last + 1)):
            raise DataError(f"labels start at 0; yours are {first} to {last}: subtract {first}")
        if len(labels) == outputs:
            raise DataError(
                f"labels are 0 to {outputs - 1} for {outputs} classes; yours are"
                f" {first_few(list(map(str, labels)), LISTED)}: number them 0, 1, … without a gap"
            )

    def close(self) -> None:
        """Check the classes at the end of an epoch. If one is missing so far, look at all targets first.

        Raises:
            DataError: A class has no training example, or there is only one class.
        """
        if self._is_settled:
            return
        self._found |= self._counted
        if not self._is_whole and not _all_occur(self._judged(self._found), self._found):
            looked: Counter[int] = Counter()
            for targets in self._everything():
                looked.update(count_labels(targets))
                both = self._found | looked
                if _all_occur(self._judged(both), both):
                    break
            self._found |= looked
        self._is_whole = True
        self.check()
        self._is_settled = True

    def _judged(self, found: Mapping[int, int]) -> Sequence[str]:
        """Return the classes that must occur."""
        if self._are_declared:
            return self._classes
        return self._classes[: 1 + max((label for label in found if label < len(self._classes)), default=0)]


def _all_occur(classes: Sequence[str], found: Mapping[int, int]) -> bool:
    return len(classes) > 1 and all(found.get(label) for label in range(len(classes)))


def count_labels(targets: Tensor) -> dict[int, int]:
    """Return label -> how often it occurs in ``targets``, a tensor of whole numbers."""
    values = targets.flatten().long()
    if values.numel() and int(values.min()) >= 0 and int(values.max()) < 2**16:  # faster for masks than a sort
        counts = values.bincount()
        labels = counts.nonzero().flatten()
        return dict(zip(labels.tolist(), counts[labels].tolist(), strict=True))
    labels, counts = torch.unique(values, return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))
