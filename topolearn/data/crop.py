"""Random scale, crop and flip, for images of any size with or without masks."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor

from topolearn.data.augment import pick_columns, pick_rows
from topolearn.data.base import DENSE, DataInfo
from topolearn.errors import DataError

_UNIT = 2**24
"""What is drawn from [0, 1) is drawn in steps of 1 / _UNIT, so that all draws are whole numbers."""

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Crop(BaseModel):
    """Each image is scaled by a random factor and cut to one size at a random place, then flipped or not.

    Images are resampled bilinearly, masks to the nearest pixel. Where the scaled image is smaller
    than the crop it lies at a random place within; around it images hold the mean and masks the
    label that is ignored.

    Attributes:
        size: (height, width) of what comes out.
        scale: The smallest and the largest factor; in between all are equally likely.
        flip: Flip each image left to right with probability one half.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: tuple[PositiveInt, PositiveInt]
    scale: tuple[Factor, Factor] = (0.5, 2.0)
    flip: bool = True

    @model_validator(mode="after")
    def _in_order(self) -> Crop:
        if self.scale[0] > self.scale[1]:
            raise ValueError("'scale' is the smallest and the largest factor, in this order")
        return self

    def check(self, info: DataInfo) -> None:
        """Check that this fits images and masks of ``info``.

        Raises:
            DataError: Masks that have no label to ignore.
        """
        if info.task in DENSE and info.ignore_index is None:
            raise DataError(f"a crop can leave a border without a label, and '{info.name}' has no label to ignore")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw for ``count`` images: (4, N) int64 on the CPU; factor, row and column in parts, whether to flip."""
        parts = torch.randint(_UNIT, (3, count), generator=generator)
        flip = torch.randint(2 if self.flip else 1, (1, count), generator=generator)
        return torch.cat([parts, flip])

    def images(self, images: Tensor, draws: Tensor, border: Tensor) -> Tensor:
        """Crop a batch of images.

        Args:
            images: (N, C, H, W), uint8 or float.
            draws: (4, N) from :meth:`draw`, on the images' device.
            border: (C,) values around the image.

        Returns:
            (N, C, *size) of the same type.
        """
        rows, columns, inside = self._places(draws, images.shape[-2], images.shape[-1])
        # One axis after the other: with the rows picked first, what is left to do is small.
        result = _between(_between(images, rows, axis=2), columns, axis=3)
        result = torch.where(inside[:, None], result, border.to(result).view(-1, 1, 1))
        return result if images.is_floating_point() else result.round_().to(images.dtype)

    def masks(self, masks: Tensor, draws: Tensor, border: int) -> Tensor:
        """Crop (N, H, W) masks along with their images, to (N, *size); ``border`` is the label around them."""
        rows, columns, inside = self._places(draws, masks.shape[-2], masks.shape[-1])
        picked = pick_rows(masks[:, None], _nearest(rows, masks.shape[-2]))
        picked = pick_columns(picked, _nearest(columns, masks.shape[-1]))
        return picked[:, 0].masked_fill(~inside, border)

    def _places(self, draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rows (N, h) and columns (N, w) of the source, in pixels, and which of (N, h, w) are inside."""
        low, high = self.scale
        factor = low + (high - low) * (draws[0].double() / _UNIT)
        rows, row_inside = _axis(factor, draws[1], height, self.size[0])
        columns, column_inside = _axis(factor, draws[2], width, self.size[1])
        flip = draws[3, :, None].bool()
        columns = torch.where(flip, columns.flip(1), columns)
        column_inside = torch.where(flip, column_inside.flip(1), column_inside)
        return rows, columns, row_inside[:, :, None] & column_inside[:, None, :]


def _axis(factor: Tensor, place: Tensor, source: int, target: int) -> tuple[Tensor, Tensor]:
    """Where ``target`` pixels of a crop lie on an axis of ``source`` pixels that was scaled by ``factor``.

    Returns:
        Positions (N, target), and whether they are inside.
    """
    scaled = (factor * source).round().clamp(min=1)
    slack = scaled - target
    start = slack.sign() * ((slack.abs() + 1) * (place.double() / _UNIT)).floor()
    position = start[:, None] + torch.arange(target, device=factor.device)
    # Pixels are areas: the middle of the first is at half a pixel, before and after scaling.
    return (position + 0.5) * (source / scaled[:, None]) - 0.5, (position >= 0) & (position < scaled[:, None])


def _nearest(position: Tensor, size: int) -> Tensor:
    return (position + 0.5).floor().long().clamp(0, size - 1)


def _between(images: Tensor, position: Tensor, axis: int) -> Tensor:
    """Values between two rows (axis 2) or columns (axis 3), in float32; beyond an edge, those at the edge."""
    last = images.shape[axis] - 1
    pick = pick_rows if axis == 2 else pick_columns
    first = position.floor()
    share = (position - first).float()[:, None, :, None] if axis == 2 else (position - first).float()[:, None, None]
    before, after = (pick(images, each.long().clamp(0, last)).float() for each in (first, first + 1))
    return torch.lerp(before, after, share)
