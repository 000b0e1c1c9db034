"""Load text for training: contexts of bytes, or of ids from your own tokenizer, and the token after each place."""

from __future__ import annotations

import copy
import hashlib
import os
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from topolearn.data.roots import roots
from topolearn.errors import DataError
from topolearn.samples.base import Batch, Data, DataInfo, Part, sent
from topolearn.samples.seeds import generator

PIECE = 10_000
"""Bytes that stay together when a text is split into training and validation."""
HELD_OUT = 0.05
"""Share of the pieces that is held out for validation."""
MOST_VALIDATED = 2**20
"""Most tokens that are predicted in one evaluation. A larger text is sampled in evenly spaced contexts."""
LARGEST = 2**32
"""Most bytes of a text. It is kept in memory."""
EVALUATED = 2**11
"""Tokens in a batch of an evaluation, at least. Small training batches, which save memory, would make it slow."""
BYTES = 256
"""Size of the vocabulary of bytes."""

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
"""Folders of the standard library that ``python-source`` leaves out."""


@dataclass(frozen=True, slots=True)
class TextFormat:
    """How a text is cut for a network.

    Attributes:
        length: Tokens in a context, as many as the graph's input declares.
        steps: Training batches per epoch.
        validated: Most tokens that are predicted in one evaluation; None for :data:`MOST_VALIDATED`.
    """

    length: int
    steps: int = 100
    validated: int | None = None


