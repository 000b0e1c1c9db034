"""Turn raw images into a batch on their device: random crops, scales and flips, then normalisation."""

from __future__ import annotations

import copy
from typing import Annotated, Literal, final

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator
from torch import Tensor

from topolearn.errors import DataError
from topolearn.samples.base import Batch, DataInfo
from topolearn.samples.seeds import generator


class Augment(BaseModel):
    """Random crop after padding, then a random horizontal flip. Masks move with their images.

    Attributes:
        pad: Pixels added on every side before the crop back to the original size. 0 means no crop.
        flip: Flip each image left to right with probability one half.
        fill: Content of the padding: ``zero`` (black before normalisation, the ignored label in masks) or
            ``reflect``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    pad: int = Field(default=0, ge=0)
    flip: bool = False
    fill: Literal["zero", "reflect"] = "zero"

    def check(self, info: DataInfo) -> None:
        """Check that this augmentation fits images and masks of ``info``.

        Raises:
            DataError: The reflection is larger than the image, or masks with zero padding have no label to ignore.
        """
        _, height, width = info.size
        if self.fill == "reflect" and self.pad >= min(height, width):
            raise DataError(
                f"'pad: {self.pad}' with 'fill: reflect' needs images larger than {self.pad} pixels, but those of "
                f"'{info.name}' are {height}x{width}"
            )
        if self.pad and self.fill == "zero" and info.kind.is_dense and info.ignore_index is None:
            raise DataError(
                f"'pad: {self.pad}' leaves a border without a label, and '{info.name}' has no label to ignore; "
                "use 'fill: reflect'"
            )

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw random numbers for ``count`` images: (3, N) int64 on the CPU, as row, column and whether to flip."""
        offset = torch.randint(2 * self.pad + 1, (2, count), generator=generator)
        flip = torch.randint(2 if self.flip else 1, (1, count), generator=generator)
        return torch.cat([offset, flip])

    def apply(self, images: Tensor, draws: Tensor, border: int = 0) -> Tensor:
        """Augment a batch.

        Args:
            images: (N, C, H, W) of any type.
            draws: (3, N) from :meth:`draw`, on the images' device.
            border: Value of the padding.

        Returns:
            (N, C, H, W), a new tensor unless nothing can change.
        """
        if not (self.pad or self.flip):
            return images
        # Whole rows are picked first, then columns of every row, mirrored if the image is flipped:
        # two gathers with small indices and no synchronisation. Ten formulations were timed on a
        # CPU over (128, 3, 32, 32) and (8, 3, 360, 480). No other is faster without more memory:
        # one gather by an index (N, 1, H·W) takes 1 to 1.6 times as long, a view by `unfold`
        # indexed per image 1.3 to 1.7 times, one index per element (advanced indexing, `take`) 1.7
        # to 4 times, `grid_sample` 3 times, a loop over the images 1 to 3 times. A copy of the set,
        # padded and mirrored beforehand, takes 0.6 times as long and three times the memory.
        _, _, height, width = images.shape
        across = torch.arange(width, device=images.device)
        columns = draws[1, :, None] + torch.where(draws[2, :, None].bool(), width - 1 - across, across)
        if not self.pad:
            return pick_columns(images, columns)
        rows = draws[0, :, None] + torch.arange(height, device=images.device)
        if self.fill == "reflect":
            rows, columns = _reflect(rows - self.pad, height), _reflect(columns - self.pad, width)
        else:
            images = F.pad(images, (self.pad,) * 4, value=border)
        return pick_columns(pick_rows(images, rows), columns)


def pick_rows(images: Tensor, rows: Tensor) -> Tensor:
    """Pick rows per image: ``result[n, c, i] = images[n, c, rows[n, i]]``."""
    count, channels, height, width = images.shape
    first = torch.arange(count * channels, device=images.device).view(count, channels, 1) * height
    return images.reshape(-1, width).index_select(0, (first + rows[:, None]).view(-1)).view(count, channels, -1, width)


def pick_columns(images: Tensor, columns: Tensor) -> Tensor:
    """Pick columns per image: ``result[n, c, i, j] = images[n, c, i, columns[n, j]]``."""
    count, channels, height, width = images.shape
    index = columns[:, None].expand(-1, channels * height, -1)
    return images.reshape(count, channels * height, width).gather(2, index).view(count, channels, height, -1)


def _reflect(position: Tensor, size: int) -> Tensor:
    """Reflect positions beyond an edge. The edge itself is not repeated."""
    last = size - 1
    return last - (last - position.abs()).abs()


