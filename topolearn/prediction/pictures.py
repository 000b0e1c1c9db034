"""The pictures that prediction writes: masks, overlays, and the legend of colours."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topolearn.data.class_list import IGNORED_NAMES
from topolearn.drawing.palette import MAX_COLOURS, VOID, Colours, class_colours
from topolearn.files import write_atomically

_UNPAINTED = IGNORED_NAMES | {"background"}
"""Classes that are black in masks and transparent in overlays."""
_SALIENT = (230, 159, 0)
"""The colour of probabilities in overlays: orange of Okabe and Ito's palette."""
_OPACITY = 0.5
"""Opacity of the colours in an overlay."""
_ROW, _SWATCH = 24, 16
"""Height in pixels of a row in the legend, and of its colour."""


def colours_of(classes: Sequence[str]) -> Colours:
    """Return the (256, 3) colours of labels; classes that are not things, such as ``background``, are black."""
    colours = class_colours(MAX_COLOURS)
    for label, name in enumerate(classes):
        if name.casefold() in _UNPAINTED:
            colours[label] = VOID
    return colours


def mask(labels: NDArray[np.uint8], colours: Colours) -> Image.Image:
    """Return labels (H, W) as a picture with a palette: pixel values are the labels, and viewers show colours."""
    picture = Image.fromarray(labels)
    picture.putpalette(colours.tobytes())
    return picture


def grey(probabilities: NDArray[np.float32]) -> Image.Image:
    """Return probabilities (H, W) as a grey picture, with 1 in white."""
    return Image.fromarray(np.rint(probabilities * 255).astype(np.uint8))


def overlay_classes(image: Image.Image, labels: NDArray[np.uint8], colours: Colours) -> Image.Image:
    """Return an image under the colours of its labels (H, W)."""
    return _laid_over(image, colours[labels], _OPACITY * (colours != VOID).any(axis=1)[labels])


def overlay_map(image: Image.Image, probabilities: NDArray[np.float32]) -> Image.Image:
    """Return an image under one colour, with opacity proportional to probabilities (H, W)."""
    colour = np.broadcast_to(np.array(_SALIENT, np.uint8), (*probabilities.shape, 3))
    return _laid_over(image, colour, _OPACITY * probabilities)


def _laid_over(image: Image.Image, colour: Colours, opacity: NDArray[np.floating]) -> Image.Image:
    below = np.asarray(image.convert("RGB"), np.float32)
    share = opacity.astype(np.float32)[..., None]
    return Image.fromarray(np.rint(below + share * (colour - below)).astype(np.uint8))


def legend(classes: Sequence[str], colours: Colours) -> bytes:
    """Return an SVG that lists the colours and names of classes."""
    rows = []
    for label, (name, (red, green, blue)) in enumerate(zip(classes, colours.tolist(), strict=False)):
        text = escape(name)  # names may come from untrusted files
        rows.append(
            f'<rect x="4" y="{label * _ROW + 4}" width="{_SWATCH}" height="{_SWATCH}" stroke="#57606a"'
            f' fill="#{red:02x}{green:02x}{blue:02x}"/>'
            f'<text x="{_SWATCH + 12}" y="{label * _ROW + 17}">{label} {text}</text>\n'
        )
    width = _SWATCH + 60 + 9 * max(map(len, classes), default=0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{len(rows) * _ROW}" font-size="14"'
        f' font-family="sans-serif" fill="#24292f">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n{"".join(rows)}</svg>\n'
    ).encode()


def save(picture: Image.Image, path: Path) -> Path:
    """Write a PNG, whole or not at all; make its folder if that is missing."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    return path
