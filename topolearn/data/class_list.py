"""Read the file that names the labels of a folder's masks, or orders its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from topolearn.errors import DataError, Location

Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""

CLASS_LIST = "classes.txt"

IGNORED_NAMES = frozenset({"void", "unlabelled", "unlabeled", "ignore", "ignored"})
"""Names in ``classes.txt`` that mark a label as ignored: it counts neither in the loss nor in the metrics."""

_READ = (CLASS_LIST, "labelmap.txt")  # CVAT writes the second, with colours
_REFUSED = frozenset(
    {"class", "classes", "class_dict", "class_list", "class_names", "label", "labels", "label_colors", "label_map"}
    | {"label_names", "labelmap", "predefined_classes"}
)
_TEXT = frozenset({".txt", ".csv", ".json", ".pbtxt", ".xml", ".yaml", ".yml"})
_LIST = ".names"  # darknet's suffix, as in "obj.names"

_LABEL_NAME = re.compile(r"(\d+)[\s,:]+(.+)")
_OTHER_LABELS = (re.compile(r"(\d+)\W.*"), re.compile(r".*\W(\d+)"))  # such as "7; road", and "road 7"
_COLOUR_NAME = re.compile(r"(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)[\s,:]+(?P<name>.+)")
_NAME_COLOUR = re.compile(r"(?P<name>.+?)[\s,:]+(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)(:.*)?")
_LABEL_AND_COLOUR = (
    re.compile(r"\d+[\s,:]+\d+[\s,]+\d+[\s,]+\d+[\s,:]+.+"),  # such as "0 0 0 0 background"
    re.compile(r"\d+[\s,:]+.+?[\s,:]+\d+[\s,]+\d+[\s,]+\d+(:.*)?"),  # such as "0 background 0 0 0"
)


@dataclass(frozen=True)
class ClassList:
    """The content of a list of classes.

    Attributes:
        names: Label -> its name. Empty if there is no list.
        colours: The colours of the labels 0, 1, … in coloured masks. Empty if the masks hold the labels.
    """

    names: Mapping[int, str] = field(default_factory=dict)
    colours: tuple[Colour, ...] = ()


def list_file(folder: Path) -> Path | None:
    """Return the file that lists the labels of a folder's masks: ``classes.txt``, or else ``labelmap.txt``."""
    return next((folder / name for name in _READ if (folder / name).exists()), None)


def read_class_list(folder: Path, *inner: Path) -> ClassList:
    """Read the list of classes of a folder: ``classes.txt``, or else ``labelmap.txt``.

    All lines have one form: ``NAME`` (the labels are 0, 1, …), ``LABEL NAME``, or a colour with a name, as
    ``R G B NAME`` or ``NAME:R,G,B`` (the masks are coloured). Empty lines and lines that start with ``#``
    are skipped.

    Args:
        folder: The folder.
        inner: Folders inside it that may hold a list by mistake.

    Raises:
        DataError: The list mixes forms, holds both labels and colours, has one of them twice, or is in a file that is
            not read.
    """
    path = list_file(folder)
    if path is not None and not path.is_file():  # reading a pipe would block
        raise DataError(f"'{path}' is not a file but a folder, a pipe or a device; write the names into a file")
    if path is None:
        for other in other_lists(folder, *inner):
            raise DataError(
                f"'{other}' seems to list classes, but is not read; write '{folder / CLASS_LIST}', each line as NAME,"
                " or as LABEL NAME, or as R G B NAME for coloured masks, as in '128 0 0 car'"
            )
        return ClassList()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read: {error}; write it as text in UTF-8") from None
    numbered = enumerate(map(str.strip, text.splitlines()), 1)
    lines = {number: line for number, line in numbered if line and not line.startswith("#")}
    if lines and any(all(form.fullmatch(line) for line in lines.values()) for form in _LABEL_AND_COLOUR):
        raise DataError(
            f"each line of '{path}' holds four numbers, as in '{next(iter(lines.values()))}'; write R G B NAME if the"
            " masks are coloured, or LABEL NAME if they hold the labels, as '128 0 0 car' or '1 car'"
        )
    return _with_colours(path, lines) or ClassList(_names(path, lines))