_UNIT = 2**24
"""Numbers in [0, 1) are drawn in steps of 1 / _UNIT, so that all draws are whole numbers."""

Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Crop(BaseModel):
    """Random scale of each image, crop to one size at a random place, then a random horizontal flip.

    Images are resampled bilinearly, masks to the nearest pixel. A scaled image that is smaller than the crop lies
    at a random place inside it. Around it, images hold the mean and masks the ignored label.

    Attributes:
        size: (height, width) of the crop.
        scale: The smallest and the largest factor. All factors in between are equally likely.
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
        """Check that this crop fits images and masks of ``info``.

        Raises:
            DataError: The masks have no label to ignore.
        """
        if info.kind.is_dense and info.ignore_index is None:
            raise DataError(f"a crop can leave a border without a label, and '{info.name}' has no label to ignore")

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw random numbers for ``count`` images: (4, N) int64 on the CPU.

        They are the factor, the row and the column in steps of 1 / _UNIT, and whether to flip.
        """
        parts = torch.randint(_UNIT, (3, count), generator=generator)
        flip = torch.randint(2 if self.flip else 1, (1, count), generator=generator)
        return torch.cat([parts, flip])

    def images(self, images: Tensor, draws: Tensor, border: Tensor) -> Tensor:
        """Crop a batch of images.

        Args:
            images: (N, C, H, W), uint8 or float.
            draws: (4, N) from :meth:`draw`, on the images' device.
            border: (C,) values around the images.

        Returns:
            (N, C, *size) of the same type.
        """
        rows, columns, inside = self._places(draws, images.shape[-2], images.shape[-1])
        # One axis after the other: once the rows are picked, little work is left.
        result = _between(_between(images, rows, axis=2), columns, axis=3)
        result = torch.where(inside[:, None], result, border.to(result).view(-1, 1, 1))
        return result if images.is_floating_point() else result.round_().to(images.dtype)

    def masks(self, masks: Tensor, draws: Tensor, border: int) -> Tensor:
        """Crop (N, H, W) masks as their images, to (N, *size). ``border`` is the label around them."""
        rows, columns, inside = self._places(draws, masks.shape[-2], masks.shape[-1])
        picked = pick_rows(masks[:, None], _nearest(rows, masks.shape[-2]))
        picked = pick_columns(picked, _nearest(columns, masks.shape[-1]))
        return picked[:, 0].masked_fill(~inside, border)

    def _places(self, draws: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows (N, h) and columns (N, w) of the source, in pixels, and which of (N, h, w) are inside."""
        low, high = self.scale
        factor = low + (high - low) * (draws[0].double() / _UNIT)
        rows, row_inside = _axis(factor, draws[1], height, self.size[0])
        columns, column_inside = _axis(factor, draws[2], width, self.size[1])
        flip = draws[3, :, None].bool()
        columns = torch.where(flip, columns.flip(1), columns)
        column_inside = torch.where(flip, column_inside.flip(1), column_inside)
        return rows, columns, row_inside[:, :, None] & column_inside[:, None, :]


def _axis(factor: Tensor, place: Tensor, source: int, target: int) -> tuple[Tensor, Tensor]:
    """Return where ``target`` pixels of a crop lie on an axis of ``source`` pixels that is scaled by ``factor``.

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
    """Interpolate between two rows (axis 2) or columns (axis 3) in float32. Beyond an edge, use the edge's values."""
    last = images.shape[axis] - 1
    pick = pick_rows if axis == 2 else pick_columns
    first = position.floor()
    share = (position - first).float()[:, None, :, None] if axis == 2 else (position - first).float()[:, None, None]
    before, after = (pick(images, each.long().clamp(0, last)).float() for each in (first, first + 1))
    return torch.lerp(before, after, share)


@final
class Finish:
    """The last steps on the device: augment, scale to [0, 1], normalise.

    Args:
        info: Size, mean, standard deviation and the label to ignore.
        augment: Augmentation of training batches.
        scale: The pixel value that means 1.
        labels: Label -> the label that replaces it. None keeps the labels.
    """

    def __init__(
        self, info: DataInfo, augment: Augment | Crop, scale: float = 255.0, labels: Tensor | None = None
    ) -> None:
        augment.check(info)
        std = torch.tensor(info.std, dtype=torch.float64).view(-1, 1, 1)
        mean = torch.tensor(info.mean, dtype=torch.float64).view(-1, 1, 1)
        self._augment = augment
        self._scale = scale
        self._labels = labels
        self._border = info.ignore_index or 0
        self._fill = (scale * mean).round().float().view(-1)
        self._gain = (1 / (scale * std)).float()
        self._shift = (mean / std).float()

    def to(self, device: torch.device | str) -> Finish:
        """Return a copy for batches on ``device``."""
        other = copy.copy(self)
        for name in ("_fill", "_gain", "_shift"):
            setattr(other, name, getattr(self, name).to(device))
        if self._labels is not None:
            other._labels = self._labels.to(device)
        return other

    def seen_by(self, info: DataInfo, labels: Tensor | None) -> Finish:
        """Return a copy with the mean and std of ``info`` and other class numbers."""
        return Finish(info, self._augment, self._scale, labels)

    def draw(self, count: int, seed: int, epoch: int, step: int) -> Tensor:
        """Draw what :meth:`train` needs for the batch of ``count`` images at ``step``: (3 or 4, N) on the CPU."""
        return self._augment.draw(count, generator("augment", seed, epoch, step))

    def train(self, images: Tensor, targets: Tensor, draws: Tensor) -> Batch:
        """Make a training batch from raw images (N, C, H, W) and targets on the device."""
        return self(*self.augmented(images, targets, draws))

    def augmented(self, images: Tensor, targets: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Augment raw images and targets without normalising them. Masks move with their images."""
        if isinstance(self._augment, Crop):
            # Float images are normalised: their mean is 0.
            fill = torch.zeros_like(self._fill) if images.is_floating_point() else self._fill
            if targets.ndim == 3:
                targets = self._augment.masks(targets, draws, self._border)
            return self._augment.images(images, draws, fill), targets
        if targets.ndim == 3:
            targets = self._augment.apply(targets[:, None], draws, self._border)[:, 0]
        return self._augment.apply(images, draws), targets

    def __call__(self, images: Tensor, targets: Tensor) -> Batch:
        """Make a batch without augmentation. Float images count as normalised already."""
        if not images.is_floating_point():
            images = images.to(torch.float32).mul_(self._gain).sub_(self._shift)
        if targets.is_floating_point():
            return images, targets
        return images, targets.long() if self._labels is None else self._labels[targets.long()]
