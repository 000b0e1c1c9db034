"""Small sets of images and masks, written to files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

Size = tuple[int, int]


def picture(path: Path, seed: int = 0, size: Size = (12, 16), mode: str = "RGB") -> Path:
    """An image of noise."""
    channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, *channels), dtype=np.uint8)
    return _saved(path, Image.fromarray(pixels))


def picture_of_16_bits(path: Path, channels: int, value: int = 1000, size: Size = (12, 16)) -> Path:
    """A PNG image of one value with 16 bits per channel, which Pillow can read but not write."""
    (height, width), colour_type = size, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = (b"\0" + struct.pack(">H", value) * channels * width) * height
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def mask(path: Path, seed: int = 0, size: Size = (12, 16), high: int = 3, **values: int) -> Path:
    """A mask of the labels below ``high``; with ``only``, of that one."""
    labels = np.random.default_rng(seed).integers(0, high, size, dtype=np.uint8)
    return _saved(path, Image.fromarray(np.full_like(labels, values["only"]) if values else labels))


def folder(where: Path, train: int = 6, val: int = 2, sizes: tuple[Size, ...] = ((12, 16),)) -> Path:
    """``train/``, ``trainannot/`` … with three labels; sizes take turns."""
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            size = sizes[index % len(sizes)]
            picture(where / split / f"{index}.png", index, size)
            mask(where / f"{split}annot" / f"{index}.png", index, size)
    return where


def _saved(path: Path, image: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path
