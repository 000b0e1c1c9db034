"""The errors that a user can meet, and helpers to write messages: what is wrong, where, what to do."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a file; lines and columns count from 1."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return printable(":".join(str(part) for part in (self.file, self.line, self.column) if part is not None))


class TopolearnError(Exception):
    """Base of every error that a user's input can cause.

    Attributes:
        message: What is wrong and what to do, one line that is safe to print.
        location: The place in a file; None if there is none.
    """

    def __init__(self, message: str, location: Location | None = None) -> None:
        message = printable(" ".join(message.split()))
        super().__init__(message, location)
        self.message = message
        self.location = location

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" if self.location else self.message


class FormatError(TopolearnError):
    """A graph or recipe file that cannot be read as one."""


class GraphError(TopolearnError):
    """A graph that is not a valid network.

    Attributes:
        node: Id of the node at fault, if it is a node.
        edge: ``(src, dst)`` of the edge at fault, if it is an edge.
    """

    def __init__(
        self,
        message: str,
        location: Location | None = None,
        *,
        node: str | None = None,
        edge: tuple[str, str] | None = None,
    ) -> None:
        super().__init__(message, location)
        self.node = node
        self.edge = edge


class OptionError(TopolearnError):
    """An unknown or invalid option of an op, a learner, a pass or a training run."""


class DataError(TopolearnError):
    """A data set that is missing or does not fit the graph."""


class TrainingError(TopolearnError):
    """A training run that cannot start or continue."""


class DivergedError(TrainingError):
    """A training run whose loss or weights became infinite or NaN."""


class CheckpointError(TopolearnError):
    """A checkpoint or run directory that cannot be used."""


class LiftError(TopolearnError):
    """A network that cannot be lifted into a graph.

    Attributes:
        module: Path of the module at fault, if it is a module; "" is the network itself.
    """

    def __init__(self, message: str, location: Location | None = None, *, module: str | None = None) -> None:
        super().__init__(message, location)
        self.module = module


class ExportError(TopolearnError):
    """An ONNX export that failed or does not agree with the network."""


def printable(text: str, kept: str = "") -> str:
    r"""Make any text safe for a terminal.

    Control characters, and those that change the direction of writing, are left out. Bytes of a file name that are
    not UTF-8 are written as ``\xe9``.

    Args:
        text: Any text, from a file, a network or a stranger.
        kept: Control characters to keep, such as line breaks.
    """
    return "".join(char for char in utf8(text) if char.isprintable() or char in kept)


def utf8(text: str) -> str:
    r"""Make any text valid UTF-8: bytes of a file name that are not UTF-8 are written as ``\xe9``."""
    bytes_again = re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", text)
    return bytes_again.encode(errors="backslashreplace").decode()


def tell(text: str) -> None:
    """Print a line of progress or a complaint on stderr; a closed pipe does not end the run."""
    with contextlib.suppress(BrokenPipeError):
        print(f"{printable(text)}\n", end="", file=sys.stderr, flush=True)  # one write, since threads take turns


def shown(value: object, limit: int = 60) -> str:
    """Return ``repr(value)``, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a huge number"
    return text if len(text) <= limit else f"{text[: limit - 2]} …"


def first_few(words: Sequence[str], most: int = 3) -> str:
    """Return ``"a, b, c and 5 more"``: the first ``most`` words, and how many are left out."""
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is most like ``word``; None if none is close."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def suggest(word: str, known: Iterable[str], unlisted: Iterable[str] = ()) -> str:
    """Return ``"; did you mean 'x'?"``, or ``"; known: a, b"`` if nothing is close.

    Args:
        word: A word that is not known.
        known: The words that are.
        unlisted: More words, only to find a close one.
    """
    names = sorted(known)
    close = closest(word, [*names, *sorted(unlisted)])
    if close is not None:
        return f"; did you mean '{close}'?"
    if not names:
        return ""
    shown = ", ".join(names[:12])
    return f"; known: {shown}{', …' if len(names) > 12 else ''}"
