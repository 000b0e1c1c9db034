"""Writing files and making folders; a file appears whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from topolearn.errors import OptionError, TopolearnError, first_few


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file as a whole: under a temporary name beside ``path``, then rename it.

    Raises:
        TopolearnError: The folder is missing, read-only or full.
    """
    try:
        if path.exists() and not path.is_file():  # /dev/stdout, a pipe, or a folder, which raises an error
            path.write_bytes(data)
            return
        target = Path(os.path.realpath(path))  # a link stays a link
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise TopolearnError(f"cannot write {path}: {error.strerror}; choose another place or make room") from None


def read_start(path: Path, most: int) -> bytes:
    """Read a file, but at most ``most`` bytes; a pipe that nobody writes to counts as empty, instead of waiting.

    Raises:
        OSError: The file is missing, a folder, or cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        os.set_blocking(file.fileno(), True)  # wait for data, if there is a writer
        return file.read(most)  # do not ask for the size: a device has none


def check_target(target: Path, sources: Iterable[Path]) -> None:
    """Raise an OptionError if writing to ``target`` would overwrite one of the files to be read."""
    place = os.path.realpath(target)
    for source in sources:
        if os.path.realpath(source) == place:
            raise OptionError(f"writing to {target} would destroy {source}, which is read; choose another file")


def check_folder(folder: Path, own: Collection[str] = ()) -> None:
    """Raise an OptionError if a folder to write to holds files of someone else.

    Args:
        folder: Any folder; it need not exist.
        own: Names that may be there: they are replaced. Hidden files may be there too.
    """
    try:
        found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise TopolearnError(f"cannot read the folder {folder}: {error.strerror}; choose another place") from None
    others = [f"'{name}'" for name in found if name not in own and not name.startswith(".")]
    if others:
        raise OptionError(
            f"the folder {folder} already holds other files, {first_few(others)}, so nothing is written there; choose a"
            " new or empty folder with --out"
        )


def file_name(text: str) -> str:
    """Turn any text into the safe name of one file or folder: without separators, and not hidden."""
    return re.sub(r"[^\w.=,+-]+", "_", text).lstrip(".") or "_"


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        TopolearnError: The folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TopolearnError(f"cannot make the folder {folder}: {error.strerror}; choose another place") from None
