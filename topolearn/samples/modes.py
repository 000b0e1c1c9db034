"""Pillow's modes of pictures: which a set of images is converted to, and what is said of that."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from PIL import Image

MODES = {1: "L", 3: "RGB"}
"""Channels -> Pillow's name for such pictures."""

_DEEP_COLOURS = re.compile(r";16[BLN]")
"""What raw modes of 16 bits per channel end in: the order of the two bytes. 'BGR;16' are 16 bits for three channels."""

_GREY = frozenset({"1", "L", "LA", "La"})


def deep(image: Image.Image) -> bool:
    """Whether a picture has more than 8 bits per channel, which a conversion would cut off.

    Pillow has no mode for colours of 16 bits, and cuts them when it reads the pixels. Before that, the raw mode tells.
    """
    return image.mode[0] in "IF" or any(_DEEP_COLOURS.search(str(tile)) for tile in getattr(image, "tile", ()))


def common_channels(modes: Collection[str]) -> int:
    """The channels of images that may differ: 1 if all are grey, with transparency or without, else 3."""
    return 1 if all(mode in _GREY for mode in modes) else 3


def conversions(modes: Mapping[str, int], channels: int, what: str = "images") -> list[str]:
    """A note on the images that are converted; none if all have the right mode.

    Args:
        modes: Mode -> how many images have it.
        channels: 1 or 3, to which all are converted.
        what: What the note calls the images.
    """
    others = {mode: count for mode, count in sorted(modes.items()) if count and mode != MODES[channels]}
    if not others:
        return []
    kinds = ", ".join(f"{count:,} {mode}" for mode, count in others.items())
    dropped = ", transparency is dropped" if any(mode.endswith(("A", "a")) for mode in others) else ""
    total = sum(modes.values())
    return [f"{sum(others.values()):,} of {total:,} {what} are converted to {MODES[channels]} ({kinds}){dropped}"]
