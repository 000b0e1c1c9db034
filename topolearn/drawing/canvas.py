"""Saves figures without pyplot, so that the same figure always gives the same bytes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topolearn.errors import OptionError, printable
from topolearn.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_METADATA: dict[str, dict[str, Any]] = {
    ".svg": {"Date": None, "Creator": "topolearn"},
    ".png": {"Software": "topolearn"},
    ".pdf": {"CreationDate": None, "Creator": "topolearn", "Producer": None},
}
DPI, RASTER_DPI = 160, 100
"""Dots per inch of a PNG, and of images inside an SVG or PDF."""
MAX_PIXELS = 10_000
"""Longest side of a PNG in pixels; larger figures get fewer dots per inch."""
POSITIVE, NEGATIVE = "#1f6feb", "#d1570c"
"""Colours of positive and negative weights."""
INK, DIM = "#24292f", "#57606a"
"""Colours of text: normal, and dimmed."""


def check_path(path: Path) -> None:
    """Raise an error if the suffix of ``path`` is not a format that can be written.

    Raises:
        OptionError: Another suffix.
    """
    if path.suffix.lower() not in _METADATA:
        raise OptionError(f"cannot draw to '{path}'; give it one of the endings {', '.join(_METADATA)}")


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` in the format of ``path``'s suffix; writes the whole file or nothing."""
    write_atomically(path, rendered(figure, path.suffix.lower()))


def rendered(figure: Figure, suffix: str) -> bytes:
    """Return ``figure`` as the bytes of a file with some suffix, such as ``.svg``."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "topolearn", "svg.fonttype": "path", "path.simplify": True}):
        dpi = min(DPI if suffix == ".png" else RASTER_DPI, MAX_PIXELS / max(figure.get_size_inches()))
        figure.savefig(buffer, format=suffix[1:], dpi=dpi, metadata=_METADATA[suffix])
    return buffer.getvalue()


def embedded(figure: Figure) -> str:
    """Return ``figure`` as an ``<svg>`` element, to be part of a page."""
    text = rendered(figure, ".svg").decode()
    return text[text.index("<svg") :]


def heading(text: str) -> str:
    """Escape ``text`` so that Matplotlib draws it letter by letter, not as a formula; it may contain a graph's name."""
    return printable(text).replace("$", r"\$")


def text_width(text: str, size: float) -> float:
    """Return the width in inches of a text of ``size`` points."""
    from matplotlib.textpath import TextPath

    if not text.strip():
        return 0.0
    return float(TextPath((0, 0), text, size=size).get_extents().max[0]) / 72


def write(page: Axes, x: float, y: float, text: str, size: float) -> float:
    """Write a text of a legend to the right of (``x``, ``y``), in inches; return the x where it ends."""
    page.text(x, y, text, fontsize=size, color=DIM, va="center_baseline")
    return x + text_width(text, size)
