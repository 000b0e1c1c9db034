"""Read the files of the classic data sets. Nothing in such a file can run code."""

from __future__ import annotations

import gzip
import pickle
import zlib
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from topolearn.errors import DataError

_ALLOWED = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickled dict of numbers, texts, lists and byte arrays, the format of CIFAR.

    The names in a pickled array are replaced by :class:`_Recorded`, which keeps its arguments and does nothing.
    Every other name is refused. So neither a foreign function nor numpy's own unpickling ever runs.

    Raises:
        DataError: The file holds something else.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file, encoding="bytes").load()
    except _Refused as error:
        raise DataError(
            f"'{path}' is refused: it names {error}, but data may hold arrays only; download it again"
        ) from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a broken pickle can raise almost anything
        text = " ".join(str(error).split())
        raise DataError(f"'{path}' is not a pickle file that can be read: {text}; download it again") from None
    if not isinstance(content, dict):
        raise DataError(f"'{path}' does not hold a dict of arrays and lists; download it again")
    return {_text(key): value for key, value in content.items() if isinstance(key, str | bytes)}


def pickled_array(value: Any, path: Path) -> NDArray[np.uint8]:
    """Return the byte array that ``value``, an entry of :func:`read_pickle`'s dict, represents.

    Raises:
        DataError: It does not represent one.
    """
    try:
        _, shape, dtype, fortran, content = value.state
        if dtype.name != "dtype" or _text(dtype.args[0]) not in ("u1", "|u1"):
            raise TypeError
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")
    except (AttributeError, TypeError, ValueError, IndexError):
        raise DataError(f"'{path}' does not hold the images as an array of bytes; download it again") from None


def pickled_texts(value: Any, path: Path) -> tuple[str, ...]:
    """Return the texts of a list in :func:`read_pickle`'s dict.

    Raises:
        DataError: ``value`` is not a list of texts.
    """
    if not isinstance(value, list) or not all(isinstance(each, str | bytes) for each in value):
        raise DataError(f"'{path}' does not hold the names of the classes; download it again")
    return tuple(_text(each) for each in value)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an array of bytes from a file in MNIST's format, plain or ``.gz``.

    Raises:
        DataError: The file holds something else.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"'{path}' cannot be read: {error}") from None
    # Two zero bytes, 8 for unsigned bytes, the number of sizes, the sizes (4 bytes each, big end first).
    start = 4 + 4 * content[3] if len(content) > 4 and content[:3] == b"\0\0\x08" else len(content)
    shape = np.frombuffer(content[4:start], ">i4")
    array = np.frombuffer(content, np.uint8, offset=start)
    if not len(shape) or array.size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"'{path}' is not a complete IDX file of bytes; download it again")
    return array.reshape(tuple(map(int, shape)))


@final
class _Recorded:
    """Stands for a name in a pickle. It only records its arguments and its state."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: str, args: tuple[Any, ...] = ()) -> None:
        self.name = name
        self.args = args
        self.state: Any = None

    def __call__(self, *args: Any) -> _Recorded:
        return _Recorded(self.name, args)

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Refused(Exception):
    """Raised for a pickle that contains a name which is not allowed."""


@final
class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module.replace("numpy._core", "numpy.core"), name) not in _ALLOWED:
            raise _Refused(f"'{module}.{name}'")
        return _Recorded(name)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "replace")
