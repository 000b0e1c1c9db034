"""Colours of classes that can be told apart with normal and with red-green colour-blind eyes.

The first seven are those of Okabe and Ito, "Color Universal Design" (2008). Every further colour is the one of a
grid that is farthest from all before it, as in Glasbey et al., "Colour Displays for Categorical Images" (2007).
Distance is measured in Oklab (Ottosson 2020): the smallest of the distances that normal eyes see and that eyes with
protanopia or deuteranopia see, after Machado et al., "A Physiologically-based Model for Simulation of Color Vision
Deficiency" (2009). Black and white count as taken: black means no class, white is the paper.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

Colours = npt.NDArray[np.uint8]
"""(..., 3) red, green, blue."""

VOID = (0, 0, 0)
"""Colour of pixels without a class, which metrics ignore."""
MAX_COLOURS = 256
"""Maximum number of colours: as many as an 8-bit mask has values."""

_FIRST = ("#56b4e9", "#d55e00", "#f0e442", "#cc79a7", "#e69f00", "#009e73", "#0072b2")
"""Okabe and Ito's colours without black, in the order that is closest to CamVid's colours for its classes."""
_DARKEST = 0.35
"""Minimum lightness in Oklab, 0 to 1; darker colours look black next to an image."""
_STEPS = 18
"""Values per channel of the grid that further colours come from."""
_BLIND = 1.3
"""Factor of distances for colour-blind eyes: they see two of three dimensions, so all colours are closer together."""

_EYES = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
)
"""Linear RGB -> linear RGB as seen: normal, protanopia, deuteranopia (Machado et al., severity 1)."""
_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
"""Linear RGB -> cones, their cube roots -> Oklab (Ottosson)."""


def class_colours(count: int) -> Colours:
    """Return the colours of classes 0 to ``count`` - 1.

    A class has the same colour for any ``count``. No class has the colour :data:`VOID`.

    Args:
        count: Number of classes, 0 to :data:`MAX_COLOURS`.

    Returns:
        (count, 3) red, green, blue.

    Raises:
        ValueError: ``count`` is out of range.
    """
    if not 0 <= count <= MAX_COLOURS:
        raise ValueError(f"there are colours for 0 to {MAX_COLOURS} classes, not for {count}")
    return _all()[:count].copy()


@functools.cache
def _all() -> Colours:
    first = np.array([[int(word[i : i + 2], 16) for i in (1, 3, 5)] for word in _FIRST], np.uint8)
    values = np.round(np.linspace(0, 255, _STEPS)).astype(np.uint8)
    grid = np.stack(np.meshgrid(values, values, values, indexing="ij"), axis=-1).reshape(-1, 3)
    places = _places(grid)
    light = places[:, 0, 0] >= _DARKEST
    grid, places = grid[light], places[light]
    free = np.full(len(grid), np.inf)
    for taken in _places(np.concatenate([first, np.array([VOID, (255, 255, 255)], np.uint8)])):
        free = np.minimum(free, _distances(places, taken))
    chosen = list(first)
    while len(chosen) < MAX_COLOURS:
        # Round, so that the last bits of a platform's arithmetic do not decide.
        best = int(np.argmax(free.round(6)))
        chosen.append(grid[best])
        free = np.minimum(free, _distances(places, places[best]))
    return np.stack(chosen)


def _places(colours: Colours) -> npt.NDArray[np.float64]:
    """Return (N, eyes, 3): the colours (N, 3) in Oklab, as each pair of eyes sees them."""
    share = colours / 255.0
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.stack([np.clip(_times(linear, eyes), 0.0, 1.0) for eyes in _EYES], axis=1)
    return _times(np.cbrt(_times(seen, _CONES)), _OKLAB)


def _times(values: npt.NDArray[np.float64], matrix: tuple[tuple[float, float, float], ...]) -> npt.NDArray[np.float64]:
    """Apply the matrix to every (..., 3), in an order of additions that does not depend on the platform."""
    red, green, blue = np.moveaxis(values, -1, 0)
    return np.stack([a * red + b * green + c * blue for a, b, c in matrix], axis=-1)


def _distances(places: npt.NDArray[np.float64], place: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the (N,) distances from each of (N, eyes, 3) to one (eyes, 3)."""
    seen = np.sqrt(((places - place) ** 2).sum(axis=-1))
    seen[:, 1:] *= _BLIND
    least: npt.NDArray[np.float64] = seen.min(axis=-1)
    return least