@final
class TextData(Data):
    """Text as data: contexts as inputs, and as targets the token that comes next at each place.

    Training contexts begin at random places, which depend only on seed and epoch. Validation contexts follow one
    another, and each place is used at most once.

    Args:
        info: The description of the text.
        train: (n,) ids of the training text, uint8 or int32.
        val: (n,) ids of the validation text, uint8 or int32.
        form: How the text is cut.

    Raises:
        DataError: A text is shorter than a context and the token after it.
    """

    mid_epoch_resume = True

    def __init__(self, info: DataInfo, train: Tensor, val: Tensor, form: TextFormat) -> None:
        for what, text in (("training", train), ("validation", val)):
            if len(text) <= form.length:
                raise DataError(
                    f"the {what} text of '{info.name}' has {len(text):,} tokens, but needs a context of {form.length}"
                    " and the one that comes next; give a longer text, or set a smaller 'length' of the graph's input"
                )
        self.info = info
        self.form = form
        self._train = train
        self._val = val
        contexts = (len(val) - 1) // form.length
        self.val_size = min(contexts, max(1, (form.validated or MOST_VALIDATED) // form.length))
        self.train_size = (len(train) - 1) // form.length
        self._starts = torch.arange(self.val_size) * contexts // self.val_size * form.length
        self._device = torch.device("cpu")
        self._part = Part()

    def steps(self, batch_size: int) -> int:
        """Return the number of training batches per epoch. It is an option, since a text does not imply one."""
        return self.form.steps

    def train_batches(self, batch_size: int, *, seed: int, epoch: int, first: int = 0) -> Iterator[Batch]:
        """See :meth:`Data.train_batches`."""
        room = len(self._train) - self.form.length  # places where a context can begin
        starts = torch.randint(room, (self.form.steps, batch_size), generator=generator("text", seed, epoch))
        mine = self._part.of(batch_size)
        for step in range(first, self.form.steps):
            yield self._batch(self._train, starts[step, mine])

    def val_batch_size(self, batch_size: int) -> int:
        """Return the number of contexts in a batch of an evaluation: as many as in training, or 2,048 tokens."""
        return max(batch_size, EVALUATED // self.form.length)

    def val_batches(self, batch_size: int) -> Iterator[Batch]:
        """See :meth:`Data.val_batches`."""
        for starts in torch.split(self._starts, batch_size):
            mine = self._part.of(len(starts))
            if mine.stop > mine.start:
                yield self._batch(self._val, starts[mine])

    def _batch(self, text: Tensor, starts: Tensor) -> Batch:
        """Return (N, T) ids, and (N, T) the ids that come next."""
        places = starts[:, None] + torch.arange(self.form.length + 1)
        ids = sent(text[places].long(), self._device)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def to(self, device: torch.device | str) -> TextData:
        """Return the same data with batches on ``device``. The text itself does not move."""
        other = copy.copy(self)
        other._device = torch.device(device)
        return other

    def first_images(self, count: int) -> TextData:
        """Raise a DataError, since a text has no images.

        Raises:
            DataError: Always.
        """
        raise DataError(f"'train_images' is for images, but '{self.info.name}' is text; give a shorter file")


def divided(text: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Split a text for training and validation: cut it into pieces, shuffle them with seed 0, hold out the last 5 %.

    Pieces have 10,000 bytes. Pieces of a short text are smaller, so that a twentieth can be held out. They are always
    long enough for a context and the token after it.

    Args:
        text: (n,) the text.
        length: Tokens in a context.
    """
    size = max(min(PIECE, len(text) // 20), length + 1)
    pieces = torch.split(text, size)
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(0)).tolist()
    held = max(1, round(HELD_OUT * len(pieces)))
    shuffled = [pieces[number] for number in order]
    if len(shuffled) < 2:
        return text, text[:0]
    return torch.cat(shuffled[:-held]), torch.cat(shuffled[-held:])


def text_of_bytes(name: str, content: bytes, form: TextFormat, about: Mapping[str, Any]) -> TextData:
    """Make data from the bytes of a text.

    Args:
        name: Name of the data.
        content: The bytes.
        form: How the text is cut.
        about: What identifies the text, in addition to its length and hash.

    Raises:
        DataError: The text is empty, or too short for a context in training and in validation.
    """
    if not content:
        raise DataError(f"'{name}' is empty; give a file with text in it")
    least = 2 * (form.length + 1)
    if len(content) < least:
        raise DataError(
            f"'{name}' has {len(content):,} bytes, but needs {least:,}: a context of {form.length} and the byte that"
            " comes next, for training and for validation; give a longer text, or set a smaller 'length' of the graph's"
            " input"
        )
    text = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
    known = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **about}
    info = DataInfo(name, "next_token", (), (form.length,), (), (), vocabulary=int(text.max()) + 1, content=known)
    return TextData(info, *divided(text, form.length), form)


def python_source(root: str | Path | None, form: TextFormat) -> TextData:
    """Text that comes with Python: the .py files of its standard library without tests, in the order of their paths.

    The text differs between versions of Python. Compare only figures from texts with the same hash.

    Args:
        root: Not used; the files come with Python.
        form: How the text is cut.

    Raises:
        DataError: This Python has no source files.
    """
    home = Path(sysconfig.get_path("stdlib"))
    paths = _below(home, ".py", _LEFT_OUT)
    if not paths:
        raise DataError(f"this Python has no source of its standard library in '{home}'; give a text of your own")
    return text_of_bytes("python-source", _content(paths), form, {"python": platform.python_version()})


def text_in(path: Path, form: TextFormat) -> TextData:
    """Load a text file, or all .txt files in a folder and its subfolders, in the order of their paths.

    Raises:
        DataError: The folder has no .txt file, a file cannot be read, or the text is too short.
    """
    paths = [path] if path.is_file() else _below(path, ".txt")
    if not paths:
        raise DataError(f"there is no .txt file in '{path}'; give a text file, or a folder of .txt files")
    data = text_of_bytes(str(path), _content(paths), form, {})
    data.path = path.absolute()
    others = sum(len(files) for _, _, files in os.walk(path)) - len(paths)  # below 0 for a file: nothing is walked
    if others > 0:
        data.notes = (f"read {len(paths):,} .txt files of '{path}'; not looked at: {others:,} of another kind",)
    return data


def text_set(root: str | Path | None, form: TextFormat) -> TextData:
    """Text of your own: ``text.txt``, or the .txt files of a folder ``text``, in one of the folders of data sets.

    Args:
        root: Folder to look in first. It may also be the text file itself, or a folder of .txt files.
        form: How the text is cut.

    Raises:
        DataError: There is no such text.
    """
    if root is not None:
        given = Path(root).expanduser()
        if given.is_file() or (given.is_dir() and any(given.glob("*.txt")) and not (given / "text.txt").is_file()):
            return text_in(given, form)
    places = [base / name for base in roots(root) for name in ("text.txt", "text")]
    found = next((place for place in places if place.exists()), None)
    if found is None:
        looked = ", ".join(f"'{place}'" for place in places)
        raise DataError(f"there is no text in {looked}; give --data FILE.txt, or a folder of .txt files")
    return text_in(found, form)


def text_of_ids(train: Any, val: Any, form: TextFormat) -> TextData:
    """Make data from ids of your own tokenizer.

    Args:
        train: (n,) whole numbers from 0, a tensor or an array.
        val: The same for validation.
        form: How the text is cut.

    Raises:
        DataError: The ids have another form, or are too few for a context.
    """
    parts = [_ids(given, what) for given, what in ((train, "the training text"), (val, "the validation text"))]
    largest = max(int(part.max()) for part in parts)
    info = DataInfo("text", "next_token", (), (form.length,), (), (), vocabulary=largest + 1)
    return TextData(info, parts[0], parts[1], form)


def _ids(given: Any, what: str) -> Tensor:
    """Copy ids to a tensor of a type that PyTorch can index and compare."""
    is_dense = not isinstance(given, Tensor) or (given.layout is torch.strided and given.device.type != "meta")
    ids = np.asarray(given.cpu() if isinstance(given, Tensor) else given) if is_dense else np.empty(0)
    if not isinstance(given, Tensor | np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
        shape = f"{tuple(given.shape)} of {given.dtype}" if hasattr(given, "shape") else f"a {type(given).__name__}"
        raise DataError(f"{what} is {shape}, but must be one axis of whole numbers, the ids of its tokens")
    if int(ids.min()) < 0:
        raise DataError(f"{what} has the id {int(ids.min())}, but ids start at 0")
    if int(ids.max()) > np.iinfo(np.int32).max:
        raise DataError(f"{what} has the id {int(ids.max()):,}, but ids are below 2^31")
    narrow = ids.dtype.itemsize == 1 and ids.dtype.kind == "u"
    return torch.from_numpy(ids.astype(np.uint8 if narrow else np.int32))


def _below(home: Path, suffix: str, left_out: frozenset[str] = frozenset()) -> list[Path]:
    """Return the files with a suffix in a folder and below it, in the order of their paths.

    Pipes, which block a reader, and broken links are left out.
    """
    found: list[Path] = []
    for folder, inner, names in os.walk(home):
        inner[:] = [name for name in inner if name not in left_out]
        paths = (Path(folder) / name for name in names if name.endswith(suffix))
        found += (path for path in paths if path.is_file())
    return sorted(found, key=lambda path: path.relative_to(home).as_posix())


def _content(paths: Iterable[Path]) -> bytes:
    """Return the bytes of all files, one after another."""
    parts: list[bytes] = []
    size = 0
    for path in paths:
        try:
            size += path.stat().st_size
            if size > LARGEST:
                raise DataError(f"the text is larger than {LARGEST:,} bytes at '{path}'; give less of it")
            parts.append(path.read_bytes())
        except OSError as error:
            raise DataError(f"'{path}' cannot be read: {error.strerror or error}") from None
    return b"".join(parts)


TEXT_SETS: dict[str, Callable[[str | Path | None, TextFormat], TextData]] = {
    "python-source": python_source,
    "text": text_set,
}
"""Name -> loader of texts. Its arguments are the folder to look in first and how the text is cut."""
