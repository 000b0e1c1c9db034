"""Base class of image data, which can be normalised and numbered as for a given trained network."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from topolearn.errors import DataError
from topolearn.samples.augment import Finish
from topolearn.samples.base import Data, DataInfo


class ImageData(Data):
    """Images with targets. Their batches pass through :class:`Finish` at the end."""

    _finish: Finish
    _own: DataInfo | None = None

    @property
    def content(self) -> dict[str, Any]:
        """See :attr:`Data.content`. Includes the data's own mean and std if others are used to normalise."""
        own = {} if self._own is None else {"mean": self._own.mean, "std": self._own.std}
        return {**super().content, **own}

    def seen_by(self, mean: Sequence[float], std: Sequence[float], classes: Sequence[str]) -> Self:
        """Return the same data, normalised and numbered as for a network that was trained on other data.

        Args:
            mean: Mean of each channel, for pixel values in [0, 1]. Float images of your own sets are not changed.
            std: Standard deviation of each channel.
            classes: The names of ``info.classes``, in the order of their new numbers.

        Raises:
            DataError: The number of means or standard deviations is not the number of channels, or the classes
                differ.
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
    """Return (256 or more,) label in ``before`` -> label in ``after``, or None if no label changes."""
    if list(before) == list(after):
        return None
    table = torch.arange(max(256, len(before)))
    table[: len(before)] = torch.tensor([list(after).index(name) for name in before])
    return table
