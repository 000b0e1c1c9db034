"""Data of images, which a network may have seen in another way: other means, other numbers of the classes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from topolearn.data.augment import Finish
from topolearn.data.base import Data, DataInfo
from topolearn.errors import DataError


class ImageData(Data):
    """Images with targets, whose batches go through :class:`Finish` at the end."""

    _finish: Finish
    _own: DataInfo | None = None

    @property
    def content(self) -> dict[str, Any]:
        """See :attr:`Data.content`; with their own mean and deviation if a network sees them by others."""
        own = {} if self._own is None else {"mean": self._own.mean, "std": self._own.std}
        return {**super().content, **own}

    def seen_by(self, mean: Sequence[float], std: Sequence[float], classes: Sequence[str]) -> Self:
        """The same data as a network takes them that was trained on others.

        Args:
            mean: Per channel, of pixel values in [0, 1]: what images are normalised by. Float images of a user's own
                sets are taken as they are.
            std: Likewise, the standard deviation.
            classes: The names of ``info.classes``, in the order in which they are numbered.

        Raises:
            DataError: Means for another number of channels, or other classes.
        """
        info = self.info
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != len(info.mean):
                raise DataError(
                    f"'{name}' has {len(values)} numbers, but images of '{info.name}' have {len(info.mean)} channels;"
                    " give one for each"
                )
        if sorted(classes) != sorted(info.classes):
            raise DataError(f"'{info.name}' has other classes than the network")
        other = copy.copy(self)
        other._own = self._own or info
        other.info = replace(info, mean=tuple(mean), std=tuple(std), classes=tuple(classes))
        other._finish = self._finish.seen_by(other.info, _numbers(info.classes, classes))
        return other


def _numbers(before: Sequence[str], after: Sequence[str]) -> Tensor | None:
    """(256 or more,) label in ``before`` -> label in ``after``, other labels as they are; None where all are."""
    if list(before) == list(after):
        return None
    table = torch.arange(max(256, len(before)))
    table[: len(before)] = torch.tensor([list(after).index(name) for name in before])
    return table
