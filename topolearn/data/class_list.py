"""The file that says what the labels in a folder's masks are called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from topolearn.errors import DataError, Location

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

CLASS_LIST = "classes.txt"
_READ = (CLASS_LIST, "labelmap.txt")  # the second is CVAT's, with colours
_REFUSED = frozenset({"classes", "class_dict", "class_names", "label_colors", "label_map", "labelmap", "labels"})
_TEXT = frozenset({".txt", ".csv", ".json", ".pbtxt", ".xml", ".yaml", ".yml"})

_LABEL_NAME = re.compile(r"(\d+)[\s,:]+(.+)")
_COLOUR_NAME = re.compile(r"(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)[\s,:]+(?P<name>.+)")
_NAME_COLOUR = re.compile(r"(?P<name>.+?)[\s,:]+(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)(:.*)?")


@dataclass(frozen=True)
class ClassList:
    """What a list of classes says.

    Attributes:
        names: Label -> its name; empty without a list.
        colours: The colours of the labels 0, 1, … in coloured masks; empty for masks that hold the labels.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    colours: tuple[Colour, ...] = ()


def read_class_list(folder: Path) -> ClassList:
    """Read ``classes.txt`` of a folder, or ``labelmap.txt``.

    Every line is ``NAME`` (the labels are 0, 1, …), or every line is ``LABEL NAME``, or every line is
    ``R G B NAME`` or ``NAME:R,G,B`` (the masks are coloured). Empty lines and lines that start with ``#``
    are skipped.

    Raises:
        DataError: A list of several forms, with a label or colour twice, or in a file that is not read.
    """
    path = next((folder / name for name in _READ if (folder / name).exists()), None)
    if path is not None and not path.is_file():  # a pipe would be waited for
        raise DataError(f"'{path}' is no file, but a folder, a pipe or a device; write the names into a file")
    if path is None:
        _refuse_others(folder)
        return ClassList()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read: {error}; write it as text in UTF-8") from None
    numbered = enumerate(map(str.strip, text.splitlines()), 1)
    lines = {number: line for number, line in numbered if line and not line.startswith("#")}
    return _with_colours(path, lines) or ClassList(_names(path, lines))


def _refuse_others(folder: Path) -> None:
    """Raise for a list of classes in a file that is not read: without it the names would be lost."""
    for path in sorted(folder.iterdir()):
        if path.stem.casefold() in _REFUSED and path.suffix.casefold() in _TEXT and path.is_file():
            raise DataError(
                f"'{path}' seems to list classes, but is not read; write '{folder / CLASS_LIST}', every line as NAME,"
                " or as LABEL NAME, or as R G B NAME for coloured masks, as in '128 0 0 car'"
            )


def _with_colours(path: Path, lines: Mapping[int, str]) -> ClassList | None:
    """The list where every line has a colour, else None."""
    found = [_COLOUR_NAME.fullmatch(line) or _NAME_COLOUR.fullmatch(line) for line in lines.values()]
    matches = [match for match in found if match]
    if not lines or len(matches) < len(lines):
        return None
    colours = [(int(match["r"]), int(match["g"]), int(match["b"])) for match in matches]
    if len(set(colours)) < len(colours) or max(map(max, colours)) > 255 or len(colours) > 256:
        raise DataError(f"'{path}' must name each colour once, as R G B NAME, with numbers up to 255")
    return ClassList({label: match["name"] for label, match in enumerate(matches)}, tuple(colours))


def _names(path: Path, lines: Mapping[int, str]) -> dict[int, str]:
    """Label -> name, of a list without colours."""
    found = {number: _LABEL_NAME.fullmatch(line) for number, line in lines.items()}
    pairs = [(int(match[1]), match[2]) for match in found.values() if match]
    if pairs and len(pairs) < len(lines):
        with_label = next(number for number, match in found.items() if match)
        without = next(number for number, match in found.items() if not match)
        raise DataError(
            f"the line '{lines[without]}' has no label, but the line '{lines[with_label]}' has one; start every line"
            " with its label, or none, and start a comment with '#'",
            Location(str(path), without),
        )
    pairs = pairs or list(enumerate(lines.values()))
    names = dict(pairs)
    if len(names) < len(pairs) or not names or max(names) > 255:
        raise DataError(f"'{path}' must name each label once, one per line, as NAME or LABEL NAME, labels up to 255")
    return names
