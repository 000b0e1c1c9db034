"""Read image and mask files, and resize them to one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from topolearn.data.class_list import CLASS_LIST, Colour
from topolearn.data.labels import Labels
from topolearn.errors import DataError
from topolearn.samples.modes import MODES, deep

_SUFFIXES_OF = {
    "PNG": ".png .apng",
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "BMP": ".bmp",
    "DIB": ".dib",
    "WEBP": ".webp",
    "GIF": ".gif",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pbm .pnm",
    "TGA": ".tga",
    "JPEG2000": ".jp2 .j2k .j2c .jpx",
    "AVIF": ".avif",
}
"""Image formats that are read, with their suffixes. Pillow reads them without other programs. Documents and icons are
left out.
"""

SUFFIXES = frozenset(" ".join(_SUFFIXES_OF.values()).split())
"""Suffixes of the files that count as images."""

_LOSSY = ("JPEG", "MPO")
_COLOURS = {"RGB": 3, "RGBA": 3, "LA": 1}
"""Mode with several channels -> how many of them, from the first, are not transparency."""
_Kind = Literal["image", "mask"]

_ON_THEIR_SIDE = frozenset({5, 6, 7, 8})
"""EXIF orientations that swap height and width."""


def open_image(path: Path, kind: _Kind = "image") -> Image.Image:
    """Read an image file in full and turn it upright, as viewers show it and masks are drawn over it.

    Args:
        path: The file.
        kind: What it is. A mask may have grey values of more than 8 bits.

    Raises:
        DataError: The file cannot be read, or has more than 8 bits per channel.
    """
    with _opened(path, kind) as image:
        image.load()
        # Pillow turns the pixels first. Then it rewrites the other metadata, and fails if they are damaged.
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        return image


def look_at(path: Path, kind: _Kind = "image") -> tuple[tuple[int, int], str]:
    """Return (height, width) of the upright image and the mode of an image file, without reading its pixels.

    Arguments and errors are those of :func:`open_image`.
    """
    with _opened(path, kind) as image:
        size = (image.height, image.width)
        if image.format == "PNG" and not _has_metadata(path):
            return size, image.mode  # Pillow would read all pixels to look for metadata after them
        return size[::-1] if _is_on_its_side(image) else size, image.mode


def _has_metadata(path: Path) -> bool:
    """Whether a PNG file has a chunk of EXIF or text before or after its pixels. Text may hold EXIF too."""
    with open(path, "rb") as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt"):
                return True
            file.seek(length + 4, 1)  # the chunk's bytes and its checksum
    return False


def _is_on_its_side(image: Image.Image) -> bool:
    """Whether the EXIF orientation swaps height and width. False if it is missing or cannot be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in _ON_THEIR_SIDE
    except Exception:  # Pillow's readers of metadata can raise almost anything
        return False


@contextmanager
def _opened(path: Path, kind: _Kind) -> Iterator[Image.Image]:
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise DataError(f"the {kind} '{path}' is not a file but a folder, a pipe or a device; remove it")
    try:
        with Image.open(path, formats=tuple(_SUFFIXES_OF)) as image:
            if deep(image) and (kind == "image" or image.mode[0] not in "IF"):  # Pillow would silently cut it to 8 bits
                raise DataError(f"the {kind} '{path}' has more than 8 bits per channel; convert it to 8 bits")
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's readers can raise almost anything for a broken file
        text = str(error)
        if isinstance(error, UnidentifiedImageError | KeyError):  # an old Pillow does not know the last format
            text = "it is not an image, or it is damaged"
        elif isinstance(error, OSError) and error.strerror:
            text = error.strerror
        raise DataError(f"the {kind} '{path}' cannot be read: {text}; replace or remove it") from None


def read_labels(path: Path, *, binary: bool = False, colours: Sequence[Colour] = ()) -> NDArray[np.uint8]:
    """Read the labels (H, W) of a mask file: grey values (also R = G = B), palette numbers, or the labels of colours.

    Args:
        path: The file.
        binary: Whether the mask is a picture of yes and no. Then greys are returned: those that a palette or a one-bit
            picture shows. If a palette has colours, its number 0 gives black and 1 gives white.
        colours: The colours of the labels 0, 1, …; empty for a mask that holds the labels themselves.

    Raises:
        DataError: The file cannot be read, is a JPEG of labels, has colours although ``colours`` is empty, or has a
            colour that is not in ``colours``.
    """
    mask = open_image(path, "mask")
    if mask.format in _LOSSY and not binary:
        raise DataError(f"the mask '{path}' is a JPEG file; JPEG compression changes labels, so save the mask as PNG")
    if colours:
        return _labels_of_colours(mask, colours, path)
    if binary and (mask.mode == "1" or (mask.mode == "P" and _is_grey(mask))):
        mask = mask.convert("L")
    labels = np.array(mask)
    if binary and mask.mode == "P" and int(labels.max()) <= 1:
        labels = 255 * labels
    if mask.mode in _COLOURS:
        channels = labels[..., : _COLOURS[mask.mode]]
        if (channels == channels[..., :1]).all():
            labels = channels[..., 0]
    if labels.ndim != 2 or labels.dtype.kind == "f" or int(labels.max()) > 255 or int(labels.min()) < 0:
        raise DataError(no_mask(path, mask.mode))
    return labels.astype(np.uint8)


