"""Finds the image files to predict, and reads each as the network takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from topolearn.data.folder_layout import images as images_of
from topolearn.data.images import SUFFIXES, open_image
from topolearn.errors import DataError
from topolearn.samples import DataInfo
from topolearn.samples.modes import MODES


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used.

    Attributes:
        image: The file.
        reason: The reason, a sentence that names the file.
    """

    image: Path
    reason: str


def find(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files among ``paths`` and in the folders among them, each once.

    Raises:
        DataError: A file or folder does not exist, or there is no image at all.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"there is no file or folder '{path}'; name images, or a folder of images")
        found.update(dict.fromkeys(images_of(path) if path.is_dir() else [path]))
    if not found:
        listed = ", ".join(f"'{path}'" for path in paths)
        raise DataError(f"there is no image in {listed}; looked for {', '.join(sorted(SUFFIXES))}")
    return list(found)


def passed_over(paths: Sequence[str | Path]) -> str | None:
    """Return a sentence that counts what is skipped in the folders among ``paths``, or None if nothing is."""
    folders = [path for path in map(Path, paths) if path.is_dir()]
    left = {each for folder in folders for each in folder.iterdir() if each.name[0] != "."} - set(find(paths))
    inner = sum(each.is_dir() for each in left)
    counts = ((inner, "subfolders"), (len(left) - inner, "other files"))
    said = [f"{what} ({count:,})" for count, what in counts if count]
    return f"not looked at: {' and '.join(said)}; images are {', '.join(sorted(SUFFIXES))}" if said else None


def read(path: Path, channels: int) -> tuple[Image.Image, str]:
    """Read an image upright, in 1 or 3 channels of 8 bits, and return it with its mode in the file.

    Transparency is dropped, as in training.

    Raises:
        DataError: The file cannot be read, or has more than 8 bits per channel.
    """
    image = open_image(path)
    return image.convert(MODES[channels]), image.mode


def shown(image: Tensor, info: DataInfo) -> Image.Image:
    """Return a grey or colour picture of an image (C, H, W) that is normalised as ``info`` says."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
    array = (255 * (image.cpu() * std + mean).clamp(0, 1)).round().to(torch.uint8).numpy()
    return Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)) if len(array) == 3 else array[0])
