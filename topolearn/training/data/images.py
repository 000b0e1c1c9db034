"""Image and mask files, brought to one size."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from topolearn.errors import DataError
from topolearn.training.data.items import deep

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
"""Endings of the files that count as images."""

_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")


def open_image(path: Path) -> Image.Image:
    """Read an image file in full.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        text = "it is no image, or a broken one" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"the image '{path}' cannot be read: {text}") from None


def read_labels(path: Path) -> NDArray[np.uint8]:
    """The labels (H, W) of a mask file as stored: grey values or palette numbers.

    Raises:
        DataError: It cannot be read, or has colours.
    """
    return _labels(open_image(path), path)


def _labels(mask: Image.Image, path: Path) -> NDArray[np.uint8]:
    labels = np.array(mask)
    if labels.ndim != 2 or int(labels.max()) > 255 or int(labels.min()) < 0:
        raise DataError(
            f"the mask '{path}' is of mode {mask.mode}; a mask holds one label per pixel, as grey values or palette "
            "numbers from 0 to 255"
        )
    return labels.astype(np.uint8)


@final
class ImageFiles(Dataset[tuple[Tensor, Any]]):
    """Images and targets read from files when asked for.

    Item: the image, (C, H, W) uint8, and its class number or its mask, (H, W) uint8.

    Args:
        files: Image files with their class numbers or mask files.
        size: (C, H, W); C is 1 or 3. Images are resized bilinearly, masks to the nearest pixel.
        resize: Whether images may have another size in the file.
        labels: Table of 256 entries from the labels in mask files to those of the items.
    """

    def __init__(
        self,
        files: list[tuple[Path, int]] | list[tuple[Path, Path]],
        size: tuple[int, int, int],
        *,
        resize: bool,
        labels: NDArray[np.uint8] | None = None,
    ) -> None:
        self._files = files
        self._size = size
        self._resize = resize
        self._labels = labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Read one item.

        Raises:
            DataError: A file that cannot be read, an image and a mask of different sizes, or an
                image of another size where none may be.
        """
        path, target = self._files[index]
        channels, height, width = self._size
        image = open_image(path)
        if image.size != (width, height) and not self._resize:
            raise DataError(
                f"the image '{path}' is {image.height}x{image.width}, but the first one is {height}x{width}; give a "
                "'size' to resize to"
            )
        if deep(image):
            raise DataError(f"the image '{path}' has more than 8 bits per channel; convert it to 8 bits")
        if image.mode != ("L" if channels == 1 else "RGB"):
            image = image.convert("L" if channels == 1 else "RGB")
        if isinstance(target, int):
            return _pixels(image, height, width), target
        mask = open_image(target)
        if mask.size != image.size:
            raise DataError(
                f"the image '{path}' is {image.height}x{image.width}, but its mask '{target}' is "
                f"{mask.height}x{mask.width}; they must have one size"
            )
        labels = _labels(mask, target)
        if labels.shape != (height, width):
            labels = np.array(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        return _pixels(image, height, width), torch.from_numpy(labels if self._labels is None else self._labels[labels])


def _pixels(image: Image.Image, height: int, width: int) -> Tensor:
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))