def _labels_of_colours(mask: Image.Image, colours: Sequence[Colour], path: Path) -> NDArray[np.uint8]:
    weights = np.array([65536, 256, 1])
    pixels = np.array(mask.convert("RGB")) @ weights
    codes = np.array(colours) @ weights
    order = codes.argsort()
    labels: NDArray[np.intp] = order[np.searchsorted(codes[order], pixels).clip(max=len(codes) - 1)]
    wrong = codes[labels] != pixels
    if wrong.any():
        code = int(pixels[wrong][0])
        colour = f"{code // 65536} {code // 256 % 256} {code % 256}"
        raise DataError(
            f"the mask '{path}' has the colour {colour}, which the list of classes does not have; add the line"
            f" '{colour} NAME' to it, with the name 'void' to ignore this colour"
        )
    return labels.astype(np.uint8)


def _is_grey(mask: Image.Image) -> bool:
    """Whether a picture with a palette shows only greys."""
    palette = np.array(mask.getpalette("RGB"), np.uint8).reshape(-1, 3)
    shown = palette[np.unique(np.array(mask)).clip(max=len(palette) - 1)]
    return bool((shown == shown[:, :1]).all())


@final
class ImageFiles(Dataset[tuple[Tensor, Any]]):
    """Dataset of image files, read one by one on access.

    An item is the image, (C, H, W) uint8, and its class number or its mask, (H, W) uint8.

    Args:
        files: Image files with their class numbers or mask files.
        channels: 1 or 3.
        size: (height, width) of all images. With None each image keeps its own size.
        resize: Whether images may have another size in the file. Then images are resized bilinearly, masks to the
            nearest pixel.
        labels: The meaning of the values in mask files. None only if there are no mask files.
    """

    def __init__(
        self,
        files: list[tuple[Path, int]] | list[tuple[Path, Path]],
        channels: int,
        size: tuple[int, int] | None,
        *,
        resize: bool,
        labels: Labels | None = None,
    ) -> None:
        self._files = files
        self._channels = channels
        self._size = size
        self._resize = resize
        self._labels = labels

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        """Read one item.

        Raises:
            DataError: A file cannot be read, image and mask differ in size, a label has no meaning, or an image has
                another size and is not resized.
        """
        path, target = self._files[index]
        image = open_image(path)
        height, width = size = self._size or (image.height, image.width)
        if image.size != (width, height) and not self._resize:
            raise DataError(
                f"the image '{path}' is {image.height}x{image.width}, but the first one is {height}x{width}; give a "
                "'size' to resize to"
            )
        if image.mode != MODES[self._channels]:
            image = image.convert(MODES[self._channels])
        if isinstance(target, int):
            return pixels(image, size), target
        assert self._labels is not None
        stored = read_labels(target, binary=self._labels.binary, colours=self._labels.colours)
        if stored.shape != (image.height, image.width):
            raise DataError(differ(path, (image.height, image.width), target, stored.shape))
        labels = self._labels(stored, target)
        if labels.shape != size:
            labels = np.array(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))
        return pixels(image, size), torch.from_numpy(labels)


def no_mask(path: Path, mode: str) -> str:
    """Return the error message for a mask file with a mode that cannot be used."""
    return (
        f"the mask '{path}' is of mode {mode}; a mask holds one label per pixel, as grey values (R = G = B) or palette"
        f" numbers from 0 to 255; for colours, give '{CLASS_LIST}' a line 'R G B NAME' for each, as '128 0 0 car'"
    )


def differ(image: Path, size: Sequence[int], mask: Path, mask_size: Sequence[int]) -> str:
    """Return the error message for an image and a mask of different sizes."""
    return (
        f"the image '{image}' is {size[0]}x{size[1]}, but its mask '{mask}' is {mask_size[0]}x{mask_size[1]}; they"
        " must have the same size"
    )


def pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Return an image as (C, H, W) uint8, resized bilinearly to ``size`` (H, W) if it has another size."""
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    array = np.array(image)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1)))