def other_lists(*folders: Path) -> list[Path]:
    """Return the files of folders without a list of classes that seem to be one. Their names would be lost."""
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    return [path for path in found if _seems_a_list(path) and path.is_file()]


def _seems_a_list(path: Path) -> bool:
    suffix = path.suffix.casefold()
    return suffix == _LIST or (suffix in _TEXT and path.stem.casefold().strip("_") in _REFUSED)


def _with_colours(path: Path, lines: Mapping[int, str]) -> ClassList | None:
    """Return the list if every line has a colour, else None."""
    found = [_COLOUR_NAME.fullmatch(line) or _NAME_COLOUR.fullmatch(line) for line in lines.values()]
    matches = [match for match in found if match]
    if not lines or len(matches) < len(lines):
        return None
    colours = [(int(match["r"]), int(match["g"]), int(match["b"])) for match in matches]
    if len(set(colours)) < len(colours) or max(map(max, colours)) > 255 or len(colours) > 256:
        raise DataError(f"'{path}' must name each colour once, as R G B NAME, with numbers up to 255")
    return ClassList({label: match["name"] for label, match in enumerate(matches)}, tuple(colours))


def _names(path: Path, lines: Mapping[int, str]) -> dict[int, str]:
    """Return label -> name for a list without colours."""
    found = {number: _LABEL_NAME.fullmatch(line) for number, line in lines.items()}
    pairs = [(int(match[1]), match[2]) for match in found.values() if match]
    if pairs and len(pairs) < len(lines):
        with_label = next(number for number, match in found.items() if match)
        without = next(number for number, match in found.items() if not match)
        raise DataError(
            f"the line '{lines[without]}' has no label, but the line '{lines[with_label]}' has one; start every line"
            " with a label, or no line, and start comments with '#'",
            Location(str(path), without),
        )
    if not pairs:
        _check_colours(path, lines)
        _check_order(path, lines)
    pairs = pairs or list(enumerate(lines.values()))
    names = dict(pairs)
    if len(names) < len(pairs) or not names or max(names) > 255:
        raise DataError(f"'{path}' must name each label once, one per line, as NAME or LABEL NAME, labels up to 255")
    for label, name in names.items():
        first = next(each for each, other in names.items() if other == name)
        if first != label and name.casefold() not in IGNORED_NAMES:
            raise DataError(f"'{path}' gives the labels {first} and {label} one name, '{name}'; give each its own")
    return names


def _check_colours(path: Path, lines: Mapping[int, str]) -> None:
    """Raise if only some of the names without labels end in a colour: the others may be a heading."""
    without = next((number for number, line in lines.items() if not _NAME_COLOUR.fullmatch(line)), None)
    coloured = next((line for line in lines.values() if _NAME_COLOUR.fullmatch(line)), None)
    if without is not None and coloured is not None:
        raise DataError(
            f"the line '{lines[without]}' has no colour, but the line '{coloured}' has one; end every line with a"
            " colour, or no line, and start comments with '#'",
            Location(str(path), without),
        )


def _check_order(path: Path, lines: Mapping[int, str]) -> None:
    """Raise if names without labels all hold a number that is not their place: it may be meant as the label."""
    for form in _OTHER_LABELS:
        numbers = [int(match[1]) for match in map(form.fullmatch, lines.values()) if match]
        if len(set(numbers)) == len(lines) > 1 and numbers != list(range(len(lines))):
            raise DataError(
                f"each line of '{path}' holds a number, as in '{next(iter(lines.values()))}', but not as LABEL NAME;"
                f" write '{numbers[0]} NAME' if it is the label, or put the label in front of the whole name"
            )
