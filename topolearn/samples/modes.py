"""Choose the Pillow mode to which a set of images is converted, and report conversions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from PIL import Image

MODES = {1: "L", 3: "RGB"}
"""Number of channels -> Pillow's mode."""

_DEEP_COLOURS = re.compile(r";16[BLN]")
"""Matches raw modes of 16 bits per channel: they end in the order of the two bytes. 'BGR;16' has 16 bits in total."""

_GREY = frozenset({"1", "L", "LA", "La"})


def deep(image: Image.Image) -> bool:
    """Whether an image has more than 8 bits per channel. A conversion would cut them off.

    Pillow has no mode for 16-bit colours, and cuts them when it reads the pixels. Before that, the raw mode tells.
    """
    return image.mode[0] in "IF" or any(_DEEP_COLOURS.search(str(tile)) for tile in getattr(image, "tile", ()))


def common_channels(modes: Collection[str]) -> int:
    """Return the number of channels for images of these modes: 1 if all are grey, also with transparency, else 3."""
    return 1 if all(mode in _GREY for mode in modes) else 3


def conversions(modes: Mapping[str, int], channels: int, what: str = "images") -> list[str]:
    """Return a note on the images that are converted, or an empty list if all have the right mode.

    Args:
        modes: Mode -> number of images.
        channels: 1 or 3: all images are converted to it.
        what: What the note calls the images.
    """
    others = {mode: count for mode, count in sorted(modes.items()) if count and mode != MODES[channels]}
    if not others:
        return []
    kinds = ", ".join(f"{count:,} {mode}" for mode, count in others.items())
    dropped = ", transparency is dropped" if any(mode.endswith(("A", "a")) for mode in others) else ""
    total = sum(modes.values())
    return [f"{sum(others.values()):,} of {total:,} {what} are converted to {MODES[channels]} ({kinds}){dropped}"]
